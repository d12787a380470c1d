# SPDX-License-Identifier: Apache-2.0
"""StyleGAN1 of lernapparat's port."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import CHANNELS, WIDTH, affine, holder, normalized, twice


class Mapping(nn.Module):
    """Mapping that always returns 18 rows, whatever number the synthesis needs."""

    def __init__(self) -> None:
        super().__init__()
        self.dense0 = nn.Linear(WIDTH, WIDTH)

    def forward(self, z: Tensor) -> Tensor:
        return F.leaky_relu(self.dense0(normalized(z)), 0.2).unsqueeze(1).expand(-1, 18, -1)


class StyleMod(nn.Module):
    """Map w [N, 1, D] to [N, 2, C, 1, 1]: the scale minus one, and the bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.lin = channels, affine(2 * channels, one=False)

    def forward(self, latent: Tensor) -> Tensor:
        return self.lin(latent).view(-1, 2, self.channels, 1, 1)


class Styles(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        names = {f"{size}x{size}_{i}": channels for size, channels in CHANNELS.items() for i in (0, 1)}
        self.style_layers = nn.ModuleDict({name: StyleMod(channels) for name, channels in names.items()})

    def forward(self, w: Tensor) -> list[Tensor]:
        return [layer(w[:, i : i + 1]) for i, layer in enumerate(self.style_layers.values())]


class Noise(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels))
        self.noise = None

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        noise = self.noise if noise is None else noise
        noise = torch.randn(len(x), 1, *x.shape[2:]) if noise is None else noise
        return x + self.weight.view(1, -1, 1, 1) * noise


class Epilogue(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.top_epi = nn.Sequential()
        self.top_epi.add_module("noise", Noise(channels))
        self.top_epi.add_module("activation", nn.LeakyReLU(0.2))
        self.top_epi.add_module("instance_norm", nn.InstanceNorm2d(channels))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return self.top_epi(x) * (style[:, 0] + 1.0) + style[:, 1]


class Block(nn.Module):
    def __init__(self, before: int, channels: int, size: int) -> None:
        super().__init__()
        if before:
            self.conv0_up = nn.Conv2d(before, channels, 3, padding=1)
        else:
            self.const = nn.Parameter(torch.randn(1, channels, size, size))
        self.epi1, self.epi2 = Epilogue(channels), Epilogue(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor | None, styles: list[Tensor]) -> Tensor:
        x = self.const.expand(len(styles[0]), -1, -1, -1) if x is None else self.conv0_up(twice(x))
        return self.epi2(self.conv1(self.epi1(x, styles[0])), styles[1])


class Synthesis(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, before = nn.ModuleDict(), 0
        for size, channels in CHANNELS.items():
            self.blocks[f"{size}x{size}"] = Block(before, channels, size)
            before = channels
        self.torgb = nn.Conv2d(before, 3, 1)

    def forward(self, styles: list[Tensor]) -> Tensor:
        x = None
        for i, block in enumerate(self.blocks.values()):
            x = block(x, styles[2 * i : 2 * i + 2])
        return self.torgb(x) / 2


def lernapparat() -> nn.Module:
    truncation = nn.Module()
    truncation.register_buffer("avg_latent", torch.randn(WIDTH))
    return holder(g_mapping=Mapping(), truncation=truncation, g_style=Styles(), g_synthesis=Synthesis())
