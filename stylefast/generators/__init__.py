# SPDX-License-Identifier: Apache-2.0
"""Generators: latents -> styles and activations; styles -> images."""

from __future__ import annotations

import os

import torch

from .convert import load_converted
from .generator import Generator
from .random_face import NAME as RANDOM_FACE
from .random_face import load_random_face
from .sites import Rule, Scale, Site
from .toy import NAMES as TOYS
from .toy import load_toy
from .wrapping import wrap

__all__ = ["Generator", "Rule", "Scale", "Site", "load", "wrap"]


def load(network: str | os.PathLike[str] = RANDOM_FACE, *, device: str | torch.device = "cpu") -> Generator:
    """Load a generator by name or from a file.

    Args:
        network: "random-face", real faces at 1024 x 1024 (the installed distribution, else the cached wheel, else a
            download of it); the path of that wheel; a .safetensors file that `stylefast convert` wrote; or "toy:sg1",
            "toy:sg2", "toy:sg3", tiny random networks.
        device: where the network runs, as ``torch.device`` takes it.

    Returns:
        The generator, ready to run.

    Raises:
        ValueError: an unknown name, or a file that is not the random-face wheel or a converted network.
        FileNotFoundError: no such file.
        ConnectionError: the wheel is not on this machine and cannot be downloaded.
    """
    name = os.fspath(network)
    if name in TOYS:
        return load_toy(name, device=device)
    if name.endswith(".safetensors"):
        return load_converted(name, device=device)
    if name == RANDOM_FACE:
        return load_random_face(device=device)
    if name.endswith(".whl"):
        return load_random_face(name, device=device)
    names = ", ".join((RANDOM_FACE, *TOYS))
    files = f"the {RANDOM_FACE} wheel or a .safetensors file that `stylefast convert` wrote"
    raise ValueError(f"network must be one of {names}, or the path of {files}, got {name!r}")
