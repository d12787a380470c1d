# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 as lucidrains has it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import CHANNELS, WIDTH, affine, holder, modulated, skip, twice


class LucidConv(nn.Module):
    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, kernel, kernel) / (3 * before**0.5))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return modulated(x, self.weight, y + 1, demodulate=self.weight.shape[-1] > 1)


class LucidRGB(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_style, self.conv = affine(channels, one=False), LucidConv(channels, 3, 1)

    def forward(self, x: Tensor, image: Tensor | None, w: Tensor) -> Tensor:
        return skip(image, self.conv(x, self.to_style(w)) / 4)


class LucidBlock(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.to_style1, self.to_noise1 = affine(before, one=False), nn.Linear(1, after)
        self.conv1 = LucidConv(before, after, 3)
        self.to_style2, self.to_noise2 = affine(after, one=False), nn.Linear(1, after)
        self.conv2 = LucidConv(after, after, 3)
        self.to_rgb = LucidRGB(after)

    def forward(self, x: Tensor, image: Tensor | None, w: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        noise = noise[:, : x.shape[2], : x.shape[3]]
        for i in (1, 2):
            to_style, to_noise = self.get_submodule(f"to_style{i}"), self.get_submodule(f"to_noise{i}")
            x = self.get_submodule(f"conv{i}")(x, to_style(w)) + to_noise(noise).permute(0, 3, 2, 1)
            x = F.leaky_relu(x, 0.2, inplace=True)
        return x, self.to_rgb(x, image, w)


class LucidGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image_size, self.latent_dim, self.num_layers = 16, WIDTH, len(CHANNELS)
        self.initial_block = nn.Parameter(torch.randn(1, CHANNELS[4], 4, 4))
        self.blocks, before = nn.ModuleList(), CHANNELS[4]
        for channels in CHANNELS.values():
            self.blocks.append(LucidBlock(before, channels))
            before = channels

    def forward(self, styles: Tensor, input_noise: Tensor) -> Tensor:
        x, image = self.initial_block.expand(len(styles), -1, -1, -1), None
        for i, (w, block) in enumerate(zip(styles.transpose(0, 1), self.blocks, strict=True)):
            x, image = block(twice(x) if i else x, image, w, input_noise)
        return image + 0.5


class LucidVectorizer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(F.normalize(x))


def lucidrains() -> nn.Module:
    """S and G are trained, SE and GE are their moving averages; D is of no interest."""
    parts = {"S": LucidVectorizer(), "G": LucidGenerator(), "SE": LucidVectorizer(), "GE": LucidGenerator()}
    return holder(D=nn.Linear(2, 2), **parts)
