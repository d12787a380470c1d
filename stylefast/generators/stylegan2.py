# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 (arXiv 1912.04958) in plain torch, which runs trained weights without compiled extensions.

Sizes come from the tensors. Constant gains (equalised learning rates, noise strengths) are already folded into them, so
that each layer computes exactly its formula. The contribution of a class to the first mapping layer is in its bias.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.images import CHANNELS, MODES
from .generator import Generator
from .modulated_conv import modulated_conv, upsample
from .sites import Rule
from .stylegan2_native import native_synthesis

RULES = (
    Rule(r"synthesis\.(?P<site>b\d+\.conv[01])\.affine", r"synthesis.\g<site>"),
    Rule(r"synthesis\.(?P<site>b\d+\.torgb)\.affine", r"synthesis.\g<site>", kind="rgb"),
)


def stylegan2(network: StyleGAN2, *, name: str = "stylegan2") -> Generator:
    """Wrap the network as a generator with the sites b4.conv1, b4.torgb, b8.conv0, b8.conv1, ..."""
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


class StyleGAN2(nn.Module):
    """Network z [N, Z] -> `mapping` -> w [N, rows, D] -> `synthesis` -> image [N, C, H, W], nominally in [-1, 1].

    Args:
        tensors: Tensors by their names in the state of this module. They determine the architecture: a `torgb` in every
            block ("skip"), or only in the last block, with a `skip` path in every block after the first ("resnet") or
            without `skip` paths ("orig").
        clamp: Bound of the output of every layer, or None.

    Raises:
        ValueError: If a tensor is missing, unexpected, or has a different shape.

    References:
        Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", sections 2 and 4.
        Karras et al., "A Style-Based Generator Architecture for Generative Adversarial Networks", for z, the mapping
        and the noise.
    """

    w_avg: Tensor | None
    float16_resolutions: int = 0  # number of the highest resolutions that run in float16

    def __init__(self, tensors: Mapping[str, Tensor], *, clamp: float | None = None) -> None:
        super().__init__()
        with torch.device("meta"):
            self.synthesis: Synthesis = Synthesis(tensors, clamp)
            self.mapping: MappingNetwork = MappingNetwork(tensors, self.synthesis.rows)
            self.register_buffer("w_avg", torch.empty_like(tensors["w_avg"]) if "w_avg" in tensors else None)
        fill(self, tensors)

    def native_synthesis(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the synthesis from styles and w by fused ops, as `Generator.use_engine("native")` runs it."""
        return native_synthesis(self.synthesis)


class MappingNetwork(nn.Module):
    """Mapping `w = f_n(...f_1(z / rms(z)))`, equal for all rows, with `f(x) = sqrt(2) leaky_relu(W x + b, 0.2)`.

    If the network has classes and does not fold them into a bias, z is concatenated with the embedding `label` first.
    """

    label: Tensor | None
    fc0: nn.Linear

    def __init__(self, tensors: Mapping[str, Tensor], rows: int) -> None:
        super().__init__()
        self.rows: int = rows
        depth = 0
        while (weight := tensors.get(f"mapping.fc{depth}.weight")) is not None:
            self.add_module(f"fc{depth}", nn.Linear(weight.shape[1], weight.shape[0]))
            depth += 1
        if depth == 0:
            raise ValueError("tensor mapping.fc0.weight is missing")
        n_label = shape_of(tensors, "mapping.label", 1) if "mapping.label" in tensors else None
        self.register_buffer("label", None if n_label is None else torch.empty(n_label))
        self.z_dim: int = self.fc0.in_features - (0 if n_label is None else n_label[0])

    def forward(self, z: Tensor) -> Tensor:
        z = z if self.label is None else torch.cat((z, self.label.expand(len(z), -1)), dim=1)
        x = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for linear in self.children():
            x = F.leaky_relu(linear(x), 0.2) * 2**0.5
        return x[:, None].repeat(1, self.rows, 1)


class Synthesis(nn.Module):
    """Blocks b4, b8, ...; each starts at the row of w after the last convolution of the previous block.

    The first block has the lowest number and the sides of the constant. Every further block has twice the number and
    twice the sides.
    """

    filter: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], clamp: float | None) -> None:
        super().__init__()
        self.const: nn.Parameter = nn.Parameter(torch.empty(shape_of(tensors, "synthesis.const", 3)))
        taps = shape_of(tensors, "synthesis.filter", 2)
        if taps[0] != taps[1] or taps[0] % 2:
            raise ValueError(f"tensor synthesis.filter must be a square with even sides, got {taps}")
        self.register_buffer("filter", torch.empty(taps))
        self.starts: list[int] = []
        row, number = 0, first_block(tensors)
        height, width = self.const.shape[1:]
        while f"synthesis.b{number}.conv1.weight" in tensors:
            self.starts.append(row)
            block = Block(tensors, f"synthesis.b{number}.", (height, width), clamp)
            self.add_module(f"b{number}", block)
            row, number = row + 1 + (block.conv0 is not None), 2 * number
            self.image_size: tuple[int, int] = height, width
            height, width = 2 * height, 2 * width
        if f"synthesis.b{number // 2}.torgb.weight" not in tensors:
            raise ValueError(f"tensor synthesis.b{number // 2}.torgb.weight, of the last block, is missing")
        check_colours(self)
        self.rows: int = row + 1

    def forward(self, w: Tensor) -> Tensor:
        x, image = self.const.expand(len(w), -1, -1, -1), None
        for start, block in zip(self.starts, self.children(), strict=True):
            x, image = block(x, image, w[:, start:], self.filter)
        assert image is not None
        return image


class Block(nn.Module):
    """Block of one resolution: up-sampling convolution (not in the first block), convolution, output."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str, size: tuple[int, int], clamp: float | None) -> None:
        super().__init__()

        def has(name: str) -> bool:
            return f"{prefix}{name}.weight" in tensors

        self.conv0: Layer | None = Layer(tensors, f"{prefix}conv0.", size, clamp) if has("conv0") else None
        self.conv1: Layer = Layer(tensors, f"{prefix}conv1.", size, clamp)
        self.torgb: ToRGB | None = ToRGB(tensors, f"{prefix}torgb.", clamp) if has("torgb") else None
        self.skip: nn.Conv2d | None = None
        if has("skip"):
            channels, inputs, *_ = shape_of(tensors, f"{prefix}skip.weight", 4)
            self.skip = nn.Conv2d(inputs, channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor, image: Tensor | None, w: Tensor, taps: Tensor) -> tuple[Tensor, Tensor | None]:
        rows, shortcut = iter(w.unbind(1)), None
        gain = 1.0 if self.skip is None else 0.5**0.5
        if self.skip is not None:
            shortcut = upsample(F.conv2d(x, self.skip.weight.to(x.dtype)), taps).mul_(gain)
        if self.conv0 is not None:
            x = self.conv0(x, next(rows), taps)
        x = self.conv1(x, next(rows), None, gain)
        x = x if shortcut is None else x.add_(shortcut)
        image = None if image is None else upsample(image, taps)
        if self.torgb is not None:
            colours = self.torgb(x, next(rows)).to(w.dtype)  # images are summed in the dtype of w
            image = colours if image is None else image.add_(colours)
        return x, image


class Layer(nn.Module):
    """Modulated convolution with noise and activation, clamped. The style `s = A w + a` scales the input.

    It computes `gain sqrt(2) leaky_relu(conv(x, W s) / |W s| + noise + b, 0.2)`.
    """

    noise: Tensor | None

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str, size: tuple[int, int], clamp: float | None) -> None:
        super().__init__()
        shape = shape_of(tensors, f"{prefix}weight", 4)
        self.affine: nn.Linear = _affine(tensors, prefix, shape[1])
        self.weight: nn.Parameter = nn.Parameter(torch.empty(shape))
        self.bias: nn.Parameter = nn.Parameter(torch.empty(shape[0]))
        self.register_buffer("noise", torch.empty(size) if f"{prefix}noise" in tensors else None)
        self.clamp: float | None = clamp
        self.is_half: bool = False

    def forward(self, x: Tensor, w: Tensor, taps: Tensor | None, gain: float = 1.0) -> Tensor:
        if self.is_half:  # here and not in the block, so that the layer and the toRGB before it have the same input
            x = x.to(torch.float16, memory_format=torch.channels_last)
        x = modulated_conv(x, self.affine(w), self.weight, taps)
        x = x if self.noise is None else x.add_(self.noise.to(x.dtype))
        x = F.leaky_relu_(x.add_(self.bias[:, None, None].to(x.dtype)), 0.2).mul_(gain * 2**0.5)
        return x if self.clamp is None else x.clamp_(-gain * self.clamp, gain * self.clamp)


