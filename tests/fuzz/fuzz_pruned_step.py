# SPDX-License-Identifier: Apache-2.0
"""Random cases of `pruned_step`: two steps, of which the second one uses the first one."""

from __future__ import annotations

import drawing
import numpy as np
import torch
import truth
from check import Check
from drawing import Sizes
from fuzz_lloyd_step import check_run
from numpy.random import Generator

from stylefast.ops.pruned_step import PrunedStep, pruned_step

GRID = 2.0**-30  # larger than the unit to which the op rounds the elements of unit points


def run(rng: Generator, sizes: Sizes, backend: str, check: Check) -> None:
    a = drawing.activations(rng, sizes, finite=True)
    a = a.float() if a.dtype == torch.float64 else a
    shape = drawing.choose(rng, (1, 2, 3)), drawing.choose(rng, sizes.clusters), a.shape[1]
    former = rng.standard_normal(shape)
    moved = rng.random((*shape[:2], 1)) < drawing.choose(rng, (0.3, 1.0))
    former, c = (_unit(v) for v in (former, former + moved * rng.standard_normal(shape) * 10 ** rng.uniform(-8, 0.5)))
    features = drawing.choose(rng, drawing.FEATURES)
    check.note(activations=a, centroids=c, features=features)
    first = pruned_step(a, former, features=features, backend=backend)
    step = pruned_step(a, c, (first, former), features=features, backend=backend)
    alone = pruned_step(a, c, features=features, backend=backend)
    n, _, h, w = a.shape
    check.form("bounds", step.bounds, (2, shape[0], n, h, w), torch.float32)
    for name in ("labels", "sums", "counts", "objective"):
        check.equal(name, getattr(step, name), getattr(alone, name).numpy())
    with np.errstate(all="ignore"):
        x = truth.points(truth.exact(a), features, truth.epsilon(a.dtype))
        norm = truth.norms(x)
    for b, centroids in enumerate(truth.exact(c)):
        one = [step.labels[b], step.sums[b], step.counts[b], step.objective[b]]
        check_run(check, x, norm, centroids, one, unit_error=GRID)
        for bounded in (first, step):
            _check_bounds(check, x, norm, truth.exact(former if bounded is first else c)[b], bounded, b)


def _unit(centroids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(centroids / np.linalg.norm(centroids, axis=-1, keepdims=True)).float()


def _check_bounds(check: Check, x: truth.Points, norm: truth.Norms, c: np.ndarray, step: PrunedStep, b: int) -> None:
    """Check that the bounds of restart b hold, except for points whose cosines are not known."""
    labels, (lower, upper) = step.labels[b].numpy(), step.bounds[:, b].double().numpy()
    with np.errstate(all="ignore"):
        score = truth.scores(x, c)
        own, error = truth.cosines(labels, score, norm)
        of_label = labels[:, None] == np.arange(len(c))[:, None, None]
        others = np.where(of_label, -np.inf, score.values / norm.values[:, None]).max(1)
        noise = 1.5 * (score.noise.max(1) + np.abs(score.values).max(1) * norm.noise / norm.values) / norm.values
        too_high, too_low = np.maximum(lower - own, 0), np.maximum(others - upper, 0)
    known = ~(norm.is_vague | norm.is_zero | norm.is_infinite)
    for name, excess, budget in (("lower bounds", too_high, error), ("upper bounds", too_low, noise)):
        excess = np.where(known & ~np.isneginf(others), excess, 0)
        check.within(name, torch.from_numpy(excess), np.zeros_like(excess), np.where(known, budget, 1))
