# SPDX-License-Identifier: Apache-2.0
"""NVlabs stylegan2-ada-pytorch and stylegan3, StyleGAN-XL."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from ..sites import Rule
from .family import Calls, Family, margin

NVLABS_STYLEGAN2 = "NVlabs stylegan2-ada-pytorch"
NVLABS_STYLEGAN3 = "NVlabs stylegan3, StyleGAN-XL"


def _calls(net: Any, label: Tensor, options: dict[str, Any]) -> Calls:
    mean = getattr(net.mapping, "w_avg", None)
    if mean is not None and mean.ndim == 2:  # StyleGAN-XL stores one mean per class
        mean = mean[label.argmax()]
    options = {"noise_mode": "const"} | options
    return Calls(net.z_dim, partial(_map, net.mapping, label), partial(net.synthesis, **options), mean)


def _map(mapping: Any, label: Tensor, z: Tensor) -> Tensor:
    return mapping(z, label.expand(len(z), -1))


STYLEGAN2 = Family(
    NVLABS_STYLEGAN2,
    ("mapping", "synthesis.b4.conv1.affine"),
    (
        Rule(r"synthesis\.(?P<site>b\d+\.conv[01])\.affine", r"synthesis.\g<site>"),
        Rule(r"synthesis\.(?P<site>b\d+\.torgb)\.affine", r"synthesis.\g<site>", kind="rgb"),
    ),
    _calls,
    classes="c_dim",
)
STYLEGAN3 = Family(
    NVLABS_STYLEGAN3,
    ("mapping", "synthesis.input.affine"),
    (Rule(r"synthesis\.(?P<site>L\d+_\d+_\d+)\.affine", r"synthesis.\g<site>", last="rgb", margin=margin),),
    _calls,
    classes="c_dim",
    transform_row=0,
)
