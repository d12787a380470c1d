# SPDX-License-Identifier: Apache-2.0
"""Networks in the format that `convert` writes, and loading of that format."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..io.atomic import PathLike
from ..io.schema import decode
from ..io.tensors import read_tensors
from ..io.unpickling import READ_ERRORS
from .generator import Generator
from .lucidrains import Lucidrains
from .stylegan1 import StyleGAN1, stylegan1
from .stylegan2 import StyleGAN2, stylegan2
from .stylegan3 import StyleGAN3, stylegan3
from .stylegan3_layout import Layout
from .wrapping import wrap

FORMAT = "stylefast-stylegan2-1"
Network: TypeAlias = StyleGAN1 | StyleGAN2 | StyleGAN3 | Lucidrains


def load_converted(path: PathLike, *, device: str | torch.device = "cpu") -> Generator:
    """Load a network from a file written by `convert`.

    Args:
        path: Path of the file.
        device: Device of the network.

    Returns:
        The generator. Truncation uses the mean of w from the training, if the file holds it.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged, has another format, or does not hold all tensors of a network.
    """
    tensors, header = read_tensors(path, FORMAT)
    try:
        return _wrap_network(build_network(tensors, header).to(device), Path(path).stem)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, *READ_ERRORS) as error:  # a pass with tensors that do not fit together raises RuntimeError
        raise ValueError(f"{os.fspath(path)} cannot be used: {error or type(error).__name__}") from error


def _wrap_network(network: Network, name: str) -> Generator:
    if isinstance(network, StyleGAN1):
        return stylegan1(network, name=name)
    if isinstance(network, StyleGAN3):
        return stylegan3(network, name=name)
    return stylegan2(network, name=name) if isinstance(network, StyleGAN2) else wrap(network, name=name, check=False)


def build_network(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Network:
    """Build the network that the tensors and the options in the header belong to.

    Raises:
        KeyError: If an option is missing.
        ValueError: If a tensor is missing, unexpected, or has a different shape, or an option is out of range.
    """
    if "synthesis.input.freqs" in tensors:
        return StyleGAN3(tensors, Layout.from_json(header["layout"]))
    if "synthesis.torgb.weight" in tensors:
        return StyleGAN1(tensors)
    clamp = decode(float | None, header.get("clamp"), "clamp")
    return Lucidrains(tensors) if "GE.initial_block" in tensors else StyleGAN2(tensors, clamp=clamp)


def describe_synthesis(network: Network) -> dict[str, Any]:
    """Return the entries of the header that follow from the network: architecture, resolution and noise."""
    if isinstance(network, Lucidrains):
        return {"architecture": "skip", "resolution": network.GE.image_size, "noise": True}
    height, width = network.synthesis.image_size
    resolution = height if height == width else [height, width]
    if isinstance(network, StyleGAN3):
        return {"architecture": "alias-free", "resolution": resolution, "noise": False}
    noise = any(name.endswith(".noise") for name, _ in network.named_buffers())
    if isinstance(network, StyleGAN1):
        return {"architecture": "instance norm", "resolution": resolution, "noise": noise}
    blocks = list(network.synthesis.children())
    all_have_torgb = all(block.torgb is not None for block in blocks)
    return {
        "architecture": "skip" if all_have_torgb else "orig" if blocks[-1].skip is None else "resnet",
        "resolution": resolution,
        "noise": noise,
    }
