# SPDX-License-Identifier: Apache-2.0
"""Common parts of the small networks: sizes, a modulated convolution, noise."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 12
CHANNELS = {4: 8, 8: 8, 16: 6}
ROOT_2 = 2**0.5


def normalized(z: Tensor) -> Tensor:
    return z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def affine(channels: int, *, one: bool = True) -> nn.Linear:
    """Affine layer for styles around one, or around zero if the code base adds the one itself."""
    layer = nn.Linear(WIDTH, channels)
    nn.init.constant_(layer.bias, float(one))
    return layer


def holder(**children: nn.Module) -> nn.Module:
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


def modulated(x: Tensor, weight: Tensor, style: Tensor, *, demodulate: bool = True) -> Tensor:
    x = F.conv2d(x * style.to(x.dtype)[:, :, None, None], weight.to(x.dtype), padding=weight.shape[-1] // 2)
    if not demodulate:
        return x
    norm = (style.square() @ weight.square().sum((2, 3)).T + 1e-8).rsqrt()
    return x * norm.to(x.dtype)[:, :, None, None]


def twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear")


class Conv(nn.Module):
    """Modulated convolution, noise, activation. Subclasses use the names of a code base."""

    def __init__(self, before: int, after: int, size: int, *, up: bool = False, rgb: bool = False) -> None:
        super().__init__()
        self.up, self.rgb = up, rgb
        kernel = 1 if rgb else 3
        self.weight = nn.Parameter(torch.randn(3 if rgb else after, before, kernel, kernel) / (3 * before**0.5))
        self.register_buffer("noise", torch.randn(1, 1, size, size) / 4)

    def run(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        if self.rgb:
            return modulated(x, self.weight, style / 2, demodulate=False)
        x = modulated(twice(x) if self.up else x, self.weight, style)
        x = x if noise is None else x + noise.to(x.dtype)
        return F.leaky_relu(x, 0.2) * ROOT_2

    def noise_of(self, x: Tensor, mode: str) -> Tensor | None:
        if mode == "none":
            return None
        return torch.randn(len(x), *self.noise.shape[1:]) / 4 if mode == "random" else self.noise


def with_colours(network: nn.Module, colours: int) -> nn.Module:
    """Change the toRGB layers of a network, in place, so that its images have `colours` channels; return it."""
    for module in network.modules():
        for name, x in [*module.named_parameters(recurse=False)]:
            if len(x) == 3 and (name == "bias" or x.shape[2:] == (1, 1)):
                setattr(module, name, nn.Parameter(x.detach()[torch.arange(colours) % 3]))
    return network


def skip(image: Tensor | None, y: Tensor) -> Tensor:
    return y if image is None else twice(image) + y
