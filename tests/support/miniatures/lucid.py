# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 of lucidrains; every image has its own convolution weights."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import CHANNELS, WIDTH, affine, holder, twice


class LucidConv(nn.Module):
    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, kernel, kernel) / (3 * before**0.5))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        images, kernel = [], self.weight.shape[-1]
        for image, style in zip(x, y, strict=True):
            weight = self.weight * (style[None, :, None, None] + 1)
            if kernel > 1:
                weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
            images.append(F.conv2d(image[None], weight, padding=kernel // 2))
        return torch.cat(images)


class LucidBlur(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("f", torch.tensor([1.0, 2, 1]))

    def forward(self, x: Tensor) -> Tensor:
        taps = torch.outer(self.f, self.f) / 16
        return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect").flatten(0, 1)[:, None], taps[None, None]).view_as(x)


class LucidRGB(nn.Module):
    def __init__(self, channels: int, last: bool) -> None:
        super().__init__()
        self.to_style, self.conv = affine(channels, one=False), LucidConv(channels, 3, 1)
        self.upsample = None if last else nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), LucidBlur())

    def forward(self, x: Tensor, image: Tensor | None, w: Tensor) -> Tensor:
        image = self.conv(x, self.to_style(w)) + (0 if image is None else image)
        return image if self.upsample is None else self.upsample(image)


class LucidBlock(nn.Module):
    def __init__(self, before: int, after: int, last: bool) -> None:
        super().__init__()
        self.to_style1, self.to_noise1 = affine(before, one=False), nn.Linear(1, after)
        self.conv1 = LucidConv(before, after, 3)
        self.to_style2, self.to_noise2 = affine(after, one=False), nn.Linear(1, after)
        self.conv2 = LucidConv(after, after, 3)
        self.to_rgb = LucidRGB(after, last)

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
        self.initial_conv = nn.Conv2d(CHANNELS[4], CHANNELS[4], 3, padding=1)
        self.blocks, before = nn.ModuleList(), CHANNELS[4]
        for size, channels in CHANNELS.items():
            self.blocks.append(LucidBlock(before, channels, last=size == self.image_size))
            before = channels

    def forward(self, styles: Tensor, input_noise: Tensor) -> Tensor:
        x, image = self.initial_conv(self.initial_block.expand(len(styles), -1, -1, -1)), None
        for i, (w, block) in enumerate(zip(styles.transpose(0, 1), self.blocks, strict=True)):
            x, image = block(twice(x) if i else x, image, w, input_noise)
        return image


class LucidLinear(nn.Linear):
    def __init__(self, rate: float) -> None:
        super().__init__(WIDTH, WIDTH)
        self.rate = rate
        with torch.no_grad():
            self.weight /= rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.rate, self.bias * self.rate)


class LucidVectorizer(nn.Module):
    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        self.net = nn.Sequential(LucidLinear(rate), nn.LeakyReLU(0.2), LucidLinear(rate), nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(F.normalize(x))


def lucidrains(rate: float = 0.1) -> nn.Module:
    """Network with the trained parts S and G, their moving averages SE and GE, and D, which is unused."""
    parts = {"S": LucidVectorizer(rate), "G": LucidGenerator(), "SE": LucidVectorizer(rate), "GE": LucidGenerator()}
    return holder(D=nn.Linear(2, 2), **parts)
