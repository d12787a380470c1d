# SPDX-License-Identifier: Apache-2.0
"""Random cases of `assign`."""

from __future__ import annotations

import drawing
import numpy as np
import torch
import truth
from check import Check
from drawing import Sizes
from numpy.random import Generator

import stylefast


def run(rng: Generator, sizes: Sizes, backend: str, check: Check) -> None:
    if drawing.chance(rng, 0.15):
        return _exact_ties(rng, sizes, backend, check)
    a = drawing.activations(rng, sizes)
    c = drawing.centroids(rng, drawing.choose(rng, sizes.clusters), a.shape[1])
    features = drawing.choose(rng, drawing.FEATURES)
    check.note(activations=a, centroids=c, features=features)
    labels, similarity = stylefast.assign(a, c, features=features, backend=backend)
    accumulator = drawing.accumulator(a.dtype)
    n, _, h, w = a.shape
    check.form("labels", labels, (n, h, w), torch.int32)
    check.form("similarity", similarity, (n, h, w), accumulator)
    with np.errstate(all="ignore"):
        x = truth.points(truth.exact(a), features, truth.epsilon(a.dtype))
        norm, score = truth.norms(x), truth.scores(x, truth.exact(c.to(accumulator)))
    check_labels(check, labels.numpy(), len(c), score, norm)
    check.within("similarity", similarity, *truth.cosines(labels.numpy(), score, norm))


def check_labels(check: Check, labels: np.ndarray, k: int, score: truth.Scores, norm: truth.Norms) -> None:
    assert ((labels >= 0) & (labels < k)).all(), f"labels must lie in [0, {k}), got {labels.min()} to {labels.max()}"
    faults = np.argwhere(truth.label_faults(labels, score, norm))
    assert not len(faults), f"labels{faults[0].tolist()} and {len(faults) - 1} more of {labels.size} labels are wrong"


def _exact_ties(rng: Generator, sizes: Sizes, backend: str, check: Check) -> None:
    """Test small integers, whose scores are exact in every order of summation: ties go to the lowest label."""
    shape = tuple(drawing.choose(rng, options) for options in sizes[:4])
    a = torch.from_numpy(rng.integers(-2, 3, shape)).to(drawing.choose(rng, drawing.DTYPES))
    c = torch.from_numpy(rng.integers(-1, 2, (drawing.choose(rng, sizes.clusters), shape[1]))).float()
    a, c = drawing.any_layout(rng, a), drawing.any_layout(rng, c)
    check.note(activations=a, centroids=c)
    labels, _ = stylefast.assign(a, c, backend=backend)
    score = np.einsum("nchw,kc->nkhw", truth.exact(a), truth.exact(c))
    check.equal("labels", labels, np.where((truth.exact(a) == 0).all(1), 0, score.argmax(1)))
