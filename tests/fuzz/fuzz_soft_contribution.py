# SPDX-License-Identifier: Apache-2.0
"""Random cases of `contribution` with memberships."""

from __future__ import annotations

import drawing
import torch
import truth
from check import Check
from drawing import Sizes
from fuzz_contribution import check_m
from numpy.random import Generator
from torch import Tensor

from stylefast.ops.soft_contribution import soft_contribution


def run(rng: Generator, sizes: Sizes, backend: str, check: Check) -> None:
    a = drawing.activations(rng, sizes)
    n, channels, _, _ = a.shape
    k = drawing.choose(rng, sizes.clusters)
    u = memberships(rng, sizes, a, k)
    resize, per_image = drawing.choose(rng, ("bilinear", "nearest")), drawing.chance(rng, 0.4)
    options = {"standardize": drawing.chance(rng, 0.7), "resize": resize, "per_image": per_image}
    check.note(activations=a, memberships=u, **options)
    m = soft_contribution(a, u, backend=backend, **options)
    accumulator = drawing.accumulator(a.dtype)
    check.form("M", m, (n, k, channels) if per_image else (k, channels), accumulator)
    check_m(check, m, a, truth.exact(u.to(accumulator)), **options)


def memberships(rng: Generator, sizes: Sizes, a: Tensor, k: int) -> Tensor:
    """Draw memberships [N, K, h, w] for activations: of any scale, many of them zero, on their grid or another one."""
    n, _, h, w = a.shape
    grid = (drawing.choose(rng, (*sizes.height, 2 * h, 40)), drawing.choose(rng, (*sizes.width, 2 * w, 40)))
    grid = (h, w) if drawing.chance(rng, 0.4) else grid
    u = rng.random((n, k, *grid)) * 10 ** rng.uniform(-3, 2)
    u *= rng.random(u.shape) < drawing.choose(rng, (0.1, 0.7, 1.0))
    return drawing.any_layout(rng, torch.from_numpy(u).to(drawing.choose(rng, drawing.DTYPES)))
