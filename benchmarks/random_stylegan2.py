# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 with random weights, as a file that `stylefast.generators.load` reads. The cost of an image is real."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from stylefast.generators.converted import FORMAT, describe_synthesis
from stylefast.generators.stylegan2 import StyleGAN2
from stylefast.io.tensors import write_tensors

MAPPING_LAYERS = 2  # a deeper mapping with random weights makes all latents alike


def write(path: Path, resolution: int, *, channel_base: int = 32_768, max_channels: int = 512) -> None:
    """Write a network with random weights. The defaults give the channels of configuration F of StyleGAN2.

    A block of R x R pixels has `min(channel_base / R, max_channels)` channels. Images have values around 0 and a
    standard deviation of about 0.3, so that few pixels are clamped. Equal arguments give equal weights.
    """
    rng = torch.Generator().manual_seed(resolution)
    n_blocks = int(math.log2(resolution)) - 1

    def normal(*shape: int, std: float = 1.0) -> Tensor:
        return std * torch.randn(shape, generator=rng)

    def channels(side: int) -> int:
        return min(channel_base // side, max_channels)

    def modulated(name: str, inputs: int, outputs: int, kernel: int, std: float) -> dict[str, Tensor]:
        width = max_channels
        return {
            f"{name}.affine.weight": normal(inputs, width, std=width**-0.5),
            f"{name}.affine.bias": torch.ones(inputs),
            f"{name}.weight": normal(outputs, inputs, kernel, kernel, std=std),
            f"{name}.bias": torch.zeros(outputs),
        }

    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    tensors = {"synthesis.const": normal(channels(4), 4, 4), "synthesis.filter": taps.outer(taps) / 64}
    for i in range(MAPPING_LAYERS):
        tensors[f"mapping.fc{i}.weight"] = normal(max_channels, max_channels, std=max_channels**-0.5)
        tensors[f"mapping.fc{i}.bias"] = torch.zeros(max_channels)
    for side in (4 << i for i in range(n_blocks)):
        width = channels(side)
        inputs = {"conv0": channels(side // 2), "conv1": width} if side > 4 else {"conv1": width}
        for conv, n_inputs in inputs.items():
            tensors |= modulated(f"synthesis.b{side}.{conv}", n_inputs, width, 3, 1.0)
            tensors[f"synthesis.b{side}.{conv}.noise"] = normal(side, side, std=0.1)
        tensors |= modulated(f"synthesis.b{side}.torgb", width, 3, 1, 0.2 * (n_blocks * width) ** -0.5)
    network = StyleGAN2(tensors)
    write_tensors(path, FORMAT, network.state_dict(), clamp=None, **describe_synthesis(network))
