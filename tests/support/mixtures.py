# SPDX-License-Identifier: Apache-2.0
"""Activations around random directions, and fits in which an empty cluster is an error."""

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stylefast import SphericalKMeans
from stylefast.kmeans import EmptyClusterWarning


def mixture(n: int, c: int, h: int, w: int, k: int, noise: float, seed: int = 0) -> Tensor:
    """Activations [N, C, H, W], float64: points of random length around k random directions."""
    rng = torch.Generator().manual_seed(seed)
    directions = normalize(torch.randn(k, c, generator=rng, dtype=torch.float64), dim=1)
    x = directions[torch.randint(k, (n, h, w), generator=rng)].movedim(-1, 1)
    x = x + noise / c**0.5 * torch.randn(n, c, h, w, generator=rng, dtype=torch.float64)
    return x * (0.5 + torch.rand(n, 1, h, w, generator=rng, dtype=torch.float64))


def directions(k: int, c: int, seed: int = 1) -> Tensor:
    """Random unit vectors [K, C], float64."""
    rng = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(k, c, generator=rng, dtype=torch.float64), dim=1)


def rows(x: Tensor) -> Tensor:
    """Points [N * H * W, C] of activations [N, C, H, W]."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def fit(x: Any, k: int, **options: Any) -> SphericalKMeans:
    """Fit without a progress bar; an `EmptyClusterWarning` is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", EmptyClusterWarning)
        return SphericalKMeans(k, **options).fit(x, progress=False)
