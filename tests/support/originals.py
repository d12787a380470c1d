# SPDX-License-Identifier: Apache-2.0
"""Small StyleGAN2 networks with the names and conventions of four code bases, and their images in float64.

The images are computed without shortcuts: every image has its own convolution weights, normalised in a loop, and
up-sampling inserts zeros between pixels and convolves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FAMILIES = ("nvlabs", "rosinality", "genforce", "hammer")
CHANNELS = {4: 8, 8: 8, 16: 6}
Z, W, MAPPING = 7, 5, 3
TAPS = torch.outer(torch.tensor([1.0, 3, 2, 2]), torch.tensor([2.0, 1, 4, 1])) / 64


@dataclass
class Layer:
    """Tensors of a convolution, with all gains applied. They do not depend on the conventions of the code base."""

    weight: Tensor
    affine: tuple[Tensor, Tensor]
    bias: Tensor
    noise: Tensor | None = None


@dataclass
class Original:
    """Tensors as the code base stores them, by name, and the network that they define."""

    family: str
    architecture: str = "skip"
    clamp: float | None = None
    classes: int = 0
    start: tuple[int, int] = (4, 4)
    colours: int = 3
    state: dict[str, Tensor] = field(default_factory=dict)
    mapping: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    layers: dict[str, Layer] = field(default_factory=dict)
    skips: dict[int, Tensor] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    tables: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        even = torch.tensor([1.0, 3, 3, 1]) / 8
        # `up` flips the filter and genforce does not. A symmetric filter makes the results equal.
        self.taps = torch.outer(even, even) if self.family == "genforce" else TAPS
        self.generator = torch.Generator().manual_seed(sum(map(ord, self.family + self.architecture)))
        width = Z if self.family != "rosinality" else W  # rosinality: z has the width of w
        for i in range(MAPPING):
            inputs = W if i else width + (W if self.classes else 0)
            name = self.pick(f"mapping.fc{i}", f"style.{i + 1}", f"mapping.dense{i}", f"mapping.dense{i}")
            self.mapping.append(self.linear(name, inputs, W, 0.01))
        if self.classes:
            self.embedding = self.linear("mapping.embed", self.classes, W)
        self.z_dim = width
        self.mean = self.draw(W)
        if self.family != "rosinality":
            self.state[self.pick("mapping.w_avg", "", "truncation.w_avg", "w_avg")] = self.mean
        self.const = self.draw(CHANNELS[4], *self.start)
        name = self.pick("b4.const", "input.input", "early_layer.const", "early_layer.const")
        self.put(name, self.const if self.family == "nvlabs" else self.const[None])
        for i, (size, channels) in enumerate(CHANNELS.items()):
            if size > 4:
                self.conv(f"b{size}.conv0", 2 * i - 1, CHANNELS[size // 2], channels)
            self.conv(f"b{size}.conv1", 2 * i, channels, channels)
            if self.architecture == "skip" or size == 16:
                self.output(f"b{size}.torgb", i, channels)
            if self.architecture == "resnet" and size > 4:
                self.skip(size, i)
        self.filters()

    def sides(self, number: int) -> tuple[int, int]:
        """(H, W) of block b4, b8 or b16."""
        return self.start[0] * number // 4, self.start[1] * number // 4

    def pick(self, *names: str) -> str:
        return names[FAMILIES.index(self.family)]

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def put(self, name: str, tensor: Tensor) -> Tensor:
        self.state[name if self.family == "rosinality" else f"synthesis.{name}"] = tensor
        return tensor

    def linear(self, name: str, inputs: int, outputs: int, rate: float = 1.0, *, one: bool = False) -> Any:
        weight, bias = self.draw(outputs, inputs) / rate, self.draw(outputs) / (4 * rate)
        self.state[f"{name}.weight"], self.state[f"{name}.bias"] = weight, bias
        self.options[f"{name}.weight_gain"], self.options[f"{name}.bias_gain"] = rate / math.sqrt(inputs), rate
        added = 1.0 if one and self.family == "genforce" else 0.0
        return weight.double() * rate / math.sqrt(inputs), bias.double() * rate + added

    def affine(self, name: str, channels: int) -> tuple[Tensor, Tensor]:
        prefix = "" if self.family == "rosinality" else "synthesis."
        return self.linear(f"{prefix}{name}", W, channels, one=True)

    def conv(self, site: str, i: int, inputs: int, outputs: int) -> None:
        name = self.pick(site, f"convs.{i - 1}" if i else "conv1", f"layer{i}", f"layer{i}")
        size = int(site.split(".")[0][1:])
        raw = self.draw(outputs, inputs, 3, 3)
        used = raw.double() if self.family in ("nvlabs", "hammer") else raw.double() / math.sqrt(9 * inputs)
        noise, strength, bias = self.draw(*self.sides(size)), self.draw(1)[0], self.draw(outputs) / 4
        affine = self.affine(self.pick(f"{name}.affine", f"{name}.conv.modulation", *[f"{name}.style"] * 2), inputs)
        mirrored = raw.flip(2, 3) if self.family == "genforce" and "conv0" in site else raw
        if self.family == "rosinality":
            self.put(f"{name}.conv.weight", raw[None])
            self.put(f"{name}.noise.weight", strength[None])
            self.put(f"{name}.activate.bias", bias)
            self.put(f"noises.noise_{i}", noise[None, None])
        else:
            self.put(f"{name}.weight", mirrored)
            self.put(f"{name}.bias", bias)
            self.put(f"{name}.noise_strength", strength)
            self.put(
                f"{name}.{self.pick('noise_const', '', 'noise', 'noise')}", noise if name == site else noise[None, None]
            )
        self.layers[site] = Layer(used, affine, bias.double(), noise.double() * strength.double())

    def output(self, site: str, i: int, inputs: int) -> None:
        name = self.pick(site, f"to_rgbs.{i - 1}" if i else "to_rgb1", f"output{i}", f"output{i}")
        raw, bias = self.draw(self.colours, inputs, 1, 1), self.draw(self.colours)
        affine = self.affine(self.pick(f"{name}.affine", f"{name}.conv.modulation", *[f"{name}.style"] * 2), inputs)
        rosinality = self.family == "rosinality"
        self.put(f"{name}.conv.weight" if rosinality else f"{name}.weight", raw[None] if rosinality else raw)
        self.put(f"{name}.bias", bias[:, None, None][None] if rosinality else bias)
        self.options[f"synthesis.{name}.weight_gain"] = 1 / math.sqrt(inputs)
        self.layers[site] = Layer(raw.double() / math.sqrt(inputs), affine, bias.double())

    def skip(self, size: int, i: int) -> None:
        inputs = CHANNELS[size // 2]
        name = self.pick(f"b{size}.skip", "", "", f"residual{i}")
        raw = self.put(f"{name}.weight", self.draw(CHANNELS[size], inputs, 1, 1))
        self.options[f"synthesis.{name}.weight_gain"] = 1 / math.sqrt(inputs)
        self.skips[size] = raw.double() / math.sqrt(inputs)

    def filters(self) -> None:
        for i, size in enumerate(CHANNELS):
            if self.family == "nvlabs":
                self.put(f"b{size}.resample_filter", self.taps)
                self.put(f"b{size}.conv1.resample_filter", self.taps + 1)  # unused: conv1 does not resample
            if size > 4 and self.family == "nvlabs":
                self.put(f"b{size}.conv0.resample_filter", self.taps)
            if size > 4 and self.family == "rosinality":
                self.put(f"convs.{2 * i - 2}.conv.blur.kernel", 4 * self.taps)
                self.put(f"to_rgbs.{i - 1}.upsample.kernel", 4 * self.taps)
            if size > 4 and self.family == "genforce":
                self.put(f"layer{2 * i - 1}.filter.kernel", 4 * self.taps[None, None])
            if size > 4 and self.family == "hammer":
                self.put(f"layer{2 * i - 1}.filter", self.taps)

    def map(self, z: Tensor, label: int | None = None) -> Tensor:
        """Latents w [N, W] of z."""
        x = normalised(z.double())
        if label is not None:
            weight, bias = self.embedding
            x = torch.cat((x, normalised((weight[:, label] + bias)[None]).expand(len(z), -1)), dim=1)
        for weight, bias in self.mapping:
            x = F.leaky_relu(x @ weight.T + bias, 0.2) * math.sqrt(2)
        return x

    def image(self, w: Tensor) -> Tensor:
        """Images [N, C, H, W] of latents [N, rows, W]."""
        x, image, row = self.const.double().expand(len(w), -1, -1, -1), None, 0
        for size in CHANNELS:
            before, gain = x, math.sqrt(0.5) if size in self.skips else 1.0
            for name in ("conv0", "conv1")[size == 4 :]:
                layer_gain = gain if name == "conv1" else 1.0
                x = self.activated(
                    self.layers[f"b{size}.{name}"], x, w[:, row], self.taps if name == "conv0" else None, layer_gain
                )
                row += 1
            if size in self.skips:
                x = x + up(F.conv2d(before, self.skips[size]), 2, 1, self.taps) * gain
            image = None if image is None else up(image, 2, 1, self.taps)
            if f"b{size}.torgb" in self.layers:
                colours = self.bounded(modulated(self.layers[f"b{size}.torgb"], x, w[:, row], None, False), 1.0)
                image = colours if image is None else image + colours
        assert image is not None
        return image

    def activated(self, layer: Layer, x: Tensor, w: Tensor, taps: Tensor | None, gain: float) -> Tensor:
        x = modulated(layer, x, w, taps, True) + layer.noise
        return self.bounded(torch.where(x < 0, 0.2 * x, x) * math.sqrt(2) * gain, gain)

    def bounded(self, x: Tensor, gain: float) -> Tensor:
        return x if self.clamp is None else x.clamp(-self.clamp * gain, self.clamp * gain)


def normalised(x: Tensor) -> Tensor:
    return x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()


def modulated(layer: Layer, x: Tensor, w: Tensor, taps: Tensor | None, demodulate: bool) -> Tensor:
    """Modulated convolution, including the bias; it up-samples by 2 if `taps` is given."""
    images = []
    for image, row in zip(x, w.double(), strict=True):
        style = layer.affine[0] @ row + layer.affine[1]
        weight = layer.weight * style[None, :, None, None]
        for out in weight if demodulate else ():
            out /= (out.square().sum() + 1e-8).sqrt()
        if taps is not None:  # up-sample with the filter, then convolve with the mirrored weights, without padding
            border = weight.shape[-1] // 2 + len(taps) // 2
            images.append(F.conv2d(up(image[None], border, border - 1, taps), weight.flip(2, 3)))
        else:
            images.append(F.conv2d(image[None], weight, padding=weight.shape[-1] // 2))
    return torch.cat(images) + layer.bias[:, None, None]


def up(x: Tensor, before: int, after: int, taps: Tensor) -> Tensor:
    """Insert a zero after every pixel of every row and column, pad, and convolve with 4 times the filter."""
    n, c, h, w = x.shape
    spread = torch.zeros(n, c, 2 * h, 2 * w, dtype=x.dtype)
    spread[:, :, ::2, ::2] = x
    spread = F.pad(spread, (before, after, before, after))
    result = F.conv2d(spread.flatten(0, 1)[:, None], 4 * taps.to(x.dtype).flip(0, 1)[None, None])
    return result.reshape(n, c, *result.shape[2:])
