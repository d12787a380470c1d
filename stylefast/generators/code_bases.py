# SPDX-License-Identifier: Apache-2.0
"""Code bases that `wrap` supports: names, modules that identify them, sites, and calling conventions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .sites import Rule, Scale

NVLABS_STYLEGAN2 = "NVlabs stylegan2-ada-pytorch"
NVLABS_STYLEGAN3 = "NVlabs stylegan3, StyleGAN-XL"
ROSINALITY = "rosinality stylegan2-pytorch"
GENFORCE = "genforce"
HAMMER = "Hammer"
LUCIDRAINS = "lucidrains stylegan2_pytorch"
LERNAPPARAT = "lernapparat style_gan (GANLocalEditing)"
MMAGIC = "mmagic StyleGAN2"


class Calls(NamedTuple):
    """Uniform interface to a network.

    Attributes:
        z_dim: Length of z.
        mapping: Function from z [N, z_dim] to w [N, rows, D].
        synthesis: Function from w to images.
        w_mean: Mean of w, or None if it is unknown.
    """

    z_dim: int
    mapping: Callable[[Tensor], Tensor]
    synthesis: Callable[[Tensor], Tensor]
    w_mean: Tensor | None = None


@dataclass(frozen=True)
class Family:
    """Networks of one architecture in one code base.

    Args:
        name: Name of the code base and, if it has several architectures, of the architecture.
        modules: Module names that identify the family. A module tree belongs to the first family for which it contains
            all names.
        rules: Rules that find the sites.
        calls: Function from (network, label [1, classes], further arguments of the synthesis) to the interface of the
            network.
        classes: Attribute of the network that holds the number of classes; empty if there is none.
        children: Child modules that produce the images, if the network also holds other modules.
        image_range: As in `Generator`.
        transform_row: As in `Generator`.
    """

    name: str
    modules: tuple[str, ...]
    rules: tuple[Rule, ...]
    calls: Callable[[Any, Tensor, dict[str, Any]], Calls]
    classes: str = ""
    children: tuple[str, ...] = ()
    image_range: tuple[float, float] = (-1.0, 1.0)
    transform_row: int | None = None


def _nvlabs(net: Any, label: Tensor, options: dict[str, Any]) -> Calls:
    mean = getattr(net.mapping, "w_avg", None)
    if mean is not None and mean.ndim == 2:  # StyleGAN-XL stores one mean per class
        mean = mean[label.argmax()]
    options = {"noise_mode": "const"} | options
    return Calls(
        net.z_dim, lambda z: net.mapping(z, label.expand(len(z), -1)), lambda w: net.synthesis(w, **options), mean
    )


def _rosinality(net: Any, label: Tensor, options: dict[str, Any]) -> Calls:
    options = {"randomize_noise": False} | options
    return Calls(
        net.style_dim,
        lambda z: net.style(z)[:, None].repeat(1, net.n_latent, 1),
        lambda w: net([w], input_is_latent=True, **options)[0],
    )


def _genforce(net: Any, label: Tensor, options: dict[str, Any]) -> Calls:
    options = {"randomize_noise": False} | options
    return Calls(
        net.z_space_dim,
        lambda z: net.truncation(net.mapping(z, _batch(label, z))["w"]),
        lambda w: net.synthesis(w, **options)["image"],
        net.truncation.w_avg.reshape(-1, net.w_space_dim),
    )


def _hammer(net: Any, label: Tensor, options: dict[str, Any], **defaults: Any) -> Calls:
    options = defaults | options
    return Calls(
        net.z_dim,
        lambda z: net.mapping(z, _batch(label, z))["wp"],
        lambda w: net.synthesis(w, **options)["image"],
        net.w_avg.reshape(-1, net.w_dim),
    )


def _lucidrains(net: Any, label: Tensor, options: dict[str, Any]) -> Calls:
    size = net.GE.image_size
    noise = torch.rand(1, size, size, 1, generator=torch.Generator().manual_seed(0)).to(label.device)
    return Calls(
        net.GE.latent_dim,
        lambda z: net.SE(z)[:, None].repeat(1, net.GE.num_layers, 1),
        lambda w: net.GE(w, **{"input_noise": noise.expand(len(w), -1, -1, -1)} | options),
    )


def _lernapparat(net: Any, label: Tensor, options: dict[str, Any]) -> Calls:
    random = torch.Generator().manual_seed(0)
    noises: list[tuple[Any, Tensor]] = []
    for size, block in net.g_synthesis.blocks.named_children():
        height, width = map(int, size.split("x"))
        for layer in block.modules():
            if hasattr(layer, "noise") and not isinstance(layer.noise, nn.Module):
                noise = torch.randn(1, 1, height, width, generator=random).to(label.device)
                noises.append((layer, noise if layer.noise is None else layer.noise))

    def synthesis(w: Tensor) -> Tensor:
        with _temporary_attributes("noise", noises):
            return net.g_synthesis(net.g_style(w), **options)

    return Calls(
        net.g_mapping.dense0.weight.shape[1],
        lambda z: net.g_mapping(z).contiguous(),
        synthesis,
        net.truncation.avg_latent,
    )


def _mmagic(net: Any, label: Tensor, options: dict[str, Any]) -> Calls:
    options = {"randomize_noise": False} | options
    return Calls(
        net.noise_size,
        lambda z: net([z], label=_batch(label, z), return_latent_only=True),
        lambda w: net([w], input_is_latent=True, **options),
        getattr(net, "w_avg", None),
    )


def _batch(label: Tensor, z: Tensor) -> Tensor | None:
    return label.expand(len(z), -1) if label.shape[1] else None


@contextmanager
def _temporary_attributes(name: str, values: list[tuple[Any, Any]]) -> Iterator[None]:
    """Set an attribute of modules within a `with` block and restore it afterwards."""
    saved = [(module, getattr(module, name)) for module, _ in values]
    try:
        for module, value in values:
            setattr(module, name, value)
        yield
    finally:
        for module, value in saved:
            setattr(module, name, value)


def _modulated(inputs: tuple[Any, ...], output: Any, scale: Tensor) -> Any:
    """Return the output of genforce's style module: the modulated tensor, and the style [N, 2C].

    The first half of the style is the scale minus one, and the second half is the bias.
    """
    style = torch.cat((scale, output[1][:, scale.shape[1] :]), dim=1)
    parts = style.view(-1, 2, scale.shape[1], 1, 1)
    return inputs[0] * (parts[:, 0] + 1) + parts[:, 1], style


def _read_modulated(output: Any) -> Tensor:
    return output[1].chunk(2, dim=1)[0]


def _read_first_of_two(output: Tensor) -> Tensor:
    return output[:, 0, :, 0, 0]


def _write_first_of_two(inputs: tuple[Any, ...], output: Tensor, scale: Tensor) -> Tensor:
    return torch.cat((scale[:, None, :, None, None], output[:, 1:]), dim=1)


MODULATED = Scale(_read_modulated, _modulated)
FIRST_OF_TWO = Scale(_read_first_of_two, _write_first_of_two)  # for outputs [N, 2, C, 1, 1]


def _sampling_rate(layer: Any) -> float:
    return float(layer.in_sampling_rate)


GENFORCE_2 = (
    Rule(r"synthesis\.(?P<site>layer\d+)\.style", r"synthesis.\g<site>"),
    Rule(r"synthesis\.(?P<site>output\d+)\.style", r"synthesis.\g<site>", kind="rgb"),
)

FAMILIES = (
    Family(
        NVLABS_STYLEGAN2,
        ("mapping", "synthesis.b4.conv1.affine"),
        (
            Rule(r"synthesis\.(?P<site>b\d+\.conv[01])\.affine", r"synthesis.\g<site>"),
            Rule(r"synthesis\.(?P<site>b\d+\.torgb)\.affine", r"synthesis.\g<site>", kind="rgb"),
        ),
        _nvlabs,
        classes="c_dim",
    ),
    Family(
        NVLABS_STYLEGAN3,
        ("mapping", "synthesis.input.affine"),
        (Rule(r"synthesis\.(?P<site>L\d+_\d+_\d+)\.affine", r"synthesis.\g<site>", last="rgb", rate=_sampling_rate),),
        _nvlabs,
        classes="c_dim",
        transform_row=0,
    ),
    Family(
        f"{ROSINALITY} (pSp, e4e, HyperStyle: decoder)",
        ("style", "conv1.conv.modulation", "to_rgb1.conv.modulation"),
        (
            Rule(r"(?P<site>conv1|convs\.\d+)\.conv\.modulation", r"\g<site>.conv"),
            Rule(r"(?P<site>to_rgb1|to_rgbs\.\d+)\.conv\.modulation", r"\g<site>.conv", kind="rgb"),
        ),
        _rosinality,
    ),
    Family(
        f"{GENFORCE} StyleGAN1",
        ("mapping", "truncation", "synthesis.layer0.style", "synthesis.layer0.normalize"),
        (Rule(r"(?P<style>synthesis\.(?P<site>layer\d+)\.style)", r"\g<style>", scale=MODULATED, normalized=True),),
        _genforce,
        classes="label_size",
    ),
    Family(
        f"{GENFORCE} StyleGAN2",
        ("mapping", "truncation", "synthesis.early_layer", "synthesis.layer0.style"),
        GENFORCE_2,
        _genforce,
        classes="label_size",
    ),
    Family(
        f"{HAMMER} StyleGAN2",
        ("mapping", "synthesis.early_layer", "synthesis.layer0.style"),
        GENFORCE_2,
        partial(_hammer, noise_mode="const"),
        classes="label_dim",
    ),
    Family(
        f"{HAMMER} StyleGAN3",
        ("mapping", "synthesis.early_layer.affine", "synthesis.layer0.conv.style"),
        (Rule(r"synthesis\.(?P<site>layer\d+)\.conv\.style", r"synthesis.\g<site>", last="rgb", rate=_sampling_rate),),
        _hammer,
        classes="label_dim",
        transform_row=0,
    ),
    Family(
        LUCIDRAINS,
        ("SE", "GE.blocks.0.to_style1", "GE.blocks.0.to_rgb.to_style"),
        (
            Rule(r"GE\.(?P<site>(?P<block>blocks\.\d+)\.to_style(?P<i>[12]))", r"GE.\g<block>.conv\g<i>"),
            Rule(r"GE\.(?P<site>blocks\.\d+\.to_rgb)\.to_style", r"GE.\g<site>.conv", kind="rgb"),
        ),
        _lucidrains,
        children=("SE", "GE"),
        image_range=(0.0, 1.0),
    ),
    Family(
        LERNAPPARAT,
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
        _lernapparat,
    ),
    Family(
        MMAGIC,
        ("style_mapping", "conv1.conv.style_modulation", "to_rgb1.conv.style_modulation"),
        (
            Rule(r"(?P<site>conv1|convs\.\d+)\.conv\.style_modulation", r"\g<site>.conv"),
            Rule(r"(?P<site>to_rgb1|to_rgbs\.\d+)\.conv\.style_modulation", r"\g<site>.conv", kind="rgb"),
        ),
        _mmagic,
        classes="cond_size",
    ),
)
