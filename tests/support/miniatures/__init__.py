# SPDX-License-Identifier: Apache-2.0
"""Small networks with the module names, calls, style storage and noise of the code bases that `wrap` supports.

Weights are random, and images depend on every style. Sizes are small: w has 12 elements, layers have 8, 8 and 6
channels, and images have 16 x 16 pixels (32 x 32 for StyleGAN3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from .common import CHANNELS, WIDTH, holder, with_colours
from .genforce import GenforceSynthesis1, GenforceSynthesis2, HammerSynthesis2, HammerSynthesis3, genforce, hammer
from .lernapparat_port import lernapparat
from .lists import MMagic, Rosinality
from .lucid import lucidrains
from .nvlabs2 import NVStyleGAN2
from .nvlabs3 import LAYERS, NVStyleGAN3, halved, narrow

__all__ = [
    "CHANNELS",
    "LAYERS",
    "MINIATURES",
    "WIDTH",
    "Miniature",
    "halved",
    "holder",
    "miniature",
    "narrow",
    "with_colours",
]


@dataclass(frozen=True)
class Miniature:
    """A small network of a code base, and its properties.

    Args:
        build: Makes the network.
        run: Maps (network, w) to images with fixed noise, as the code base does.
        last: Where to observe the tensor of the last site: a module, and "input" or "output".
        random: Maps (network, w) to images with the defaults of the code base, if these draw random noise.
        kinds: Kinds of the sites in forward order: "c" for "conv", "r" for "rgb".
        rows: Number of rows of w.
        label: Class, if the network has classes.
        unit: Whether images are in [0, 1] instead of [-1, 1].
        w_matters: Whether w affects the image in other ways than through the styles.
    """

    build: Callable[[], nn.Module]
    run: Callable[[Any, Tensor], Tensor]
    last: tuple[str, str]
    random: Callable[[Any, Tensor], Tensor] | None = None
    kinds: str = "crccrccr"
    rows: int = 6
    label: int | None = None
    unit: bool = False
    w_matters: bool = False


def _nvlabs(net: Any, w: Tensor) -> Tensor:
    return net.synthesis(w, noise_mode="const")


def _lucidrains(net: Any, w: Tensor) -> Tensor:
    noise = torch.rand(1, 16, 16, 1, generator=torch.Generator().manual_seed(0))
    return net.GE(w, noise.expand(len(w), -1, -1, -1))


def _lernapparat(net: Any, w: Tensor) -> Tensor:
    random = torch.Generator().manual_seed(0)
    layers = [module for module in net.modules() if hasattr(module, "noise") and hasattr(module, "weight")]
    for i, layer in enumerate(layers):
        side = 4 << i // 2
        layer.noise = torch.randn(1, 1, side, side, generator=random)
    image = net.g_synthesis(net.g_style(w))
    for layer in layers:
        layer.noise = None
    return image


_NV2 = {"run": _nvlabs, "random": lambda net, w: net.synthesis(w), "last": ("synthesis.b16.torgb", "input")}
_NV3 = {"run": _nvlabs, "last": ("synthesis.L3_32_3", "input"), "kinds": "cccr", "rows": 5, "w_matters": True}
MINIATURES = {
    "nvlabs2": Miniature(NVStyleGAN2, **_NV2),
    "nvlabs2-classes": Miniature(lambda: NVStyleGAN2(classes=4), **_NV2, label=2),
    "nvlabs2-half": Miniature(lambda: NVStyleGAN2(half=True), **_NV2),
    "nvlabs3": Miniature(NVStyleGAN3, **_NV3),
    "human3": Miniature(lambda: NVStyleGAN3(width=halved), **_NV3),
    "narrow3": Miniature(lambda: NVStyleGAN3(width=narrow), **_NV3),
    "stylegan-xl": Miniature(lambda: NVStyleGAN3(classes=4), **_NV3, label=2),
    "rosinality": Miniature(
        Rosinality,
        lambda net, w: net([w], input_is_latent=True, randomize_noise=False)[0],
        ("to_rgbs.1.conv", "input"),
        lambda net, w: net([w], input_is_latent=True)[0],
    ),
    "genforce1": Miniature(
        lambda: genforce(GenforceSynthesis1()),
        lambda net, w: net.synthesis(w, randomize_noise=False)["image"],
        ("synthesis.layer5.normalize", "output"),
        lambda net, w: net.synthesis(w, randomize_noise=True)["image"],
        kinds="cccccc",
        w_matters=True,
    ),
    "genforce2": Miniature(
        lambda: genforce(GenforceSynthesis2()),
        lambda net, w: net.synthesis(w, randomize_noise=False)["image"],
        ("synthesis.output2", "input"),
        lambda net, w: net.synthesis(w, randomize_noise=True)["image"],
    ),
    "hammer2": Miniature(
        lambda: hammer(HammerSynthesis2(), 6),
        lambda net, w: net.synthesis(w, noise_mode="const")["image"],
        ("synthesis.output2", "input"),
        lambda net, w: net.synthesis(w, noise_mode="random")["image"],
    ),
    "hammer3": Miniature(
        lambda: hammer(HammerSynthesis3(), 5),
        lambda net, w: net.synthesis(w)["image"],
        ("synthesis.layer3.conv", "input"),
        kinds="cccr",
        rows=5,
        w_matters=True,
    ),
    "lucidrains": Miniature(
        lucidrains,
        _lucidrains,
        ("GE.blocks.2.to_rgb.conv", "input"),
        lambda net, w: net.GE(w, torch.rand(len(w), 16, 16, 1)),
        kinds="ccrccrccr",
        rows=3,
        unit=True,
    ),
    "lernapparat": Miniature(
        lernapparat,
        _lernapparat,
        ("g_synthesis.blocks.16x16.epi2.top_epi", "output"),
        lambda net, w: net.g_synthesis(net.g_style(w)),
        kinds="cccccc",
        rows=18,
        w_matters=True,
    ),
    "mmagic": Miniature(
        MMagic,
        lambda net, w: net([w], input_is_latent=True, randomize_noise=False),
        ("to_rgbs.1.conv", "input"),
        lambda net, w: net([w], input_is_latent=True),
    ),
}


@cache
def miniature(name: str) -> nn.Module:
    """The network of this name, shared by all tests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MINIATURES[name].build().eval()
