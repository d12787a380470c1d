# SPDX-License-Identifier: Apache-2.0
"""NVlabs stylegan2-ada-pytorch and stylegan3, StyleGAN-XL, StyleGAN-T, EG3D."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...core.checks import check_shape
from ..sites import Rule
from .family import Calls, Family, sampling_rate, temporary_attributes
from .fixed_random import FixedRandom

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


def _stylegan_t(net: Any, label: Tensor, options: dict[str, Any]) -> Calls:
    mean = torch.cat((net.mapping.x_avg, label[0]))  # truncation keeps the text
    return _calls(net, label, options)._replace(w_mean=mean)


def _text_embedding(net: Any, label: Any) -> Tensor:
    """Return the embedding [1, D] of the text `label`, or of its embedding [D]."""
    if isinstance(label, str):
        with torch.no_grad():
            return net.mapping.clip.encode_text([label]).float()
    if not isinstance(label, Tensor):
        raise ValueError(f"label must be a text, or the embedding of a text [D] with D = {net.c_dim}, got {label}")
    check_shape("label", label, D=net.c_dim)
    return label.float()[None]


def _eg3d(net: Any, label: Tensor, options: dict[str, Any]) -> Calls:
    view = _camera(net, options["c"], "c").to(label.device) if "c" in options else label
    return Calls(
        net.z_dim,
        partial(_map, net.mapping, label),
        partial(_render, net, {"noise_mode": "const"} | options, view),
        net.backbone.mapping.w_avg,
    )


def _render(net: Any, options: dict[str, Any], view: Tensor, w: Tensor) -> Tensor:
    rendering = dict(net.rendering_kwargs)
    if rendering.get("superresolution_noise_mode") == "random":
        rendering["superresolution_noise_mode"] = "const"
    resolution = net.neural_rendering_resolution  # the option of the same name changes it
    with (
        temporary_attributes("rendering_kwargs", [(net, rendering)]),
        temporary_attributes("neural_rendering_resolution", [(net, resolution)]),
        FixedRandom(len(w), w.device),  # places of samples on the rays
    ):
        return net.synthesis(w, **options | {"c": view.expand(len(w), -1)})["image"]


def _camera(net: Any, camera: Any, name: str = "label") -> Tensor:
    """Return the camera [25] or [1, 25] as [1, 25]. The last rows of its two matrices end in 1."""
    numbers = camera.float().reshape(-1) if isinstance(camera, Tensor) else None
    if numbers is None or len(numbers) != 25 or numbers[15] != 1 or numbers[24] != 1:
        raise ValueError(
            f"{name} must be a camera: a tensor of 25 numbers, which are the pose (4 x 4) and the intrinsics (3 x 3), "
            f"each with a 1 at its end, got {camera if numbers is None else numbers.tolist()}"
        )
    return numbers[None]


def _is_backbone(net: Any) -> bool:
    return getattr(net, "img_channels", 3) == 96


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
    (Rule(r"synthesis\.(?P<site>L\d+_\d+_\d+)\.affine", r"synthesis.\g<site>", last="rgb", rate=sampling_rate),),
    _calls,
    classes="c_dim",
    transform_row=0,
)
STYLEGAN_T = Family(
    "NVlabs StyleGAN-T",
    ("mapping.mlp", "synthesis.b8.convs1.0.affine.proj"),
    (
        Rule(r"synthesis\.(?P<site>b\d+\.(conv0|convs1\.\d*[02468]))\.affine", r"synthesis.\g<site>"),
        # Every second convolution is residual, and scales its normalised input.
        Rule(r"synthesis\.(?P<site>b\d+\.convs1\.\d*[13579])\.affine", r"synthesis.\g<site>.norm", reads="output"),
        Rule(r"synthesis\.(?P<site>b\d+\.torgb)\.affine", r"synthesis.\g<site>", kind="rgb"),
    ),
    _stylegan_t,
    classes="c_dim",
    label=_text_embedding,
    transform_row=0,
)
EG3D = Family(
    "NVlabs EG3D",
    ("backbone.mapping", "backbone.synthesis.b4.conv1.affine", "superresolution.block0.conv1.affine", "decoder.net"),
    (
        Rule(r"backbone\.synthesis\.(?P<site>b\d+\.conv[01])\.affine", r"backbone.synthesis.\g<site>"),
        Rule(r"backbone\.synthesis\.(?P<site>b\d+\.torgb)\.affine", r"backbone.synthesis.\g<site>", kind="rgb"),
        Rule(r"(?P<site>superresolution\.block\d+\.conv[01])\.affine", r"\g<site>"),
        Rule(r"(?P<site>superresolution\.block\d+\.torgb)\.affine", r"\g<site>", kind="rgb"),
    ),
    _eg3d,
    classes="c_dim",
    label=_camera,
)
EG3D_BACKBONE = Family(
    "backbone of NVlabs EG3D",
    STYLEGAN2.modules,
    fits=_is_backbone,
    refusal="its 96 channels are three planes of features, not an image; pass the whole TriPlaneGenerator",
)
