# SPDX-License-Identifier: Apache-2.0
"""Fingerprint and precision of a generator, which catalogs and manifests store to recognise it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from .sites import Site


def compute_fingerprint(network: nn.Module, sites: Iterable[Site]) -> dict[str, str]:
    """Return the sha256 of the site table ("sites") and of all tensors ("weights").

    The hash of the tensors covers names, dtypes, shapes and bytes.
    """
    table = json.dumps([asdict(site) for site in sites])
    weights = hashlib.sha256()
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return {"sites": hashlib.sha256(table.encode()).hexdigest(), "weights": weights.hexdigest()}


def read_precision(device: torch.device) -> dict[str, bool]:
    """Return the settings that affect the pixels: on a GPU, whether cuDNN may use TF32 ("tf32")."""
    if device.type != "cuda":
        return {}
    try:
        return {"tf32": torch.backends.cudnn.allow_tf32}
    except RuntimeError:  # torch refuses the older setting while the newer is in use
        conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
        return {"tf32": conv.fp32_precision == "tf32"}
