# SPDX-License-Identifier: Apache-2.0
"""Networks in the format that `convert` writes, and loading of that format."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..core.checks import check_integer
from ..io.atomic import PathLike
from ..io.schema import decode
from ..io.tensors import read_tensors
from ..io.unpickling import READ_ERRORS
from .generator import Generator
from .lucidrains import Lucidrains
from .stylegan1 import StyleGAN1, stylegan1
from .stylegan2 import Layer, StyleGAN2, ToRGB, stylegan2
from .stylegan3 import StyleGAN3, stylegan3
from .stylegan3_layout import Layout
from .wrapping import wrap

FORMAT = "stylefast-stylegan2-1"
FLOAT16_RESOLUTIONS = 4  # resolutions in float16 if the file does not say how many; NVlabs' default
FLOAT16_CLAMP = 256.0  # clamp of layers in float16 without a clamp; NVlabs' default
Network: TypeAlias = StyleGAN1 | StyleGAN2 | StyleGAN3 | Lucidrains


def load_converted(path: PathLike, *, device: str | torch.device = "cpu", precision: str = "float32") -> Generator:
    """Load a network from a file written by `convert`.

    Args:
        path: Path of the file.
        device: Device of the network.
        precision: "float32", or "float16" for the highest resolutions of a StyleGAN2.

    Returns:
        The generator. Truncation uses the mean of w from the training, if the file holds it.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged, has another format, or does not hold all tensors of a network, or if the
            network has no layers in float16.
    """
    tensors, header = read_tensors(path, FORMAT)
    try:
        network = build_network(tensors, header).to(device)
        if precision == "float16":
            if not isinstance(network, StyleGAN2):
                raise ValueError("precision must be float32, because only a StyleGAN2 has layers in float16")
            use_float16(network, decode(int, header.get("num_fp16_res", 0), "num_fp16_res"))
        return _wrap_network(network, Path(path).stem)
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


def use_float16(network: StyleGAN2, resolutions: int = 0) -> None:
    """Run the highest resolutions of a network in float16 and channels_last, as the code of NVlabs does.

    The mapping, the styles, the first resolution and the sum of the images stay in float32. Layers without a clamp are
    clamped at `FLOAT16_CLAMP`.

    Args:
        network: The network.
        resolutions: Number of resolutions. 0 is `FLOAT16_RESOLUTIONS`.

    Raises:
        ValueError: If `resolutions` is negative.

    References:
        Karras et al., "Training Generative Adversarial Networks with Limited Data", appendix C.
    """
    check_integer("num_fp16_res", resolutions, 0)
    blocks = list(network.synthesis.children())[1:]
    blocks = blocks[max(0, len(blocks) - (resolutions or FLOAT16_RESOLUTIONS)) :]
    for block in blocks:
        for layer in block.modules():
            if isinstance(layer, Layer):
                layer.is_half = True
            if isinstance(layer, Layer | ToRGB) and layer.clamp is None:
                layer.clamp = FLOAT16_CLAMP
    network.float16_resolutions = len(blocks)


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
