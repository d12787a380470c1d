# SPDX-License-Identifier: Apache-2.0
"""StyleGAN3 (arXiv 2106.12423) in plain torch, which runs trained weights without compiled extensions.

Channels and filters come from the tensors, sizes and sampling rates from a `Layout`. Constant gains (equalised learning
rates, magnitudes of the layers' inputs, norms of the weights) are already folded into the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .generator import Generator
from .sites import Rule
from .stylegan2 import MappingNetwork, fill, shape_of
from .stylegan3_layout import MAX_SIDE, Layout, Resampling


def _margin(layer: Any) -> tuple[int, int]:
    return layer.margin


RULES = (Rule(r"synthesis\.(?P<site>L\d+_\d+_\d+)\.affine", r"synthesis.\g<site>", last="rgb", margin=_margin),)


def stylegan3(network: StyleGAN3, *, name: str = "stylegan3") -> Generator:
    """Wrap the network as a generator whose sites have the names of its layers: L0_36_512, ..., L14_1024_3."""
    return Generator(
        network,
        RULES,
        name=name,
        z_dim=network.mapping.z_dim,
        mapping=network.mapping,
        synthesis=network.synthesis,
        w_mean=network.w_avg,
        transform_row=0,
        check=False,
    )


class StyleGAN3(nn.Module):
    """Network z [N, Z] -> `mapping` -> w [N, rows, D] -> `synthesis` -> image [N, 3, H, W], nominally in [-1, 1].

    Row 0 of w drives the transform of the input, and row `i + 1` drives layer i.

    Args:
        tensors: Tensors by their names in the state of this module.
        layout: Sizes, sampling rates and resampling.

    Raises:
        ValueError: If a tensor is missing, unexpected, or has a different shape, or the layout does not fit.

    References:
        Karras et al., "Alias-Free Generative Adversarial Networks", section 3 and appendix C.
    """

    w_avg: Tensor | None

    def __init__(self, tensors: Mapping[str, Tensor], layout: Layout) -> None:
        super().__init__()
        with torch.device("meta"):
            self.synthesis: Synthesis = Synthesis(tensors, layout)
            self.mapping: MappingNetwork = MappingNetwork(tensors, len(layout.layers) + 1)
            self.register_buffer("w_avg", torch.empty_like(tensors["w_avg"]) if "w_avg" in tensors else None)
        fill(self, tensors)


class Synthesis(nn.Module):
    """Input, then the layers in the order of the layout. The last layer writes colours."""

    def __init__(self, tensors: Mapping[str, Tensor], layout: Layout) -> None:
        super().__init__()
        self.input: Input = Input(tensors, layout)
        self.output_scale: float = layout.output_scale
        self.layers: list[Layer] = []
        size, rate, rates = self.input.size, layout.sampling_rate, list[float]()
        channels = len(self.input.phases)
        for i, resampling in enumerate(layout.layers):
            layer = Layer(tensors, resampling, size, is_last=i == len(layout.layers) - 1)
            if layer.weight.shape[1] != channels:
                raise ValueError(f"layer {resampling.name} must read {channels} channels, got {layer.weight.shape[1]}")
            self.add_module(resampling.name, layer)
            self.layers.append(layer)
            rates.append(rate)
            channels, size, rate = len(layer.weight), layer.out_size, rate * resampling.up / resampling.down
        if channels not in (1, 3, 4):
            raise ValueError(f"the last layer must write images with 1, 3 or 4 channels, got {channels}")
        self.image_size: tuple[int, int] = size
        for layer, in_rate in zip(self.layers, rates, strict=True):
            frame = [round(side * in_rate / rate) for side in size]
            vertical, horizontal = ((n - length) // 2 for n, length in zip(layer.in_size, frame, strict=True))
            layer.margin = max(0, vertical), max(0, horizontal)

    def forward(self, w: Tensor) -> Tensor:
        first, *rows = w.unbind(1)
        x = self.input(first)
        for layer, row in zip(self.layers, rows, strict=True):
            x = layer(x, row)
        return x * self.output_scale


class Input(nn.Module):
    """Waves `W a sin(2 pi (f M p + phase))` at the positions p, with a transform M that is an affine function of w.

    The affine function returns (c, s, x, y), which is divided by |(c, s)|. M applies the transform in the file, then a
    shift by `(-x, -y)`, then the rotation `[[c, -s], [s, c]]`. The amplitude `a` fades frequencies above the bandwidth.
    """

    freqs: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], layout: Layout) -> None:
        super().__init__()
        self.size: tuple[int, int] = layout.size[0], layout.size[1]
        self.sampling_rate: float = layout.sampling_rate
        self.bandwidth: float = layout.bandwidth
        channels = shape_of(tensors, "synthesis.input.freqs", 2)[0]
        self.affine: nn.Linear = nn.Linear(shape_of(tensors, "synthesis.input.affine.weight", 2)[1], 4)
        self.weight: nn.Parameter = nn.Parameter(torch.empty(channels, channels))
        self.register_buffer("freqs", torch.empty(channels, 2))
        self.register_buffer("phases", torch.empty(channels))
        self.register_buffer("transform", torch.empty(3, 3))

    def forward(self, w: Tensor) -> Tensor:
        t = self.affine(w)
        t = t / t[:, :2].norm(dim=1, keepdim=True)
        cosine, sine = t[:, 0], t[:, 1]
        rotation = torch.stack((cosine, -sine, sine, cosine), dim=1).unflatten(1, (2, 2))
        transform = rotation @ (self.transform[:2] - t[:, 2:, None] * self.transform[2])  # [N, 2, 3]
        freqs = self.freqs @ transform[:, :, :2]  # [N, C, 2]
        phases = self.phases + (self.freqs @ transform[:, :, 2:])[:, :, 0]  # [N, C]
        fading = (freqs.norm(dim=2) - self.bandwidth) / (self.sampling_rate / 2 - self.bandwidth)
        amplitudes = (1 - fading).clamp(0, 1)
        y, x = (
            (torch.arange(n, device=w.device, dtype=freqs.dtype) + 0.5 - n / 2) / self.sampling_rate for n in self.size
        )
        waves = freqs[:, :, 0, None, None] * x + freqs[:, :, 1, None, None] * y[:, None] + phases[:, :, None, None]
        waves = waves.mul_(2 * torch.pi).sin_().mul_(amplitudes[:, :, None, None])
        return F.conv2d(waves, self.weight[:, :, None, None])


class Layer(nn.Module):
    """Modulated convolution, bias, and leaky ReLU between up-sampling and down-sampling by filters.

    With the style s = A w + a, divided by its root mean square, the convolution computes `g conv(x, W s) / |W s|`.
    The last layer computes `conv(x, W s) + b` with the style as it is, and has no activation.
    """

    gain: Tensor | None
    up_filter: Tensor | None
    down_filter: Tensor | None
    margin: tuple[int, int]  # pixels above and left of the frame in the input, set by `Synthesis`

    def __init__(
        self, tensors: Mapping[str, Tensor], resampling: Resampling, in_size: tuple[int, int], *, is_last: bool
    ) -> None:
        super().__init__()
        prefix = f"synthesis.{resampling.name}."
        shape = shape_of(tensors, f"{prefix}weight", 4)
        self.affine: nn.Linear = nn.Linear(shape_of(tensors, f"{prefix}affine.weight", 2)[1], shape[1])
        self.weight: nn.Parameter = nn.Parameter(torch.empty(shape))
        self.bias: nn.Parameter = nn.Parameter(torch.empty(shape[0]))
        self.register_buffer("gain", None if is_last else torch.empty(()))
        taps: list[int] = []
        for name, factor in (("up_filter", resampling.up), ("down_filter", resampling.down)):
            has_filter = f"{prefix}{name}" in tensors or factor > 1
            side = shape_of(tensors, f"{prefix}{name}", 2)[0] if has_filter else 1
            self.register_buffer(name, torch.empty(side, side) if has_filter else None)
            taps.append(side)
        self.resampling: Resampling = resampling
        self.in_size: tuple[int, int] = in_size
        left, right, above, below = resampling.padding
        shrinking = taps[0] + taps[1] - 2
        height, width = (
            ((n + shape[2] - 1) * resampling.up + before + after - shrinking + resampling.down - 1) // resampling.down
            for n, before, after in zip(in_size, (above, left), (below, right), strict=True)
        )
        if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
            raise ValueError(f"layer {resampling.name} gives tensors of {height} x {width} pixels")
        self.out_size: tuple[int, int] = height, width

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style, norm = self.affine(w), None
        if self.gain is not None:
            style = F.normalize(style, dim=1) * style.shape[1] ** 0.5
            norm = (style.square() @ self.weight.square().sum(dim=(2, 3)).T + 1e-8).rsqrt() * self.gain  # [N, O]
        x = F.conv2d(x * style[:, :, None, None], self.weight, padding=self.weight.shape[-1] - 1)
        x = (x if norm is None else x.mul_(norm[:, :, None, None])).add_(self.bias[:, None, None])
        x = upsample(x, self.up_filter, self.resampling.up, self.resampling.padding)
        x = x if self.gain is None else F.leaky_relu_(x, 0.2).mul_(2**0.5)
        clamp = self.resampling.clamp
        x = x if clamp is None else x.clamp_(-clamp, clamp)
        return downsample(x, self.down_filter, self.resampling.down)


def upsample(x: Tensor, taps: Tensor | None, factor: int, padding: tuple[int, ...]) -> Tensor:
    """Insert zeros after all pixels, pad, and convolve with the filter times `factor**2`, without further padding.

    Args:
        x: Input, [N, C, H, W].
        taps: Filter [f, f], or None for a filter of one tap.
        factor: Factor of the up-sampling, at most f.
        padding: Pixels to add (negative: to remove) left, right, above and below.

    Returns:
        Output, [N, C, factor H + above + below - f + 1, factor W + left + right - f + 1].
    """
    side = 1 if taps is None else len(taps)
    # A transposed convolution pads by side - 1 pixels before and by side - factor pixels after the inserted zeros.
    crops = [(side - factor if i % 2 else side - 1) - n for i, n in enumerate(padding)]
    if taps is not None:
        common = max(0, min(crops))
        depthwise = (factor**2 * taps).expand(x.shape[1], 1, side, side)
        x = F.conv_transpose2d(x, depthwise, stride=factor, padding=common, groups=x.shape[1])
        crops = [n - common for n in crops]
    return F.pad(x, [-n for n in crops]) if any(crops) else x


def downsample(x: Tensor, taps: Tensor | None, factor: int) -> Tensor:
    """Convolve with the filter [f, f], without padding, and keep every `factor`-th pixel per row and column."""
    if taps is None:
        return x
    return F.conv2d(x, taps.flip(0, 1).expand(x.shape[1], 1, -1, -1), stride=factor, groups=x.shape[1])
