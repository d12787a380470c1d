# SPDX-License-Identifier: Apache-2.0
"""Random cases of `assign_contribution` with memberships."""

from __future__ import annotations

import drawing
import numpy as np
import torch
import truth
from check import Check
from drawing import Sizes
from fuzz_assign import check_labels
from fuzz_contribution import check_m
from fuzz_soft_contribution import memberships
from numpy.random import Generator

from stylefast.ops.assign_soft_contribution import assign_soft_contribution


def run(rng: Generator, sizes: Sizes, backend: str, check: Check) -> None:
    a = drawing.activations(rng, sizes)
    n, channels, h, w = a.shape
    k, k_soft = (drawing.choose(rng, sizes.clusters) for _ in range(2))
    c, u = drawing.centroids(rng, k, channels), memberships(rng, sizes, a, k_soft)
    features, per_image = drawing.choose(rng, drawing.FEATURES), drawing.chance(rng, 0.4)
    options = {"standardize": drawing.chance(rng, 0.7), "per_image": per_image}
    check.note(activations=a, centroids=c, memberships=u, features=features, **options)
    labels, m = assign_soft_contribution(a, c, u, features=features, backend=backend, **options)
    accumulator = drawing.accumulator(a.dtype)
    check.form("labels", labels, (n, h, w), torch.int32)
    check.form("M", m, (n, k_soft, channels) if per_image else (k_soft, channels), accumulator)
    with np.errstate(all="ignore"):
        x = truth.points(truth.exact(a), features, truth.epsilon(a.dtype))
        check_labels(check, labels.numpy(), k, truth.scores(x, truth.exact(c.to(accumulator))), truth.norms(x))
    check_m(check, m, a, truth.exact(u.to(accumulator)), resize="bilinear", **options)
