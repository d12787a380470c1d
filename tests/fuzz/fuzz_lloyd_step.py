# SPDX-License-Identifier: Apache-2.0
"""Random cases of `lloyd_step`."""

from __future__ import annotations

import drawing
import numpy as np
import torch
import truth
from check import Check
from drawing import Sizes
from fuzz_assign import check_labels
from numpy.random import Generator

import stylefast


def run(rng: Generator, sizes: Sizes, backend: str, check: Check) -> None:
    a = drawing.activations(rng, sizes)
    k, restarts = drawing.choose(rng, sizes.clusters), drawing.choose(rng, ((), (1,), (2,), (3,)))
    c = drawing.centroids(rng, *restarts, k, a.shape[1])
    features = drawing.choose(rng, drawing.FEATURES)
    check.note(activations=a, centroids=c, features=features)
    step = stylefast.lloyd_step(a, c, features=features, backend=backend)
    accumulator = drawing.accumulator(a.dtype)
    n, _, h, w = a.shape
    check.form("labels", step.labels, (*restarts, n, h, w), torch.int32)
    check.form("sums", step.sums, tuple(c.shape), accumulator)
    check.form("counts", step.counts, (*restarts, k), torch.int64)
    check.form("objective", step.objective, restarts, torch.float64)
    with np.errstate(all="ignore"):
        x = truth.points(truth.exact(a), features, truth.epsilon(a.dtype))
        norm = truth.norms(x)
    stacked = truth.exact(c.to(accumulator)).reshape(-1, k, a.shape[1])
    results = (result.unsqueeze(0) if not restarts else result for result in step)
    for centroids, *one in zip(stacked, *results, strict=True):
        check_run(check, x, norm, centroids, one)


def check_run(
    check: Check, x: truth.Points, norm: truth.Norms, c: np.ndarray, step: list[torch.Tensor], unit_error: float = 0
) -> None:
    """Compare one run with sums of unit points. A vague point adds an unknown unit vector to its cluster, or none.

    `unit_error` is the error of each element of a unit point, besides the errors of floating-point numbers.
    """
    got_labels, sums, counts, objective = step
    labels, k = got_labels.numpy(), len(c)
    with np.errstate(all="ignore"):
        score = truth.scores(x, c)
        check_labels(check, labels, k, score, norm)
        of_cluster = labels[:, None] == np.arange(k)[:, None, None]
        is_vague = (of_cluster & norm.is_vague[:, None]).sum((0, 2, 3))
        member = (of_cluster & ~(norm.is_infinite | norm.is_zero | norm.is_vague)[:, None]).astype(float)
        scale = np.where(norm.values > 0, norm.values, 1)[:, None]
        unit, amplitude = x.values / scale, x.amplitude / scale
        noise = 1.5 * (x.noise + np.abs(x.values) * norm.noise[:, None] / scale) / scale
        cosine, error = truth.cosines(labels, score, norm)
    unit, amplitude, noise = (np.where(np.isfinite(v), v, 0) for v in (unit, amplitude, noise))
    summed = {name: np.einsum("nkhw,nchw->kc", member, v) for name, v in (("unit", unit), ("noise", noise))}
    rounding = truth.long_sum(labels.size) * x.eps * np.einsum("nkhw,nchw->kc", member, amplitude)
    rounding = rounding + unit_error * member.sum((0, 2, 3))[:, None]
    check.within("sums", sums, summed["unit"], summed["noise"] + rounding + 1.01 * is_vague[:, None])
    check.within("counts", counts, member.sum((0, 2, 3)) + is_vague / 2, is_vague / 1.9)
    size = max(1, labels.size)
    bound = np.linalg.norm(c, axis=1).max() * 1.01
    vague = np.isinf(error)
    within = np.where(vague, bound, error).sum() / size + truth.long_sum(labels.size) * x.eps * bound
    within += unit_error * np.abs(c).sum(1).max()
    check.within("objective", objective, np.array(np.where(vague, 0, cosine).sum() / size), within)
