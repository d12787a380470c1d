# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 of rosinality, also as the decoder of pSp, e4e and HyperStyle, and of mmagic."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ..sites import Rule
from .family import Calls, Family, batch, repeat_rows

NAME = "rosinality stylegan2-pytorch"


def _rosinality(net: Any, label: Tensor, options: dict[str, Any]) -> Calls:
    options = {"input_is_latent": True, "randomize_noise": False} | options
    return Calls(net.style_dim, partial(repeat_rows, net.style, net.n_latent), partial(first_output, net, options))


def first_output(net: Any, options: dict[str, Any], w: Tensor) -> Tensor:
    """Return the first output of a network that takes a list of latents."""
    return net([w], **options)[0]


def _mmagic(net: Any, label: Tensor, options: dict[str, Any]) -> Calls:
    options = {"input_is_latent": True, "randomize_noise": False} | options
    return Calls(
        net.noise_size,
        partial(_mmagic_map, net, label),
        partial(_mmagic_image, net, options),
        getattr(net, "w_avg", None),
    )


def _mmagic_map(net: Any, label: Tensor, z: Tensor) -> Tensor:
    return net([z], label=batch(label, z), return_latent_only=True)


def _mmagic_image(net: Any, options: dict[str, Any], w: Tensor) -> Tensor:
    return net([w], **options)


def list_rules(conv: str, modulation: str, *, prefix: str = "", style: str = "") -> tuple[Rule, Rule]:
    """Return the rules for `conv1`, `convs`, `to_rgb1` and `to_rgbs`.

    Args:
        conv: Name of the modulated convolution in each of them.
        modulation: Name of the style module in the modulated convolution.
        prefix: Regular expression for the names before `conv1`.
        style: Prefix of the names of convolutions, as in `style_conv1`.
    """
    prefix, before = rf"(?P<prefix>{prefix})", r"\g<prefix>\g<site>"
    return (
        Rule(rf"{prefix}(?P<site>{style}conv1|{style}convs\.\d+)\.{conv}\.{modulation}", f"{before}.{conv}"),
        Rule(rf"{prefix}(?P<site>to_rgb1|to_rgbs\.\d+)\.{conv}\.{modulation}", f"{before}.{conv}", kind="rgb"),
    )


ROSINALITY = Family(
    f"{NAME} (pSp, e4e, HyperStyle: decoder)",
    ("style", "conv1.conv.modulation", "to_rgb1.conv.modulation"),
    list_rules("conv", "modulation"),
    _rosinality,
)
MMAGIC = Family(
    "mmagic StyleGAN2",
    ("style_mapping", "conv1.conv.style_modulation", "to_rgb1.conv.style_modulation"),
    list_rules("conv", "style_modulation"),
    _mmagic,
    classes="cond_size",
)
