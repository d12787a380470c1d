# SPDX-License-Identifier: Apache-2.0
"""The package stylegan2_pytorch of lucidrains."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..sites import Rule
from .family import Calls, Family, repeat_rows

NAME = "lucidrains stylegan2_pytorch"


def _calls(net: Any, label: Tensor, options: dict[str, Any]) -> Calls:
    size = net.GE.image_size
    random = torch.Generator("cpu").manual_seed(0)
    noise = torch.rand(1, size, size, 1, generator=random, dtype=torch.float32, device="cpu").to(label.device)
    return Calls(
        net.GE.latent_dim,
        partial(repeat_rows, net.SE, net.GE.num_layers),
        partial(_image, net.GE, noise, options),
    )


def _image(net: Any, noise: Tensor, options: dict[str, Any], w: Tensor) -> Tensor:
    return net(w, **{"input_noise": noise.expand(len(w), -1, -1, -1)} | options)


LUCIDRAINS = Family(
    NAME,
    ("SE", "GE.blocks.0.to_style1", "GE.blocks.0.to_rgb.to_style"),
    (
        Rule(r"GE\.(?P<site>(?P<block>blocks\.\d+)\.to_style(?P<i>[12]))", r"GE.\g<block>.conv\g<i>"),
        Rule(r"GE\.(?P<site>blocks\.\d+\.to_rgb)\.to_style", r"GE.\g<site>.conv", kind="rgb"),
    ),
    _calls,
    children=("SE", "GE"),
    image_range=(0.0, 1.0),
)
