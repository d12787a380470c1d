# SPDX-License-Identifier: Apache-2.0
"""Small StyleGAN3 networks with the names and conventions of NVlabs and StyleGAN-XL, and their images in float64.

The images are computed without shortcuts: waves are evaluated position by position, every image has its own convolution
weights, and filters run on images with inserted zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from originals import normalised
from torch import Tensor

Z, W, MAPPING = 7, 5, 2
INPUT_CHANNELS, INPUT_RATE, BANDWIDTH = 6, 8, 2.5
MARGINS = (2, 3)  # above and below, at the left and at the right
# Sampling rate of the output, output channels, and whether the output has a margin, per layer.
LAYERS = ((8, 6, True), (16, 5, True), (16, 4, False), (16, 3, False))
TAPS = 3  # taps of a filter per factor


@dataclass
class Layer:
    """Tensors and resampling of a layer. Padding is (left, right, above, below)."""

    weight: Tensor
    affine: tuple[Tensor, Tensor]
    bias: Tensor
    magnitude: Tensor
    filters: tuple[Tensor | None, Tensor | None]
    factors: tuple[int, int]
    padding: list[int]


@dataclass
class Original3:
    """Tensors and options as NVlabs store them, by name, and the network that they define.

    Args:
        kernel: Side of the convolutions, except the last: 3 (configuration T) or 1 (R, also with radial filters).
        shape: Sides of the image in units of length.
        classes: Number of classes.
        xl: Whether classes are embedded as in StyleGAN-XL.
    """

    kernel: int = 3
    shape: tuple[float, float] = (1.0, 1.0)
    clamp: float | None = 0.25
    classes: int = 0
    xl: bool = False
    state: dict[str, Tensor] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=dict)
    tables: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.kernel)
        self.fill_mapping()
        self.fill_input()
        size = self.size(INPUT_RATE, True)
        rate, channels = INPUT_RATE, INPUT_CHANNELS
        for i, (after, outputs, margin) in enumerate(LAYERS):
            is_last = i == len(LAYERS) - 1
            out_size = self.size(after, margin)
            self.fill_layer(
                f"L{i}_{out_size[1]}_{outputs}", (channels, outputs), (rate, after), (size, out_size), is_last
            )
            rate, channels, size = after, outputs, out_size
        self.options["synthesis.layer_names"] = list(self.layers)
        self.options["synthesis.output_scale"] = 0.25

    def size(self, rate: int, margin: bool) -> tuple[int, int]:
        height, width = (int(rate * side) + 2 * n * margin for side, n in zip(self.shape, MARGINS, strict=True))
        return height, width

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def put(self, name: str, tensor: Tensor) -> Tensor:
        self.state[name] = tensor
        return tensor.double()

    def linear(self, name: str, inputs: int, outputs: int, rate: float = 1.0) -> tuple[Tensor, Tensor]:
        gain = rate / math.sqrt(inputs)
        self.options[f"{name}.weight_gain"], self.options[f"{name}.bias_gain"] = np.float64(gain), rate
        weight = self.put(f"{name}.weight", self.draw(outputs, inputs) / rate)
        return weight * gain, self.put(f"{name}.bias", self.draw(outputs) / (4 * rate)) * rate

    def fill_mapping(self) -> None:
        embedding = Z if self.xl else W
        if self.classes and self.xl:
            self.table = self.put("mapping.embed.weight", self.draw(self.classes, 4))
            self.tables = ("mapping.embed.weight",)
            self.embedding = self.linear("mapping.embed_proj", 4, embedding)
        elif self.classes:
            self.embedding = self.linear("mapping.embed", self.classes, embedding)
        inputs = Z + (embedding if self.classes else 0)
        self.mapping = [self.linear(f"mapping.fc{i}", W if i else inputs, W, 0.01) for i in range(MAPPING)]
        self.mean = self.draw(self.classes, W) if self.xl else self.draw(W)
        self.state["mapping.w_avg"] = self.mean

    def fill_input(self) -> None:
        height, width = self.size(INPUT_RATE, True)
        self.options["synthesis.input.size"] = np.array([width, height])
        self.options["synthesis.input.sampling_rate"] = np.float64(INPUT_RATE)
        self.options["synthesis.input.bandwidth"] = np.float64(BANDWIDTH)
        directions = F.normalize(self.draw(INPUT_CHANNELS, 2))
        self.freqs = self.put("synthesis.input.freqs", directions * torch.linspace(0.5, 3.7, INPUT_CHANNELS)[:, None])
        self.phases = self.put("synthesis.input.phases", self.draw(INPUT_CHANNELS))
        transform = torch.tensor([[0.9, -0.2, 0.05], [0.3, 1.1, -0.1], [0.0, 0.0, 1.0]])
        self.transform = self.put("synthesis.input.transform", transform)
        self.affine = self.linear("synthesis.input.affine", W, 4)
        weight = self.put("synthesis.input.weight", self.draw(INPUT_CHANNELS, INPUT_CHANNELS))
        self.input_weight = weight / math.sqrt(INPUT_CHANNELS)

    def fill_layer(
        self,
        name: str,
        channels: tuple[int, int],
        rates: tuple[int, int],
        sizes: tuple[tuple[int, int], tuple[int, int]],
        is_last: bool,
    ) -> None:
        prefix, kernel = f"synthesis.{name}", 1 if is_last else self.kernel
        middle = max(rates) * (1 if is_last else 2)
        up, down = middle // rates[0], middle // rates[1]
        taps = [factor * TAPS if not is_last else 1 for factor in (up, down)]
        filters: list[Tensor | None] = [None, None]
        if not is_last:
            filters = [self.draw(n) * 0.5 / math.sqrt(n) + 1 / n for n in taps]
            if self.kernel == 1:
                filters[1] = self.draw(taps[1], taps[1]) / taps[1] ** 2 + 1 / taps[1] ** 2
        padding = list[int]()
        for axis in (1, 0):  # width first
            total = (sizes[1][axis] - 1) * down + 1 - (sizes[0][axis] + kernel - 1) * up + sum(taps) - 2
            padding += [(total + up) // 2, total - (total + up) // 2]
        options = {
            "in_size": np.array(sizes[0][::-1]),
            "out_size": np.array(sizes[1][::-1]),
            "in_sampling_rate": rates[0],
            "out_sampling_rate": rates[1],
            "up_factor": up,
            "down_factor": down,
            "padding": padding,
            "conv_clamp": self.clamp,
            "use_fp16": np.bool_(True),
        }
        self.options |= {f"{prefix}.{option}": value for option, value in options.items()}
        self.layers[name] = Layer(
            self.put(f"{prefix}.weight", self.draw(channels[1], channels[0], kernel, kernel)),
            self.linear(f"{prefix}.affine", W, channels[0]),
            self.put(f"{prefix}.bias", self.draw(channels[1]) / 4),
            self.put(f"{prefix}.magnitude_ema", self.draw(1)[0].square() + 0.5),
            (filters[0], filters[1]),
            (up, down),
            padding,
        )
        for kind, taps_ in zip(("up_filter", "down_filter"), filters, strict=True):
            if taps_ is not None:
                self.put(f"{prefix}.{kind}", taps_)

    def map(self, z: Tensor, label: int | None = None) -> Tensor:
        """Latents w [N, W] of z."""
        x = normalised(z.double())
        if label is not None and self.xl:
            y = self.embedding[0] @ self.table[label] + self.embedding[1]
            y = torch.where(y < 0, 0.2 * y, y) * math.sqrt(2)
        elif label is not None:
            y = self.embedding[0][:, label] + self.embedding[1]
        if label is not None:
            x = torch.cat((x, normalised(y[None]).expand(len(z), -1)), dim=1)
        for weight, bias in self.mapping:
            x = F.leaky_relu(x @ weight.T + bias, 0.2) * math.sqrt(2)
        return x

    def image(self, w: Tensor) -> Tensor:
        """Images [N, 3, H, W] of latents [N, rows, W]."""
        return torch.stack([self.one_image(row) for row in w.double()])

    def one_image(self, w: Tensor) -> Tensor:
        x = self.waves(w[0])[None]
        for i, (layer, row) in enumerate(zip(self.layers.values(), w[1:], strict=True), start=1):
            x = self.run(layer, x, row, is_last=i == len(self.layers))
        return 0.25 * x[0]

    def waves(self, w: Tensor) -> Tensor:
        """Input [C, H, W] of one latent."""
        t = self.affine[0] @ w + self.affine[1]
        c, s, x, y = (t / t[:2].norm()).tolist()
        rotation = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
        shift = torch.tensor([[1, 0, -x], [0, 1, -y], [0, 0, 1]], dtype=torch.float64)
        matrix = rotation @ shift @ self.transform
        lengths = (self.freqs @ matrix[:2, :2]).norm(dim=1)
        amplitudes = (1 - (lengths - BANDWIDTH) / (INPUT_RATE / 2 - BANDWIDTH)).clamp(0, 1)
        assert amplitudes.min() < 0.8 and amplitudes.max() == 1
        height, width = self.size(INPUT_RATE, True)
        features = torch.empty(INPUT_CHANNELS, height, width, dtype=torch.float64)
        for i in range(height):
            for j in range(width):
                place = [(j + 0.5 - width / 2) / INPUT_RATE, (i + 0.5 - height / 2) / INPUT_RATE, 1.0]
                place = (matrix @ torch.tensor(place, dtype=torch.float64))[:2]
                features[:, i, j] = torch.sin(2 * math.pi * (self.freqs @ place + self.phases)) * amplitudes
        return torch.einsum("oc,chw->ohw", self.input_weight, features)

    def run(self, layer: Layer, x: Tensor, w: Tensor, is_last: bool) -> Tensor:
        style = layer.affine[0] @ w + layer.affine[1]
        weight = layer.weight
        if is_last:
            weight = weight * style[:, None, None] / math.sqrt(len(style))
        else:
            style = style / style.square().mean().sqrt()
            weight = torch.stack([kernel / kernel.square().mean().sqrt() for kernel in weight]) * style[:, None, None]
            weight = torch.stack([kernel / (kernel.square().sum() + 1e-8).sqrt() for kernel in weight])
        x = F.conv2d(x, weight / layer.magnitude.sqrt(), padding=weight.shape[-1] - 1) + layer.bias[:, None, None]
        x = resampled(x, layer.filters[0], layer.factors[0], 1, layer.padding)
        x = x if is_last else torch.where(x < 0, 0.2 * x, x) * math.sqrt(2)
        x = x if self.clamp is None else x.clamp(-self.clamp, self.clamp)
        return resampled(x, layer.filters[1], 1, layer.factors[1], [0, 0, 0, 0])


def resampled(x: Tensor, taps: Tensor | None, up: int, down: int, padding: list[int]) -> Tensor:
    """Insert `up - 1` zeros after every pixel, pad or crop, convolve with the filter times up², keep every down-th."""
    n, c, h, w = x.shape
    spread = torch.zeros(n, c, h * up, w * up, dtype=x.dtype)
    spread[:, :, ::up, ::up] = x
    spread = F.pad(spread, padding)
    if taps is not None:
        taps = torch.outer(taps, taps) if taps.ndim == 1 else taps
        spread = F.conv2d(spread.flatten(0, 1)[:, None], up**2 * taps.to(x.dtype).flip(0, 1)[None, None])
        spread = spread.reshape(n, c, *spread.shape[2:])
    return spread[:, :, ::down, ::down]
