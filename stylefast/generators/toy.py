# SPDX-License-Identifier: Apache-2.0
"""Tiny generators with random weights, shaped like StyleGAN 1, 2 and 3. A forward pass takes milliseconds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.checks import check_choice
from .generator import Generator
from .sites import FIRST_HALF, Rule

WIDTH = 32  # length of z and w
CHANNELS = (32, 32, 24, 16)
SIZES = (4, 8, 16, 32)  # StyleGAN1 and StyleGAN2 shapes
ODD_SIZES = (13, 21, 36, 36)  # StyleGAN3 shape
MARGIN = 2  # pixels per side that the StyleGAN3 shape crops from the image: 36 -> 32

RULES: dict[str, tuple[Rule, ...]] = {
    "sg1": (
        Rule(r"(?P<site>layers\.\d+)\.style", r"\g<site>.norm", reads="output", scale=FIRST_HALF, normalized=True),
    ),
    "sg2": (
        Rule(r"(?P<site>convs\.\d+)\.affine", r"\g<site>"),
        Rule(r"(?P<site>torgbs\.\d+)\.affine", r"\g<site>", kind="rgb"),
    ),
    "sg3": (
        Rule(r"(?P<site>layers\.\d+)\.affine", r"\g<site>"),
        Rule(r"(?P<site>torgb)\.affine", r"\g<site>", kind="rgb"),
    ),
}
NAMES = tuple(f"toy:{kind}" for kind in RULES)


def load_toy(name: str, *, device: str | torch.device = "cpu") -> Generator:
    """Build the toy generator with a name in `NAMES`, such as "toy:sg2"."""
    check_choice("name", name, NAMES)
    return toy(name.removeprefix("toy:"), device=device)


def toy(kind: str = "sg2", seed: int = 0, *, device: str | torch.device = "cpu") -> Generator:
    """Build a generator of 32 x 32 images with random weights. Equal arguments give equal weights.

    Args:
        kind: "sg1" (instance normalisation, then scale and bias; one w for all layers), "sg2" (modulated and
            demodulated convolutions; each toRGB shares its tensor with the next block) or "sg3" (odd sizes with a
            margin; an input transform driven by the first row of w).
        seed: Random seed of the weights.
        device: Device of the network.

    Returns:
        The generator.

    Raises:
        ValueError: If the kind is unknown.
    """
    networks = {"sg1": _StyleGAN1, "sg2": _StyleGAN2, "sg3": _StyleGAN3}
    check_choice("kind", kind, tuple(networks))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = networks[kind]().to(device)
    return Generator(
        network,
        RULES[kind],
        name=f"toy:{kind}",
        z_dim=WIDTH,
        mapping=network.mapping,
        synthesis=network,
        transform_row=0 if kind == "sg3" else None,
        check=False,
    )


def _weight(*shape: int) -> nn.Parameter:
    """Return random weights [out, in, ...] that keep the variance through LeakyReLU."""
    return nn.Parameter(torch.randn(shape) * (2 / torch.Size(shape[1:]).numel()) ** 0.5)


def _affine(channels: int) -> nn.Linear:
    """Return a linear layer that computes styles around one."""
    linear = nn.Linear(WIDTH, channels)
    nn.init.ones_(linear.bias)
    return linear


class _Mapping(nn.Module):
    """Mapping from z [N, D] to w [N, D], or to w [N, rows, D] with equal rows."""

    def __init__(self, rows: int | None = None) -> None:
        super().__init__()
        self.rows = rows
        self.weight = _weight(WIDTH, WIDTH)

    def forward(self, z: Tensor) -> Tensor:
        w = F.leaky_relu(F.linear(F.normalize(z) * WIDTH**0.5, self.weight), 0.2)
        return w if self.rows is None else w[:, None].repeat(1, self.rows, 1)


class _StyleGAN1(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mapping = _Mapping()
        self.input = nn.Parameter(torch.randn(1, CHANNELS[0], SIZES[0], SIZES[0]))
        self.layers = nn.ModuleList()
        for before, channels, size in zip((CHANNELS[0], *CHANNELS), CHANNELS, SIZES, strict=False):
            self.layers += [_NormalizedLayer(before, channels, size), _NormalizedLayer(channels, channels, size)]
        self.to_rgb = _weight(3, CHANNELS[-1], 1, 1)

    def forward(self, w: Tensor) -> Tensor:
        x = self.input.expand(len(w), -1, -1, -1)
        for layer in self.layers:
            x = layer(x, w)
        return torch.tanh(F.conv2d(x, self.to_rgb / 3))


class _NormalizedLayer(nn.Module):
    """Convolution, noise, LeakyReLU, instance normalisation, then `x (1 + scale) + bias`."""

    noise: Tensor

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.weight = _weight(outputs, inputs, 3, 3)
        self.register_buffer("noise", torch.randn(size, size) / 4)
        self.norm = nn.InstanceNorm2d(outputs)
        self.style = nn.Linear(WIDTH, 2 * outputs)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = F.conv2d(_resize(x, len(self.noise)), self.weight, padding=1)
        x = self.norm(F.leaky_relu(x + self.noise, 0.2))
        scale, bias = self.style(w)[:, :, None, None].chunk(2, dim=1)
        return x * (1 + scale) + bias


class _ModulatedConv(nn.Module):
    """Product with the style, convolution, division by the norm of the modulated weights, noise, LeakyReLU."""

    noise: Tensor

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.affine = _affine(inputs)
        self.weight = _weight(outputs, inputs, 3, 3)
        self.register_buffer("noise", torch.randn(size, size) / 4)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.affine(w)  # [N, C]
        x = F.conv2d(_resize(x * style[:, :, None, None], len(self.noise)), self.weight, padding=1)
        norm = (style.square() @ self.weight.square().sum(dim=(2, 3)).T + 1e-8).sqrt()
        return F.leaky_relu(x / norm[:, :, None, None] + self.noise, 0.2) * 2**0.5


class _ToRGB(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.affine = _affine(inputs)
        self.weight = _weight(3, inputs, 1, 1)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return F.conv2d(x * self.affine(w)[:, :, None, None], self.weight / 4)


class _StyleGAN2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mapping = _Mapping(rows=2 * len(SIZES))
        self.input = nn.Parameter(torch.randn(1, CHANNELS[0], SIZES[0], SIZES[0]))
        self.convs = nn.ModuleList([_ModulatedConv(CHANNELS[0], CHANNELS[0], SIZES[0])])
        for before, channels, size in zip(CHANNELS, CHANNELS[1:], SIZES[1:], strict=False):
            self.convs += [_ModulatedConv(before, channels, size), _ModulatedConv(channels, channels, size)]
        self.torgbs = nn.ModuleList(map(_ToRGB, CHANNELS))

    def forward(self, w: Tensor) -> Tensor:
        x = self.convs[0](self.input.expand(len(w), -1, -1, -1), w[:, 0])
        image = self.torgbs[0](x, w[:, 1])
        for i in range(1, len(SIZES)):
            x = self.convs[2 * i - 1](x, w[:, 2 * i - 1])
            x = self.convs[2 * i](x, w[:, 2 * i])
            image = _resize(image, SIZES[i]) + self.torgbs[i](x, w[:, 2 * i + 1])
        return torch.tanh(image)


class _StyleGAN3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mapping = _Mapping(rows=len(CHANNELS) + 1)
        self.input = _Fourier(CHANNELS[0], ODD_SIZES[0])
        self.layers = nn.ModuleList(
            _ModulatedConv(inputs, outputs, size)
            for inputs, outputs, size in zip(CHANNELS, CHANNELS[1:], ODD_SIZES[1:], strict=False)
        )
        self.torgb = _ToRGB(CHANNELS[-1])

    def forward(self, w: Tensor) -> Tensor:
        x = self.input(w[:, 0])
        for row, layer in enumerate((*self.layers, self.torgb), start=1):
            x = layer(x, w[:, row])
        return torch.tanh(x[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN])


class _Fourier(nn.Module):
    """Random waves over a square. An affine function of w, which is not a style, rotates and shifts the square."""

    waves: Tensor
    phases: Tensor
    grid: Tensor

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.affine = nn.Linear(WIDTH, 4)  # cosine and sine of the rotation (not normalised), shift x, shift y
        self.register_buffer("waves", 2 * torch.pi * torch.randn(channels, 2))
        self.register_buffer("phases", 2 * torch.pi * torch.rand(channels))
        coordinates = torch.linspace(-0.5, 0.5, size)
        self.register_buffer("grid", torch.stack(torch.meshgrid(coordinates, coordinates, indexing="xy")))

    def forward(self, w: Tensor) -> Tensor:
        turn, shift = self.affine(w).split(2, dim=1)
        c, s = F.normalize(turn).unbind(1)
        rotation = torch.stack((c, -s, s, c), dim=1).unflatten(1, (2, 2))  # [N, 2, 2]
        coordinates = torch.einsum("nij,jhw->nihw", rotation, self.grid) + shift[:, :, None, None]
        return torch.sin(torch.einsum("ci,nihw->nchw", self.waves, coordinates) + self.phases[:, None, None])


def _resize(x: Tensor, size: int) -> Tensor:
    return x if x.shape[-1] == size else F.interpolate(x, size=(size, size), mode="bilinear")
