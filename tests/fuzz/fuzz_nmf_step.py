# SPDX-License-Identifier: Apache-2.0
"""Random cases of `nmf_step`."""

from __future__ import annotations

import drawing
import numpy as np
import torch
import truth
from check import Check
from drawing import Sizes
from numpy import ndarray
from numpy.random import Generator
from torch import Tensor

from stylefast.ops.nmf_step import nmf_step

TILE = 256  # positions whose products are summed before the sum is flushed; the errors of equal terms add up


def run(rng: Generator, sizes: Sizes, backend: str, check: Check) -> None:
    a = drawing.activations(rng, sizes)
    n, c, height, width = a.shape
    k, sweeps = drawing.choose(rng, sizes.clusters), drawing.choose(rng, (1, 1, 2, 5))
    components = _components(rng, k, c)
    check.note(activations=a, components=components, sweeps=sweeps)
    u, products, gram, energy = nmf_step(a, components, sweeps, backend=backend)
    accumulator = drawing.accumulator(a.dtype)
    for name, got, shape in (("products", products, (k, c)), ("gram", gram, (k, k)), ("energy", energy, ())):
        check.form(name, got, shape, torch.float64)
    check.form("memberships", u, (n, k, height, width), accumulator)
    x, eps = truth.exact(a), truth.epsilon(a.dtype)
    x = np.where(x > 0, x, np.where(np.isnan(x), x, 0))
    bad = ~np.isfinite(x).all(1, keepdims=True)  # [N, 1, H, W]
    finite = np.where(bad, 0, x)
    values, noise = _memberships(finite, truth.exact(components.to(accumulator)), sweeps, eps)
    check.within("memberships", u, np.where(bad, np.nan, values), np.where(bad, 0, noise))
    spoilt = np.nan if bad.any() else 0
    got = np.where(bad, 0, truth.exact(u))
    rounding = (truth.long_sum(n * height * width) + TILE / 4) * eps
    for name, sums, other in (("products", products, finite), ("gram", gram, got)):
        want = np.einsum("nkhw,nchw->kc", got, other)
        check.within(name, sums, want + spoilt, rounding * want)
    check.within("energy", energy, np.array((finite**2).sum() + spoilt), (c + 8) * eps * (finite**2).sum())


def _components(rng: Generator, k: int, c: int) -> Tensor:
    """Draw components [K, C] >= 0 of any scale. Many elements are zero, so that few components overlap much."""
    h = (0.05 + rng.random((k, c))) * (rng.random((k, c)) < drawing.choose(rng, (0.05, 0.3, 1.0)))
    if drawing.chance(rng, 0.2):
        h[rng.integers(k)] = 0
    return drawing.any_layout(
        rng, torch.from_numpy(h * 10 ** rng.uniform(-2, 2)).to(drawing.choose(rng, drawing.DTYPES))
    )


def _memberships(x: ndarray, h: ndarray, sweeps: int, eps: float) -> tuple[ndarray, ndarray]:
    """Return U [N, K, H, W] and bounds on its errors.

    An update gives `max(0, (s_k - sum_{j != k} G_kj u_j) / G_kk)`, so it adds the errors of s, G and the other
    memberships, divided by G_kk, and the rounding of a sum of all terms.
    """
    s, gram = np.einsum("nchw,kc->nkhw", x, h), h @ h.T
    k, c = h.shape
    diagonal, total = np.where(gram.diagonal() > 0, gram.diagonal(), 1), gram.sum(1)
    product = (c + 12) * eps  # bound on the relative errors of s and G
    u = s / np.where(total > 0, total, 1)[:, None, None]
    noise = u * (2 * product + (k + 8) * eps)
    for _ in range(sweeps):
        for i in range(k):
            row = np.delete(gram[i], i)
            others, errors = (np.einsum("j,njhw->nhw", row, np.delete(v, i, 1)) for v in (u, noise))
            terms = s[:, i] + others + errors + gram[i, i] * (u[:, i] + noise[:, i])
            u[:, i] = np.maximum(0, (s[:, i] - others) / diagonal[i])
            error = product * (s[:, i] + others) + errors + (k + 8) * eps * terms
            noise[:, i] = 1.1 * (error / diagonal[i] + (product + 8 * eps) * u[:, i])
    return u, noise
