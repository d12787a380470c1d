# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 of BasicSR and GFPGAN."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from .family import Calls, Family, repeat_rows, takes
from .rosinality import first_output, list_rules

NAME = "BasicSR, GFPGAN StyleGAN2"
_MODULES = ("style_mlp", "style_conv1.modulated_conv.modulation", "to_rgb1.modulated_conv.modulation")


def _calls(net: Any, label: Tensor, options: dict[str, Any]) -> Calls:
    if takes(net, "conditions") and "conditions" not in options:
        raise ValueError(
            f"conditions must be given, because {type(net).__name__} draws from a photo: pass the conditions of the "
            "photo, or pass the network without conditions (StyleGAN2GeneratorClean, StyleGAN2Generator or "
            "StyleGAN2GeneratorBilinear) with the same state dict"
        )
    options = {"input_is_latent": True, "randomize_noise": False} | options
    return Calls(
        net.num_style_feat, partial(repeat_rows, net.style_mlp, net.num_latent), partial(first_output, net, options)
    )


BASICSR = Family(NAME, _MODULES, list_rules("modulated_conv", "modulation", style="style_"), _calls)
GFPGAN = Family(
    "GFPGAN",
    ("condition_scale", *(f"stylegan_decoder.{name}" for name in _MODULES)),
    refusal="it restores a photo, and does not draw from w; pass its module.stylegan_decoder, with the argument "
    "conditions for a photo",
)
