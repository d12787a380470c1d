# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 of rosinality, its relatives (Retrieve in Style, SWAGAN, DualStyleGAN, VToonify), and of mmagic."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ...core.checks import check_shape
from ..sites import Rule
from .family import Calls, Family, batch, passes_on_arguments, repeat_rows, takes

NAME = "rosinality stylegan2-pytorch"


def _rosinality(net: Any, label: Tensor, options: dict[str, Any]) -> Calls:
    options = {"input_is_latent": True, "randomize_noise": False} | options
    return Calls(net.style_dim, partial(repeat_rows, net.style, net.n_latent), partial(first_output, net, options))


def _takes_latents(net: Any) -> bool:
    return takes(net, "input_is_latent") or passes_on_arguments(net)


def first_output(net: Any, options: dict[str, Any], w: Tensor) -> Tensor:
    """Return the first output of a network that takes a list of latents."""
    return net([w], **options)[0]


def _retrieve_in_style(net: Any, label: Tensor, options: dict[str, Any]) -> Calls:
    options = {"randomize_noise": False} | options
    return Calls(net.style_dim, partial(repeat_rows, net.style, net.n_latent), partial(_image_of_styles, net, options))


def _image_of_styles(net: Any, options: dict[str, Any], w: Tensor) -> Tensor:
    return net(net.get_latent(w, is_latent=True), **options)[0]


def _is_retrieve_in_style(net: Any) -> bool:
    return hasattr(net.conv1, "get_latent")


def _dual_stylegan(net: Any, label: Tensor, options: dict[str, Any]) -> Calls:
    options = {"input_is_latent": True, "randomize_noise": False, "exstyles": None} | options
    exstyles = options.pop("exstyles")
    if options.get("use_res", True):
        if not isinstance(exstyles, Tensor):
            raise ValueError(
                "exstyles must be the extrinsic style code of all images, a tensor [1, D] or [1, rows, D], unless "
                f"use_res=False, got {type(exstyles).__name__}"
            )
        rows = {"rows": net.n_latent} if exstyles.ndim == 3 else {}
        check_shape("exstyles", exstyles, images=1, **rows, D=net.style_dim)
    return Calls(
        net.style_dim,
        partial(repeat_rows, net.generator.style, net.n_latent),
        partial(_dual_image, net, exstyles, options),
    )


def _dual_image(net: Any, exstyles: Tensor | None, options: dict[str, Any], w: Tensor) -> Tensor:
    exstyles = exstyles if exstyles is None else exstyles.expand(len(w), *exstyles.shape[1:])
    return net([w], exstyles, **options)[0]


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


_MODULES = ("style", "conv1.conv.modulation", "to_rgb1.conv.modulation")

ROSINALITY = Family(
    f"{NAME} (pSp, e4e, HyperStyle: decoder)",
    _MODULES,
    list_rules("conv", "modulation"),
    _rosinality,
    fits=_takes_latents,
)
SWAGAN = Family(
    "rosinality SWAGAN",
    (*_MODULES, "iwt"),
    list_rules("conv", "modulation"),
    _rosinality,
)
RETRIEVE_IN_STYLE = Family(
    "Retrieve in Style",
    _MODULES,
    list_rules("conv", "modulation"),
    _retrieve_in_style,
    fits=_is_retrieve_in_style,
)
VARIANT = Family(
    f"variant of {NAME}",
    _MODULES,
    refusal="its forward must take the argument input_is_latent; describe it by rules and functions and pass them to "
    "Generator",
)
DUAL_STYLEGAN = Family(
    "DualStyleGAN",
    ("style", "res.0.norm.style", *(f"generator.{name}" for name in _MODULES)),
    list_rules("conv", "modulation", prefix=r"generator\."),
    _dual_stylegan,
)
VTOONIFY = Family(
    "VToonify",
    ("encoder", "fusion_out", "fusion_skip", "generator"),
    refusal="it draws a picture from a frame of a video, not from w; pass its own generator, module.generator, whose "
    "images differ",
)
MMAGIC = Family(
    "mmagic StyleGAN2",
    ("style_mapping", "conv1.conv.style_modulation", "to_rgb1.conv.style_modulation"),
    list_rules("conv", "style_modulation"),
    _mmagic,
    classes="cond_size",
)