class ToRGB(nn.Module):
    """Modulated convolution `conv1x1(x, W s) + b` to grey, RGB or RGBA, clamped, without division by a norm."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str, clamp: float | None) -> None:
        super().__init__()
        colours, channels, *_ = shape_of(tensors, f"{prefix}weight", 4)
        self.affine: nn.Linear = _affine(tensors, prefix, channels)
        self.weight: nn.Parameter = nn.Parameter(torch.empty(colours, channels, 1, 1))
        self.bias: nn.Parameter = nn.Parameter(torch.empty(colours))
        self.clamp: float | None = clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        scaled = x * self.affine(w)[:, :, None, None].to(x.dtype)
        x = F.conv2d(scaled, self.weight.to(x.dtype), self.bias.to(x.dtype))
        return x if self.clamp is None else x.clamp_(-self.clamp, self.clamp)


def _affine(tensors: Mapping[str, Tensor], prefix: str, channels: int) -> nn.Linear:
    return nn.Linear(shape_of(tensors, f"{prefix}affine.weight", 2)[1], channels)


def first_block(tensors: Mapping[str, Tensor]) -> int:
    """Return the lowest number in names such as synthesis.b4.const, or 4 if there is none."""
    matches = (re.match(r"synthesis\.b(\d+)\.", name) for name in tensors)
    return min((int(match[1]) for match in matches if match), default=4)


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set the tensors of a network that is on the meta device, in float32.

    Raises:
        ValueError: If the tensors do not match the state of the network.
    """
    state = network.state_dict()
    for name in (*state, *tensors):
        expected, got = ([*x[name].shape] if name in x else "nothing" for x in (state, tensors))
        if expected != got:
            raise ValueError(f"tensor {name} does not fit this network: expected {expected}, got {got}")
    network.load_state_dict({name: tensor.detach().float() for name, tensor in tensors.items()}, assign=True)
    network.requires_grad_(False)


def shape_of(tensors: Mapping[str, Tensor], name: str, ndim: int) -> list[int]:
    """Return the shape of a tensor.

    Raises:
        ValueError: If the tensor is missing or does not have `ndim` dimensions.
    """
    if name not in tensors or tensors[name].ndim != ndim:
        got = list(tensors[name].shape) if name in tensors else "nothing"
        raise ValueError(f"tensor {name} must have {ndim} dimensions, got {got}")
    return list(tensors[name].shape)


def check_colours(synthesis: nn.Module) -> None:
    """Raise ValueError unless the weights [C, I, 1, 1] of all toRGB layers have the same C, which is 1, 3 or 4."""
    weights = (x for name, x in synthesis.named_parameters() if re.search(r"to_?rgb\..*weight", name))
    channels = sorted({len(weight) for weight in weights if weight.ndim == 4})
    if len(channels) != 1 or channels[0] not in MODES:
        raise ValueError(f"all toRGB layers must write images with {CHANNELS}, got C = {', '.join(map(str, channels))}")
