# SPDX-License-Identifier: Apache-2.0
"""Files that `stylefast convert` wrote -> generators."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from stylefast.files import read_tensors
from stylefast.generators.generator import Generator
from stylefast.generators.lucidrains import Lucidrains
from stylefast.generators.stylegan2 import StyleGAN2, stylegan2
from stylefast.generators.wrapping import wrap

FORMAT = "stylefast-stylegan2-1"


def load(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Generator:
    """Load a network that `stylefast convert` wrote.

    Args:
        path: the file.
        device: where it runs.

    Returns:
        The generator; truncation pulls towards the mean that the network was trained with, if the file holds one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, foreign, or does not hold all tensors of a StyleGAN2.
    """
    tensors, header = read_tensors(path, FORMAT)
    try:
        network = network_of(tensors, header["clamp"]).to(device)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} cannot be used: {error}") from error
    name = Path(path).stem
    return stylegan2(network, name=name) if isinstance(network, StyleGAN2) else wrap(network, name=name)


def network_of(tensors: Mapping[str, Tensor], clamp: float | None) -> StyleGAN2 | Lucidrains:
    """The network whose tensors these are."""
    return Lucidrains(tensors) if "GE.initial_block" in tensors else StyleGAN2(tensors, clamp=clamp)
