# SPDX-License-Identifier: Apache-2.0
"""StyleGAN1 (arXiv 1812.04948) in plain torch.

Sizes come from the tensors. Constant gains (equalised learning rates) are already folded into them, so that each layer
computes exactly its formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .generator import Generator
from .sites import FIRST_HALF, Rule
from .stylegan2 import MappingNetwork, fill, shape_of

RULES = (
    Rule(
        r"synthesis\.(?P<site>b\d+\.conv[01])\.affine",
        r"synthesis.\g<site>.norm",
        reads="output",
        scale=FIRST_HALF,
        normalized=True,
    ),
)


def stylegan1(network: StyleGAN1, *, name: str = "stylegan1") -> Generator:
    """Wrap the network as a generator with the sites b4.conv0, b4.conv1, b8.conv0, ... A style is the scale minus one.

    The sites of StyleGAN1 are the outputs of the instance normalisations. The output layer has no style.
    """
    return Generator(
        network,
        RULES,
        name=name,
        z_dim=network.mapping.z_dim,
        mapping=network.mapping,
        synthesis=network.synthesis,
        w_mean=network.w_avg,
        check=False,
    )


class StyleGAN1(nn.Module):
    """Network z [N, Z] -> `mapping` -> w [N, rows, D] -> `synthesis` -> image [N, C, H, W], nominally in [-1, 1].

    Args:
        tensors: Tensors by their names in the state of this module. They determine the architecture: the network blurs
            after up-sampling if there is a tensor synthesis.blur.

    Raises:
        ValueError: If a tensor is missing, unexpected, or has a different shape.

    References:
        Karras et al., "A Style-Based Generator Architecture for Generative Adversarial Networks", section 2.
    """

    w_avg: Tensor | None

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        with torch.device("meta"):
            self.synthesis: Synthesis = Synthesis(tensors)
            self.mapping: MappingNetwork = MappingNetwork(tensors, self.synthesis.rows)
            self.register_buffer("w_avg", torch.empty_like(tensors["w_avg"]) if "w_avg" in tensors else None)
        fill(self, tensors)


class Synthesis(nn.Module):
    """Blocks b4, b8, ... of two layers each, with one row of w per layer, and a convolution that writes colours."""

    blur: Tensor | None

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.const: nn.Parameter = nn.Parameter(torch.empty(shape_of(tensors, "synthesis.const", 3)))
        blur = shape_of(tensors, "synthesis.blur", 2) if "synthesis.blur" in tensors else None
        if blur and (blur[0] != blur[1] or blur[0] % 2 == 0):
            raise ValueError(f"tensor synthesis.blur must be a square with odd sides, got {blur}")
        self.register_buffer("blur", None if blur is None else torch.empty(blur))
        self.blocks: list[Block] = []
        number = 4
        channels, height, width = self.const.shape
        while f"synthesis.b{number}.conv1.weight" in tensors:
            block = Block(tensors, f"synthesis.b{number}.", channels, (height, width), is_first=number == 4)
            self.add_module(f"b{number}", block)
            self.blocks.append(block)
            self.image_size: tuple[int, int] = height, width
            channels, number, height, width = len(block.conv1.bias), 2 * number, 2 * height, 2 * width
        if not self.blocks:
            raise ValueError("tensor synthesis.b4.conv1.weight is missing")
        self.rows: int = 2 * len(self.blocks)
        colours = shape_of(tensors, "synthesis.torgb.weight", 4)[0]
        self.torgb: nn.Conv2d = nn.Conv2d(channels, colours, kernel_size=1)

    def forward(self, w: Tensor) -> Tensor:
        x = self.const.repeat(len(w), 1, 1, 1)
        for i, block in enumerate(self.blocks):
            x = block(x, w[:, 2 * i :], self.blur)
        return self.torgb(x)


class Block(nn.Module):
    """Block of one resolution: up-sampling convolution (not in the first block) and convolution."""

    def __init__(
        self, tensors: Mapping[str, Tensor], prefix: str, inputs: int, size: tuple[int, int], *, is_first: bool
    ) -> None:
        super().__init__()
        self.conv0: Layer = Layer(tensors, f"{prefix}conv0.", inputs, size, "none" if is_first else "up")
        self.conv1: Layer = Layer(tensors, f"{prefix}conv1.", len(self.conv0.bias), size, "same")

    def forward(self, x: Tensor, w: Tensor, blur: Tensor | None) -> Tensor:
        if self.conv0.weight is not None:
            x = convolve_up(x, self.conv0.weight, blur)
        x = self.conv0(x, w[:, 0])
        assert self.conv1.weight is not None
        x = F.conv2d(x, self.conv1.weight, padding=self.conv1.weight.shape[-1] // 2)
        return self.conv1(x, w[:, 1])


class Layer(nn.Module):
    """Weights of a convolution, and what follows it: `(s + 1) normalise(leaky_relu(x + noise + b, 0.2)) + t`.

    The style is `(s, t) = A w + a`. The first layer follows the constant instead of a convolution.
    """

    noise: Tensor | None
    noise_strength: Tensor | None

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        prefix: str,
        inputs: int,
        size: tuple[int, int],
        convolution: Literal["none", "same", "up"],
    ) -> None:
        super().__init__()
        weight, channels = None, inputs
        if convolution != "none":
            weight = shape_of(tensors, f"{prefix}weight", 4)
            channels, side = weight[0], weight[2]
            if weight[1:] != [inputs, side, side] or side % 2 != (convolution == "same") or side == 0:
                parity = "odd" if convolution == "same" else "even"
                raise ValueError(
                    f"tensor {prefix}weight must have shape [O, {inputs}, k, k] with {parity} k, got {weight}"
                )
        has_noise = f"{prefix}noise" in tensors
        self.weight: nn.Parameter | None = None if weight is None else nn.Parameter(torch.empty(weight))
        self.bias: nn.Parameter = nn.Parameter(torch.empty(channels))
        self.register_buffer("noise", torch.empty(size) if has_noise else None)
        self.register_buffer("noise_strength", torch.empty(channels) if has_noise else None)
        self.norm: nn.InstanceNorm2d = nn.InstanceNorm2d(channels, eps=1e-8)
        self.affine: nn.Linear = nn.Linear(shape_of(tensors, f"{prefix}affine.weight", 2)[1], 2 * channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        if self.noise is not None and self.noise_strength is not None:
            x = x.add_(self.noise * self.noise_strength[:, None, None])
        x = self.norm(F.leaky_relu_(x.add_(self.bias[:, None, None]), 0.2))
        scale, shift = self.affine(w)[:, :, None, None].chunk(2, dim=1)
        return x.mul_(scale + 1).add_(shift)


def convolve_up(x: Tensor, weight: Tensor, blur: Tensor | None) -> Tensor:
    """Up-sample by a transposed convolution with stride 2, and blur.

    Args:
        x: Input, [N, I, H, W].
        weight: Weights, [O, I, k, k], with even k.
        blur: Filter [f, f] with odd f, or None.

    Returns:
        Output, [N, O, 2 H, 2 W].
    """
    x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2, padding=weight.shape[-1] // 2 - 1)
    if blur is None:
        return x
    return F.conv2d(x, blur.expand(x.shape[1], 1, *blur.shape), padding=len(blur) // 2, groups=x.shape[1])
