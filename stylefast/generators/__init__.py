# SPDX-License-Identifier: Apache-2.0
"""Generators, which map latents to styles and activations, and styles to images."""

from __future__ import annotations

import os
from typing import Literal

import torch

from ..core.checks import check_choice
from ..core.defaults import with_plain_defaults
from ..io.kinds import refusal
from .converted import load_converted
from .engines import NAMES as ENGINE_NAMES
from .generator import Generator
from .image_checks import ImageRangeWarning, ReproducibilityWarning
from .random_face import NAME as RANDOM_FACE
from .random_face import load_random_face
from .sites import FIRST_HALF, Rule, Scale, Site
from .toy import NAMES as TOYS
from .toy import load_toy
from .wrapping import wrap

__all__ = [
    "FIRST_HALF",
    "Generator",
    "ImageRangeWarning",
    "ReproducibilityWarning",
    "Rule",
    "Scale",
    "Site",
    "load",
    "wrap",
]


@with_plain_defaults
def load(
    network: str | os.PathLike[str] = RANDOM_FACE,
    *,
    device: str | torch.device = "cpu",
    precision: Literal["float32", "float16"] = "float32",
    engine: str = "eager",
) -> Generator:
    """Load a generator by name or from a file.

    Args:
        network: Name of a generator or path of a file. "random-face" generates faces at 1024 x 1024. It is read from
            the installed distribution, else from the cached wheel, else from a wheel that is downloaded. "toy:sg1",
            "toy:sg2" and "toy:sg3" are tiny networks with random weights. A file is the random-face wheel or a
            .safetensors file written by `stylefast convert`.
        device: Device of the network, as `torch.device` accepts it.
        precision: "float16" runs the highest resolutions of a converted StyleGAN2 in float16, as NVlabs' code does on
            a GPU: as many resolutions as the converted file says, or else four. It is slow on a CPU.
        engine: Engine that makes images from styles: "eager" (exact), "native", "compile", "openvino" or "auto" (the
            fastest), as in `Generator.use_engine`.

    Returns:
        The generator.

    Raises:
        ValueError: If the name is unknown, the file is neither the random-face wheel nor a converted network,
            `precision` is float16 and the network is not a converted StyleGAN2, or the engine is unknown, cannot run
            the network or makes other images.
        FileNotFoundError: If the file does not exist.
        ConnectionError: If the wheel is not on this machine and cannot be downloaded.
    """
    check_choice("precision", precision, ("float32", "float16"))
    check_choice("engine", engine, ENGINE_NAMES)
    generator = _load(os.fspath(network), device, precision)
    if engine != "eager":
        generator.use_engine(engine)
    return generator


def _load(name: str, device: str | torch.device, precision: Literal["float32", "float16"]) -> Generator:
    if precision != "float32" and not name.endswith(".safetensors"):
        raise ValueError(f"precision must be float32, because {name} is not a converted StyleGAN2, got {precision}")
    if name in TOYS:
        return load_toy(name, device=device)
    if name.endswith(".safetensors"):
        return load_converted(name, device=device, precision=precision)
    if name == RANDOM_FACE:
        return load_random_face(device=device)
    if name.endswith(".whl"):
        return load_random_face(name, device=device)
    if os.path.exists(name):
        raise ValueError(f"{name} cannot be used: {_reason(name)}")
    names = ", ".join((RANDOM_FACE, *TOYS))
    files = f"the {RANDOM_FACE} wheel or a .safetensors file that `stylefast convert` wrote"
    raise ValueError(f"network must be one of {names}, or the path of {files}, got {name!r}")


def _reason(path: str) -> str:
    """Return the reason why an existing file of another suffix is no network."""
    try:
        return refusal(path, "network") or "networks are .safetensors files that `stylefast convert` wrote"
    except ValueError as error:
        return str(error)
