# SPDX-License-Identifier: Apache-2.0
"""StyleGAN1 of lernapparat, which GANLocalEditing uses."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..sites import Rule, Scale
from .family import Calls, Family, temporary_attributes


def _calls(net: Any, label: Tensor, options: dict[str, Any]) -> Calls:
    random = torch.Generator().manual_seed(0)
    noises: list[tuple[Any, Tensor]] = []
    for size, block in net.g_synthesis.blocks.named_children():
        height, width = map(int, size.split("x"))
        for layer in block.modules():
            if hasattr(layer, "noise") and not isinstance(layer.noise, nn.Module):
                noise = torch.randn(1, 1, height, width, generator=random, dtype=torch.float32, device="cpu").to(
                    label.device
                )
                noises.append((layer, noise if layer.noise is None else layer.noise))
    return Calls(
        net.g_mapping.dense0.weight.shape[1],
        partial(_map, net.g_mapping),
        partial(_image, net, noises, options),
        net.truncation.avg_latent,
    )


def _map(mapping: Any, z: Tensor) -> Tensor:
    return mapping(z).contiguous()


def _image(net: Any, noises: list[tuple[Any, Tensor]], options: dict[str, Any], w: Tensor) -> Tensor:
    with temporary_attributes("noise", noises):
        return net.g_synthesis(net.g_style(w), **options)


def _read_first(output: Any) -> Tensor:
    return output[:, 0, :, 0, 0]


def _write_first(inputs: tuple[Any, ...], output: Any, scale: Tensor) -> Any:
    return torch.cat((scale[:, None, :, None, None], output[:, 1:]), dim=1)


FIRST_OF_TWO = Scale(_read_first, _write_first)  # for outputs [N, 2, C, 1, 1]

LERNAPPARAT = Family(
    "lernapparat style_gan (GANLocalEditing)",
    ("g_mapping", "truncation", "g_style.style_layers.4x4_0", "g_synthesis.blocks.4x4.epi1.top_epi"),
    tuple(
        Rule(
            rf"g_style\.style_layers\.(?P<site>(?P<size>\d+x\d+)_{i})",
            rf"g_synthesis.blocks.\g<size>.epi{i + 1}.top_epi",
            reads="output",
            scale=FIRST_OF_TWO,
            normalized=True,
        )
        for i in (0, 1)
    ),
    _calls,
)
