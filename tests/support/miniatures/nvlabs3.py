# SPDX-License-Identifier: Apache-2.0
"""StyleGAN3 of NVlabs, and StyleGAN-XL, which is the same network with classes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import ROOT_2, WIDTH, affine, modulated, twice
from .nvlabs2 import NVMapping


class Waves(nn.Module):
    """Fourier features, rotated and shifted by an affine function of w; the grid extends beyond the frame."""

    def __init__(self, channels: int, size: int, rate: int, width: int | None = None) -> None:
        super().__init__()
        self.affine = nn.Linear(WIDTH, 4)
        self.register_buffer("freqs", 2 * torch.randn(channels, 2))
        places = [(torch.arange(n) + 0.5 - n / 2) / rate for n in (width or size, size)]
        self.register_buffer("grid", torch.stack(torch.meshgrid(*places, indexing="xy")))

    def forward(self, w: Tensor) -> Tensor:
        t = self.affine(w)
        c, s = F.normalize(t[:, :2]).unbind(1)
        turn = torch.stack([c, -s, s, c], 1).unflatten(1, (2, 2))
        places = torch.einsum("nij,jhw->nihw", turn, self.grid) + t[:, 2:, None, None]
        return torch.sin(6.28 * torch.einsum("ci,nihw->nchw", self.freqs, places))


Width = Callable[[int, int], int]  # from the height of a tensor and its sampling rate to its width


def square(side: int, rate: int) -> int:
    return side


def halved(side: int, rate: int) -> int:
    """Width of StyleGAN-Human's networks: the margin is halved, too."""
    return side // 2


def narrow(side: int, rate: int) -> int:
    """Width if the image is halved and the margin is not."""
    return side - rate // 2


MARGIN = 10
# Sampling rate of the input, sampling rate of the output, and output channels of every layer.
LAYERS = ((16, 16, 8), (16, 32, 8), (32, 32, 6), (32, 32, 3))


def sides() -> list[tuple[int, int]]:
    """Side lengths of the input and output of every StyleGAN3 layer; the last two outputs have no margin."""
    after = [rate + 2 * MARGIN for _, rate, _ in LAYERS[:-2]] + [LAYERS[-1][1]] * 2
    return list(zip([LAYERS[0][0] + 2 * MARGIN, *after], after, strict=False))


def keep_place(x: Tensor, before: int, after: int, height: int, width: int | None = None) -> Tensor:
    """Resample to another rate, then crop the margin: every position in the frame stays in its place."""
    x = twice(x) if after > before else x
    width = width or height
    y, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[:, :, y : y + height, left : left + width]


class NVLayer3(nn.Module):
    def __init__(self, i: int, width: Width) -> None:
        super().__init__()
        self.rates = LAYERS[i][:2]
        self.in_sampling_rate = self.rates[0]
        before, after = sides()[i]
        self.in_size, self.out_size = (
            torch.tensor([width(side, rate), side]).numpy()
            for side, rate in zip((before, after), self.rates, strict=True)
        )
        self.rgb = i == len(LAYERS) - 1
        before = LAYERS[max(0, i - 1)][2]
        kernel = 1 if self.rgb else 3
        self.weight = nn.Parameter(torch.randn(LAYERS[i][2], before, kernel, kernel) / (3 * before**0.5))
        self.affine = affine(before)

    def forward(self, x: Tensor, w: Tensor, noise_mode: str = "random") -> Tensor:
        x = modulated(x, self.weight, self.affine(w), demodulate=not self.rgb)
        x = x if self.rgb else F.leaky_relu(x, 0.2) * ROOT_2
        return keep_place(x, *self.rates, int(self.out_size[1]), int(self.out_size[0]))


class NVSynthesis3(nn.Module):
    def __init__(self, width: Width) -> None:
        super().__init__()
        side, rate = sides()[0][0], LAYERS[0][0]
        self.input = Waves(LAYERS[0][2], side, rate, width(side, rate))
        self.layer_names = [f"L{i}_{side}_{LAYERS[i][2]}" for i, (_, side) in enumerate(sides())]
        for i, name in enumerate(self.layer_names):
            setattr(self, name, NVLayer3(i, width))
        self.num_ws = len(LAYERS) + 1

    def forward(self, ws: Tensor, **options) -> Tensor:
        x = self.input(ws[:, 0])
        for i, name in enumerate(self.layer_names, 1):
            x = getattr(self, name)(x, ws[:, i], **options)
        return x


class NVStyleGAN3(nn.Module):
    def __init__(self, classes: int = 0, width: Width = square) -> None:
        super().__init__()
        self.z_dim, self.c_dim = WIDTH, classes
        self.synthesis = NVSynthesis3(width)
        self.mapping = NVMapping(self.synthesis.num_ws, classes, means=classes)
