# SPDX-License-Identifier: Apache-2.0
"""Fingerprint of a generator, which catalogs and manifests store to recognise it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict

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
