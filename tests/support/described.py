# SPDX-License-Identifier: Apache-2.0
"""A small network with the module names and calls of the StyleGAN2 of GFPGAN and BasicSR."""

import torch
import torch.nn.functional as F
from miniatures.common import CHANNELS, WIDTH, affine, modulated, skip, twice
from torch import Tensor, nn


class ModulatedConv(nn.Module):
    def __init__(self, before: int, after: int, kernel: int, *, up: bool = False) -> None:
        super().__init__()
        self.up, self.demodulate = up, kernel == 3
        self.modulation = affine(before)
        self.weight = nn.Parameter(torch.randn(1, after, before, kernel, kernel) / (3 * before**0.5))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = twice(x) if self.up else x
        return modulated(x, self.weight[0], self.modulation(w) / 2, demodulate=self.demodulate)


class StyledLayer(nn.Module):
    """A convolution with noise, which is random unless it is given, or a layer that writes colours."""

    def __init__(self, before: int, after: int, *, kernel: int = 3, up: bool = False) -> None:
        super().__init__()
        self.modulated_conv = ModulatedConv(before, after, kernel, up=up)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None) -> Tensor:
        x = self.modulated_conv(x, w)
        return x if noise is None else F.leaky_relu(x + noise / 4, 0.2) * 2**0.5


class StyleGAN2GeneratorClean(nn.Module):
    """StyleGAN2 of 16 x 16 pixels that takes lists of latents and returns (image, latents or None)."""

    def __init__(self) -> None:
        super().__init__()
        self.style_mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2))
        first, *rest = CHANNELS.values()
        self.constant_input = nn.Parameter(torch.randn(1, first, 4, 4))
        self.style_conv1, self.to_rgb1 = StyledLayer(first, first), StyledLayer(first, 3, kernel=1)
        self.style_convs, self.to_rgbs, self.noises = nn.ModuleList(), nn.ModuleList(), nn.Module()
        for before, channels in zip((first, *rest), rest, strict=False):
            self.style_convs += [StyledLayer(before, channels, up=True), StyledLayer(channels, channels)]
            self.to_rgbs.append(StyledLayer(channels, 3, kernel=1))
        for i in range(2 * len(CHANNELS) - 1):
            size = 4 << (i + 1) // 2
            self.noises.register_buffer(f"noise{i}", torch.randn(1, 1, size, size))
        self.num_latent, self.num_style_feat = 2 * len(CHANNELS), WIDTH

    def forward(self, styles, input_is_latent=False, randomize_noise=True):
        latent = styles[0] if input_is_latent else self.style_mlp(styles[0])
        latent = latent if latent.ndim == 3 else latent[:, None].repeat(1, self.num_latent, 1)
        noise = list(self.noises.buffers())
        noise = [torch.randn(len(latent), *x.shape[1:]) for x in noise] if randomize_noise else noise
        x = self.style_conv1(self.constant_input.repeat(len(latent), 1, 1, 1), latent[:, 0], noise[0])
        image = self.to_rgb1(x, latent[:, 1])
        for i, to_rgb in enumerate(self.to_rgbs):
            for j in (1, 2):
                x = self.style_convs[2 * i + j - 1](x, latent[:, 2 * i + j], noise[2 * i + j])
            image = skip(image, to_rgb(x, latent[:, 2 * i + 3]))
        return image, None
