# SPDX-License-Identifier: Apache-2.0
"""Random cases of `contribution`."""

from __future__ import annotations

import drawing
import numpy as np
import torch
import truth
from check import Check
from drawing import Sizes
from numpy.random import Generator

import stylefast

LABEL_DTYPES = (torch.int32, torch.int64, torch.int16, torch.uint8, torch.int8)


def run(rng: Generator, sizes: Sizes, backend: str, check: Check) -> None:
    a = drawing.activations(rng, sizes)
    n, channels, h, w = a.shape
    k = drawing.choose(rng, sizes.clusters)
    grid = (drawing.choose(rng, (*sizes.height, 2 * h, 40)), drawing.choose(rng, (*sizes.width, 2 * w, 40)))
    grid = (h, w) if drawing.chance(rng, 0.3) else grid
    labels = torch.from_numpy(rng.integers(0, k, (n, *grid))).to(drawing.choose(rng, LABEL_DTYPES))
    labels = drawing.any_layout(rng, labels)
    resize, per_image = drawing.choose(rng, ("bilinear", "nearest")), drawing.chance(rng, 0.4)
    options = {"standardize": drawing.chance(rng, 0.7), "resize": resize, "per_image": per_image}
    check.note(activations=a, labels=labels, n_clusters=k, **options)
    m = stylefast.contribution(a, labels, k, backend=backend, **options)
    check.form("M", m, (n, k, channels) if per_image else (k, channels), drawing.accumulator(a.dtype))
    check_m(check, m, a, truth.one_hot(labels.numpy(), k), **options)


def check_m(check: Check, m: torch.Tensor, a: torch.Tensor, u: np.ndarray, **options: bool | str) -> None:
    """Compare M of memberships u [N, K, h, w] with its definition.

    Channels with NaN or Inf are compared with what the documentation says of them.
    """
    values, per_image = truth.exact(a), options["per_image"]
    bad: np.ndarray = np.any(~np.isfinite(values), (2, 3))  # [N, C]
    finite = np.where(bad[:, :, None, None], 0, values)
    eps = truth.epsilon(a.dtype)
    want, budget = truth.contribution(
        finite, u, bool(options["standardize"]), str(options["resize"]), bool(per_image), eps
    )
    bad = np.broadcast_to(bad[:, None] if per_image else bad.any(0), want.shape)
    got = torch.where(torch.from_numpy(bad.copy()), 0, m)
    assert bool((got >= 0).all()), f"M must not be negative, got {float(got.min())}"
    check.within("M", got, np.where(bad, 0, want), budget)
    if options["standardize"] and bad.any():
        check.equal(
            "M of channels that are not finite", m[torch.from_numpy(bad.copy())], np.full(int(np.sum(bad)), np.nan)
        )
