# SPDX-License-Identifier: Apache-2.0
"""Random cases of `assign_contribution`."""

from __future__ import annotations

import drawing
import numpy as np
import torch
import truth
from check import Check
from drawing import Sizes
from fuzz_assign import check_labels
from fuzz_contribution import check_m
from numpy.random import Generator

import stylefast


def run(rng: Generator, sizes: Sizes, backend: str, check: Check) -> None:
    a = drawing.activations(rng, sizes)
    n, channels, h, w = a.shape
    k = drawing.choose(rng, sizes.clusters)
    c = drawing.centroids(rng, k, channels)
    features, per_image = drawing.choose(rng, drawing.FEATURES), drawing.chance(rng, 0.4)
    options = {"standardize": drawing.chance(rng, 0.7), "per_image": per_image}
    check.note(activations=a, centroids=c, features=features, **options)
    labels, m = stylefast.assign_contribution(a, c, features=features, backend=backend, **options)
    accumulator = drawing.accumulator(a.dtype)
    check.form("labels", labels, (n, h, w), torch.int32)
    check.form("M", m, (n, k, channels) if per_image else (k, channels), accumulator)
    with np.errstate(all="ignore"):
        x = truth.points(truth.exact(a), features, truth.epsilon(a.dtype))
        check_labels(check, labels.numpy(), k, truth.scores(x, truth.exact(c.to(accumulator))), truth.norms(x))
    check_m(check, m, a, truth.one_hot(labels.numpy(), k), resize="nearest", **options)
