# SPDX-License-Identifier: Apache-2.0
"""Random latents of seeds, as NVlabs' tools draw them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ..core.checks import check_latent_seeds


def z_of_seeds(seeds: Iterable[int], z_dim: int) -> Tensor:
    """Return `RandomState(seed).randn(1, z_dim)` of each seed, [N, z_dim] float32."""
    sequence = check_latent_seeds(seeds)
    z = np.empty((len(sequence), z_dim), np.float32)
    for row, seed in zip(z, sequence, strict=True):
        row[:] = np.random.RandomState(seed).randn(z_dim)
    return torch.from_numpy(z)
