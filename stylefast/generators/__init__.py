# SPDX-License-Identifier: Apache-2.0
"""Generators: latents -> styles and activations; styles -> images."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from .generator import Generator
from .sites import Rule, Scale, Site
from .wrapping import wrap

__all__ = ["Generator", "Rule", "Scale", "Site", "load", "wrap"]

_TOYS = {"toy:sg1": "sg1", "toy:sg2": "sg2", "toy:sg3": "sg3"}


def load(network: str | os.PathLike[str] = "random-face", *, device: str | torch.device = "cpu") -> Generator:
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
    from . import convert, mobile_stylegan, random_face, toy

    name = os.fspath(network)
    if name in _TOYS:
        return toy.toy(_TOYS[name], device=device)
    if name.endswith(".safetensors"):
        return convert.load_converted(name, device=device)
    if name == random_face.NAME:
        path = random_face.installed_random_face() or random_face.fetch_random_face()
    elif name.endswith(".whl"):
        path = Path(name)
    else:
        known = ", ".join((random_face.NAME, *_TOYS))
        files = f"the {random_face.NAME} wheel or a .safetensors file that `stylefast convert` wrote"
        raise ValueError(f"network must be one of {known}, or the path of {files}, got {name!r}")
    networks = random_face.read_random_face(path)
    return mobile_stylegan.mobile_stylegan(networks["MappingNetwork"], networks["SynthesisNetwork"], device=device)
