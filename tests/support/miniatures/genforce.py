# SPDX-License-Identifier: Apache-2.0
"""StyleGAN1 and StyleGAN2 of genforce, StyleGAN2 and StyleGAN3 of Hammer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import CHANNELS, ROOT_2, WIDTH, Conv, affine, holder, modulated, normalized, skip, twice
from .nvlabs3 import LAYERS, Waves, keep_place, sides


class Dense(nn.Module):
    """Mapping from z to a dictionary: "z" and "w" [N, D], "wp" [N, rows, D]."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.dense0 = nn.Linear(WIDTH, WIDTH)

    def forward(self, z: Tensor, label: Tensor | None = None) -> dict[str, Tensor]:
        w = F.leaky_relu(self.dense0(normalized(z)), 0.2)
        return {"z": z, "w": w, "wp": w[:, None].repeat(1, self.rows, 1)}


class Truncation(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.register_buffer("w_avg", torch.randn(WIDTH))

    def forward(self, w: Tensor, trunc_psi: float = 1.0) -> Tensor:
        return self.w_avg + (w[:, None].repeat(1, self.rows, 1) - self.w_avg) * trunc_psi


class StyleMod(nn.Module):
    """Map x and w to `x (scale + 1) + bias` and the style [N, 2C]: the scale, then the bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.linear = channels, affine(2 * channels, one=False)

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        style = self.linear(w)
        scale, bias = style.view(-1, 2, self.channels, 1, 1).unbind(1)
        return x * (scale + 1) + bias, style


class GenforceLayer1(Conv):
    def __init__(self, before: int, after: int, size: int, *, first: bool = False, up: bool = False) -> None:
        super().__init__(before, after, size, up=up)
        if first:
            self.const = nn.Parameter(torch.randn(1, after, size, size))
        self.activate = nn.LeakyReLU(0.2, inplace=True)
        self.normalize = nn.InstanceNorm2d(after)
        self.style = StyleMod(after)

    def forward(self, x: Tensor | None, w: Tensor, randomize_noise: bool = False) -> tuple[Tensor, Tensor]:
        if x is None:
            x = self.const.repeat(len(w), 1, 1, 1)
        else:
            x = F.conv2d(twice(x) if self.up else x, self.weight, padding=1)
        x = x + self.noise_of(x, "random" if randomize_noise else "const")
        return self.style(self.normalize(self.activate(x)), w)


class GenforceSynthesis1(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        before = CHANNELS[4]
        for i, (size, channels) in enumerate(CHANNELS.items()):
            self.add_module(f"layer{2 * i}", GenforceLayer1(before, channels, size, first=i == 0, up=i > 0))
            self.add_module(f"layer{2 * i + 1}", GenforceLayer1(channels, channels, size))
            self.add_module(f"output{i}", nn.Conv2d(channels, 3, 1))
            before = channels

    def forward(self, wp: Tensor, lod=None, randomize_noise: bool = False) -> dict[str, Tensor]:
        x, results = None, {"wp": wp}
        for i in range(2 * len(CHANNELS)):
            x, results[f"style{i:02d}"] = self.get_submodule(f"layer{i}")(x, wp[:, i], randomize_noise)
        return results | {"image": self.get_submodule(f"output{len(CHANNELS) - 1}")(x) / 2}


class StyledLayer(Conv):
    """Layer of genforce and Hammer, which also returns its style."""

    def __init__(self, before: int, after: int, size: int, *, up: bool = False, rgb: bool = False) -> None:
        super().__init__(before, after, size, up=up, rgb=rgb)
        self.style = affine(before)

    def forward(self, x: Tensor, w: Tensor, mode: str) -> tuple[Tensor, Tensor]:
        style = self.style(w)
        return self.run(x, style, self.noise_of(x, mode)), style


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.const = nn.Parameter(torch.randn(1, CHANNELS[4], 4, 4))

    def forward(self, w: Tensor) -> Tensor:
        return self.const.repeat(len(w), 1, 1, 1)


class LayerSynthesis(nn.Module):
    """StyleGAN2 of genforce and Hammer, which have different arguments for noise."""

    def __init__(self) -> None:
        super().__init__()
        self.early_layer = Constant()
        before = CHANNELS[4]
        for i, (size, channels) in enumerate(CHANNELS.items()):
            if i:
                self.add_module(f"layer{2 * i - 1}", StyledLayer(before, channels, size, up=True))
            self.add_module(f"layer{2 * i}", StyledLayer(channels, channels, size))
            self.add_module(f"output{i}", StyledLayer(channels, 3, size, rgb=True))
            before = channels

    def run(self, wp: Tensor, mode: str) -> dict[str, Tensor]:
        x, image = self.early_layer(wp[:, 0]), None
        for i in range(2 * len(CHANNELS) - 1):
            x, _ = self.get_submodule(f"layer{i}")(x, wp[:, i], mode)
            if i % 2 == 0:
                image = skip(image, self.get_submodule(f"output{i // 2}")(x, wp[:, i + 1], mode)[0])
        return {"wp": wp, "image": image}


class GenforceSynthesis2(LayerSynthesis):
    def forward(self, wp: Tensor, randomize_noise: bool = False) -> dict[str, Tensor]:
        return self.run(wp, "random" if randomize_noise else "const")


class HammerSynthesis2(LayerSynthesis):
    def forward(self, wp: Tensor, noise_mode: str = "const", impl: str = "cuda") -> dict[str, Tensor]:
        return self.run(wp, noise_mode)


def genforce(synthesis: nn.Module) -> nn.Module:
    rows = 2 * len(CHANNELS)
    network = holder(mapping=Dense(rows), truncation=Truncation(rows), synthesis=synthesis)
    network.z_space_dim, network.w_space_dim, network.label_size = WIDTH, WIDTH, 0
    return network


def hammer(synthesis: nn.Module, rows: int) -> nn.Module:
    network = holder(mapping=Dense(rows), synthesis=synthesis)
    network.register_buffer("w_avg", torch.randn(WIDTH))
    network.z_dim, network.w_dim, network.label_dim = WIDTH, WIDTH, 0
    return network


class HammerConv3(nn.Module):
    """Convolution that normalises styles over the batch. Demodulation cancels the normalisation."""

    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, kernel, kernel) / (3 * before**0.5))
        self.style = affine(before)

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        style = self.style(w)
        if self.weight.shape[-1] == 1:
            return modulated(x, self.weight, style, demodulate=False), style
        return modulated(x, self.weight, style * style.square().mean().rsqrt()), style


class HammerLayer3(nn.Module):
    def __init__(self, i: int) -> None:
        super().__init__()
        self.rates, (self.in_size, self.out_size) = LAYERS[i][:2], sides()[i]
        self.in_sampling_rate = self.rates[0]
        self.conv = HammerConv3(LAYERS[max(0, i - 1)][2], LAYERS[i][2], 1 if i == len(LAYERS) - 1 else 3)

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        x, style = self.conv(x, w)
        return keep_place(F.leaky_relu(x, 0.2) * ROOT_2, *self.rates, self.out_size), style


class HammerSynthesis3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.early_layer = Waves(LAYERS[0][2], sides()[0][0], LAYERS[0][0])
        for i in range(len(LAYERS)):
            self.add_module(f"layer{i}", HammerLayer3(i))

    def forward(self, wp: Tensor, impl: str = "cuda") -> dict[str, Tensor]:
        x = self.early_layer(wp[:, 0])
        for i in range(len(LAYERS)):
            x, _ = self.get_submodule(f"layer{i}")(x, wp[:, i + 1])
        return {"wp": wp, "image": x}
