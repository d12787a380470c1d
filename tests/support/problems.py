# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies for the laws of ops: activations around random centroids, and labels on grids of any size."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

sizes = st.tuples(*(st.integers(1, maximum) for maximum in (4, 20, 9, 9, 17)))  # N, C, H, W, K
seeds = st.integers(0, 2**31)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def problems(draw: st.DrawFn, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Activations [N, C, H, W], in which some points are zero, and unit centroids [K, C]."""
    n, c, h, w, k = draw(sizes)
    return around(n, c, h, w, k, dtype, draw(seeds))


def around(n: int, c: int, h: int, w: int, k: int, dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor]:
    generator = rng(seed)
    centroids = F.normalize(torch.randn(k, c, generator=generator, dtype=dtype), dim=1)
    x = centroids[torch.randint(k, (n, h, w), generator=generator)].movedim(-1, 1) * 2
    x = x + torch.randn(n, c, h, w, generator=generator, dtype=dtype) / 2
    return x * (torch.rand(n, 1, h, w, generator=generator) > 0.05), centroids


@st.composite
def labelled(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Activations [N, C, H, W], labels [N, h, w] of another grid, and K."""
    n, c, h, w, k = draw(sizes)
    grid = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    seed = draw(seeds)
    labels = torch.randint(k, (n, *grid), generator=rng(seed), dtype=torch.int32)
    return around(n, c, h, w, k, torch.float32, seed)[0], labels, k
