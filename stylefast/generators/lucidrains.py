# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 of lucidrains in plain torch. Its modules have the names of the original, so that `wrap` recognises it.

It up-samples bilinearly, uses one noise in all layers with a weight per channel, has no gains, and takes one row of w
per block.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .modulated_conv import modulated_conv
from .stylegan2 import check_colours, fill, shape_of


class Lucidrains(nn.Module):
    """Network z [N, Z] -> `SE` -> w [N, D] -> `GE` -> image [N, C, R, R], nominally in [0, 1].

    Args:
        tensors: Tensors by name: SE.net.0.weight, ..., GE.initial_block, GE.blocks.0.conv1.weight, ... The learning
            rate of the mapping is already folded into them.

    Raises:
        ValueError: If a tensor is missing, unexpected, or has a different shape.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        with torch.device("meta"):
            self.SE: StyleVectorizer = StyleVectorizer(tensors)
            self.GE: Synthesis = Synthesis(tensors)
        fill(self, tensors)


class StyleVectorizer(nn.Module):
    """Mapping `w = f_n(...f_1(z / |z|))` with `f(x) = leaky_relu(W x + b, 0.2)`."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.net: nn.Sequential = nn.Sequential()
        while (name := f"SE.net.{len(self.net)}.weight") in tensors:
            outputs, inputs = shape_of(tensors, name, 2)
            self.net.extend([nn.Linear(inputs, outputs), nn.LeakyReLU(0.2)])
        if not self.net:
            raise ValueError("tensor SE.net.0.weight is missing")

    def forward(self, z: Tensor) -> Tensor:
        return self.net(F.normalize(z))


class Synthesis(nn.Module):
    """Synthesis with blocks of 4 x 4, 8 x 8, ..., R x R.

    The noise has shape [N, R, R, 1]. Each block takes the corner of its own size and transposes it.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        shape = shape_of(tensors, "GE.initial_block", 4)
        if shape[2:] != [4, 4]:
            raise ValueError(f"tensor GE.initial_block must have 4 x 4 pixels, got {shape}")
        self.initial_block: nn.Parameter = nn.Parameter(torch.empty(shape))
        self.initial_conv: nn.Conv2d = nn.Conv2d(shape[1], shape[1], 3, padding=1)
        self.blocks: nn.ModuleList = nn.ModuleList()
        while f"{(prefix := f'GE.blocks.{len(self.blocks)}.')}conv1.weight" in tensors:
            self.blocks.append(Block(tensors, prefix))
        check_colours(self)
        self.latent_dim: int = shape_of(tensors, "GE.blocks.0.to_style1.weight", 2)[1]
        self.num_layers: int = len(self.blocks)
        self.image_size: int = 2 << self.num_layers

    def forward(self, w: Tensor, input_noise: Tensor) -> Tensor:
        x = self.initial_conv(self.initial_block.expand(len(w), -1, -1, -1))
        x, image = self.blocks[0](x, None, w[:, 0], input_noise)
        for row, block in zip(w[:, 1:].unbind(1), self.blocks[1:], strict=True):
            x, image = block(_twice(x), _blurred(_twice(image)), row, input_noise)
        return image


class Block(nn.Module):
    """Two modulated convolutions and toRGB, with the style `s = 1 + A w + a`.

    Each convolution computes `leaky_relu(conv(x, W s) / |W s| + c noise + b, 0.2)`.
    """

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        super().__init__()
        outputs, inputs, *_ = shape_of(tensors, f"{prefix}conv1.weight", 4)
        width = shape_of(tensors, f"{prefix}to_style1.weight", 2)[1]
        self.to_style1: nn.Linear = nn.Linear(width, inputs)
        self.to_noise1: nn.Linear = nn.Linear(1, outputs)
        self.conv1: ModulatedConv = ModulatedConv(inputs, outputs, 3)
        self.to_style2: nn.Linear = nn.Linear(width, outputs)
        self.to_noise2: nn.Linear = nn.Linear(1, outputs)
        self.conv2: ModulatedConv = ModulatedConv(outputs, outputs, 3)
        self.to_rgb: ToRGB = ToRGB(width, outputs, shape_of(tensors, f"{prefix}to_rgb.conv.weight", 4)[0])

    def forward(self, x: Tensor, image: Tensor | None, w: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        noise = noise[:, : x.shape[2], : x.shape[3]]
        x = self.conv1(x, self.to_style1(w))
        x = F.leaky_relu_(x.add_(self.to_noise1(noise).permute(0, 3, 2, 1)), 0.2)
        x = self.conv2(x, self.to_style2(w))
        x = F.leaky_relu_(x.add_(self.to_noise2(noise).permute(0, 3, 2, 1)), 0.2)
        colours = self.to_rgb(x, w)
        return x, colours if image is None else image.add_(colours)


class ToRGB(nn.Module):
    """Modulated convolution `conv1x1(x, W s)` without division by a norm."""

    def __init__(self, width: int, inputs: int, colours: int) -> None:
        super().__init__()
        self.to_style: nn.Linear = nn.Linear(width, inputs)
        self.conv: ModulatedConv = ModulatedConv(inputs, colours, 1)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return self.conv(x, self.to_style(w))


class ModulatedConv(nn.Module):
    """Modulated convolution. Its input `style` is the scale minus one."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.weight: nn.Parameter = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        if self.weight.shape[-1] == 1:
            return F.conv2d(x * (style + 1)[:, :, None, None], self.weight)
        return modulated_conv(x, style + 1, self.weight)


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _blurred(x: Tensor) -> Tensor:
    """Convolve the image with `[1, 2, 1] / 4` along both axes, mirrored at its border."""
    taps = x.new_tensor([1, 2, 1]) / 4
    depthwise = torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), depthwise, groups=x.shape[1])
