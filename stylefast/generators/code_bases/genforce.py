# SPDX-License-Identifier: Apache-2.0
"""StyleGAN1 and StyleGAN2 of genforce, StyleGAN2 and StyleGAN3 of Hammer."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..sites import Rule, Scale
from .family import Calls, Family, batch, sampling_rate

GENFORCE = "genforce"
HAMMER = "Hammer"


def _genforce(net: Any, label: Tensor, options: dict[str, Any]) -> Calls:
    return Calls(
        net.z_space_dim,
        partial(_genforce_map, net, label),
        partial(_image, net, {"randomize_noise": False} | options),
        net.truncation.w_avg.reshape(-1, net.w_space_dim),
    )


def _genforce_map(net: Any, label: Tensor, z: Tensor) -> Tensor:
    return net.truncation(net.mapping(z, batch(label, z))["w"])


def _hammer(net: Any, label: Tensor, options: dict[str, Any], **defaults: Any) -> Calls:
    return Calls(
        net.z_dim,
        partial(_hammer_map, net, label),
        partial(_image, net, defaults | options),
        net.w_avg.reshape(-1, net.w_dim),
    )


def _hammer_map(net: Any, label: Tensor, z: Tensor) -> Tensor:
    return net.mapping(z, batch(label, z))["wp"]


def _image(net: Any, options: dict[str, Any], w: Tensor) -> Tensor:
    return net.synthesis(w, **options)["image"]


def _read_modulated(output: Any) -> Tensor:
    return output[1].chunk(2, dim=1)[0]


def _write_modulated(inputs: tuple[Any, ...], output: Any, scale: Tensor) -> Any:
    """Return the output of genforce's style module: the modulated tensor, and the style [N, 2C].

    The first half of the style is the scale minus one, and the second half is the bias.
    """
    style = torch.cat((scale, output[1][:, scale.shape[1] :]), dim=1)
    parts = style.view(-1, 2, scale.shape[1], 1, 1)
    return inputs[0] * (parts[:, 0] + 1) + parts[:, 1], style


_STYLEGAN2 = (
    Rule(r"synthesis\.(?P<site>layer\d+)\.style", r"synthesis.\g<site>"),
    Rule(r"synthesis\.(?P<site>output\d+)\.style", r"synthesis.\g<site>", kind="rgb"),
)

GENFORCE_STYLEGAN1 = Family(
    f"{GENFORCE} StyleGAN1",
    ("mapping", "truncation", "synthesis.layer0.style", "synthesis.layer0.normalize"),
    (
        Rule(
            r"(?P<style>synthesis\.(?P<site>layer\d+)\.style)",
            r"\g<style>",
            scale=Scale(_read_modulated, _write_modulated),
            normalized=True,
        ),
    ),
    _genforce,
    classes="label_size",
)
GENFORCE_STYLEGAN2 = Family(
    f"{GENFORCE} StyleGAN2",
    ("mapping", "truncation", "synthesis.early_layer", "synthesis.layer0.style"),
    _STYLEGAN2,
    _genforce,
    classes="label_size",
)
HAMMER_STYLEGAN2 = Family(
    f"{HAMMER} StyleGAN2",
    ("mapping", "synthesis.early_layer", "synthesis.layer0.style"),
    _STYLEGAN2,
    partial(_hammer, noise_mode="const"),
    classes="label_dim",
)
HAMMER_STYLEGAN3 = Family(
    f"{HAMMER} StyleGAN3",
    ("mapping", "synthesis.early_layer.affine", "synthesis.layer0.conv.style"),
    (Rule(r"synthesis\.(?P<site>layer\d+)\.conv\.style", r"synthesis.\g<site>", last="rgb", rate=sampling_rate),),
    _hammer,
    classes="label_dim",
    transform_row=0,
)
