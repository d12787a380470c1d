# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 of rosinality and mmagic."""

import torch
from torch import Tensor, nn

from .common import CHANNELS, WIDTH, Conv, affine, holder, skip


class ListNetwork(nn.Module):
    """Base class of the networks of rosinality and mmagic.

    The input is a list of latents. The modules are conv1, to_rgb1, convs and to_rgbs. Noise is random by default.
    """

    conv: type[nn.Module]

    def __init__(self) -> None:
        super().__init__()
        first, *rest = CHANNELS.items()
        self.first = nn.Parameter(torch.randn(1, first[1], first[0], first[0]))
        self.conv1 = holder(conv=self.conv(first[1], first[1], first[0]))
        self.to_rgb1 = holder(conv=self.conv(first[1], 3, first[0], rgb=True))
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        before = first[1]
        for size, channels in rest:
            self.convs.append(holder(conv=self.conv(before, channels, size, up=True)))
            self.convs.append(holder(conv=self.conv(channels, channels, size)))
            self.to_rgbs.append(holder(conv=self.conv(channels, 3, size, rgb=True)))
            before = channels
        self.rows = 2 * len(CHANNELS)

    def images(self, latent: Tensor, randomize_noise: bool) -> Tensor:
        mode = "random" if randomize_noise else "const"
        x = self.conv1.conv(self.first.repeat(len(latent), 1, 1, 1), latent[:, 0], mode)
        image = self.to_rgb1.conv(x, latent[:, 1], mode)
        for i, to_rgb in enumerate(self.to_rgbs):
            x = self.convs[2 * i].conv(x, latent[:, 2 * i + 1], mode)
            x = self.convs[2 * i + 1].conv(x, latent[:, 2 * i + 2], mode)
            image = skip(image, to_rgb.conv(x, latent[:, 2 * i + 3], mode))
        return image


class RosinalityConv(Conv):
    def __init__(self, before: int, after: int, size: int, *, up: bool = False, rgb: bool = False) -> None:
        super().__init__(before, after, size, up=up, rgb=rgb)
        self.modulation = affine(before)

    def forward(self, x: Tensor, w: Tensor, mode: str) -> Tensor:
        return self.run(
            x, self.modulation(w).view(len(x), 1, self.weight.shape[1], 1, 1)[:, 0, :, 0, 0], self.noise_of(x, mode)
        )


class Rosinality(ListNetwork):
    conv = RosinalityConv

    def __init__(self) -> None:
        super().__init__()
        self.style_dim, self.n_latent = WIDTH, self.rows
        self.style = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2))

    def forward(self, styles, input_is_latent=False, randomize_noise=True):
        latent = styles[0] if input_is_latent else self.style(styles[0])
        latent = latent if latent.ndim == 3 else latent[:, None].repeat(1, self.n_latent, 1)
        return self.images(latent, randomize_noise), None


class MMagicConv(Conv):
    def __init__(self, before: int, after: int, size: int, *, up: bool = False, rgb: bool = False) -> None:
        super().__init__(before, after, size, up=up, rgb=rgb)
        self.style_modulation = affine(before)

    def forward(self, x: Tensor, w: Tensor, mode: str) -> Tensor:
        return self.run(x, self.style_modulation(w), self.noise_of(x, mode))


class MMagic(ListNetwork):
    conv = MMagicConv

    def __init__(self) -> None:
        super().__init__()
        self.noise_size, self.cond_size, self.num_latents = WIDTH, None, self.rows
        self.style_mapping = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2))

    def forward(self, styles, label=None, input_is_latent=False, randomize_noise=True, return_latent_only=False):
        latent = styles[0] if input_is_latent else self.style_mapping(styles[0])
        latent = latent if latent.ndim == 3 else latent[:, None].repeat(1, self.num_latents, 1)
        return latent if return_latent_only else self.images(latent, randomize_noise)
