# SPDX-License-Identifier: Apache-2.0
"""Small networks with the module names, calls, style storage and noise of the code bases that `wrap` supports.

Weights are random, and images depend on every style. Sizes are small: w has 12 elements, layers have 8, 8 and 6
channels, and images have 16 x 16 pixels (32 x 32 for StyleGAN3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from .common import CHANNELS, WIDTH, holder, with_colours
from .genforce import GenforceSynthesis1, GenforceSynthesis2, HammerSynthesis2, HammerSynthesis3, genforce, hammer
from .lernapparat_port import lernapparat
from .lists import MMagic, Rosinality
from .lucid import lucidrains
from .nvlabs2 import NVStyleGAN2
from .nvlabs3 import LAYERS, NVStyleGAN3, halved, narrow
from .relatives import BasicSR, BasicSRWithConditions, DualStyleGAN, RetrieveInStyle, Swagan, conditions
from .text_and_camera import EG3D, StyleGANT, camera

__all__ = [
    "CHANNELS",
    "EXTRINSIC",
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

EXTRINSIC = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(0))


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
        label: Class, text or camera, if the network is conditional.
        options: Further arguments of `wrap`.
        sizes: Sides of the tensors of the sites.
        unit: Whether images are in [0, 1] instead of [-1, 1].
        w_matters: Whether w affects the image in other ways than through the styles.
    """

    build: Callable[[], nn.Module]
    run: Callable[[Any, Tensor], Tensor]
    last: tuple[str, str]
    random: Callable[[Any, Tensor], Tensor] | None = None
    kinds: str = "crccrccr"
    rows: int = 6
    label: int | str | Tensor | None = None
    options: dict[str, Any] = field(default_factory=dict)
    sizes: frozenset[int] = frozenset(CHANNELS)
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


def _list(net: Any, w: Tensor, **options: Any) -> Tensor:
    return net([w], input_is_latent=True, **options)[0]


def _dual(net: Any, w: Tensor, **options: Any) -> Tensor:
    return net([w], EXTRINSIC.expand(len(w), -1), input_is_latent=True, **options)[0]


def _eg3d(net: Any, w: Tensor) -> Tensor:
    """Images with the random numbers that each has in a batch of its own after `torch.manual_seed(0)`."""
    random, rand = torch.Generator().manual_seed(0), torch.rand

    def draw(first: int, *rest: int, **options: Any) -> Tensor:
        return torch.cat([rand(first // len(w), *rest, generator=random)] * len(w))

    with mock.patch("torch.rand", draw), mock.patch("torch.rand_like", lambda x: draw(*x.shape)):
        return net.synthesis(w, camera().expand(len(w), -1), noise_mode="const")["image"]


_FIXED = {"randomize_noise": False}
_NV2 = {"run": _nvlabs, "random": lambda net, w: net.synthesis(w), "last": ("synthesis.b16.torgb", "input")}
_NV3 = {"run": _nvlabs, "last": ("synthesis.L3_32_3", "input"), "kinds": "cccr", "rows": 5, "w_matters": True}
_NV3 |= {"sizes": frozenset((16, 32))}
MINIATURES = {
    "nvlabs2": Miniature(NVStyleGAN2, **_NV2),
    "nvlabs2-classes": Miniature(lambda: NVStyleGAN2(classes=4), **_NV2, label=2),
    "nvlabs2-half": Miniature(lambda: NVStyleGAN2(half=True), **_NV2),
    "nvlabs3": Miniature(NVStyleGAN3, **_NV3),
    "human3": Miniature(lambda: NVStyleGAN3(width=halved), **_NV3 | {"sizes": frozenset((8, 16, 32))}),
    "narrow3": Miniature(lambda: NVStyleGAN3(width=narrow), **_NV3 | {"sizes": frozenset((8, 16, 32))}),
    "stylegan-xl": Miniature(lambda: NVStyleGAN3(classes=4), **_NV3, label=2),
    "stylegan-t": Miniature(
        StyleGANT,
        _nvlabs,
        ("synthesis.b16.torgb", "input"),
        lambda net, w: net.synthesis(w),
        kinds="cccccr",
        rows=7,
        label="a cat",
        sizes=frozenset((8, 16)),
        w_matters=True,
    ),
    "eg3d": Miniature(
        EG3D,
        _eg3d,
        ("superresolution.block1.torgb", "input"),
        lambda net, w: net.synthesis(w, camera()[None], noise_mode="const")["image"],
        kinds="crccrccrccrccr",
        label=camera(),
        sizes=frozenset((4, 8, 16, 32, 64)),
    ),
    "rosinality": Miniature(Rosinality, partial(_list, **_FIXED), ("to_rgbs.1.conv", "input"), _list),
    "swagan": Miniature(Swagan, partial(_list, **_FIXED), ("to_rgbs.1.conv", "input"), _list),
    "retrieve-in-style": Miniature(
        RetrieveInStyle,
        lambda net, w: net(net.get_latent(w, is_latent=True))[0],
        ("to_rgbs.1.conv", "input"),
        lambda net, w: net(net.get_latent(w, is_latent=True), randomize_noise=True)[0],
    ),
    "dual-stylegan": Miniature(
        DualStyleGAN,
        partial(_dual, **_FIXED),
        ("generator.to_rgbs.1.conv", "input"),
        _dual,
        options={"exstyles": EXTRINSIC},
    ),
    "basicsr": Miniature(BasicSR, partial(_list, **_FIXED), ("to_rgbs.1.modulated_conv", "input"), _list),
    "gfpgan-decoder": Miniature(
        BasicSRWithConditions,
        partial(_list, **_FIXED, conditions=conditions()),
        ("to_rgbs.1.modulated_conv", "input"),
        partial(_list, conditions=conditions()),
        options={"conditions": conditions()},
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
        sizes=frozenset((16, 32)),
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
