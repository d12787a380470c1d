# SPDX-License-Identifier: Apache-2.0
"""A fit that is stopped after any iteration goes on from its checkpoint to the same bits."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mixtures import directions, mixture
from torch import Tensor

from stylefast import SphericalKMeans
from stylefast.kmeans import EmptyClusterWarning

X = mixture(4, 8, 6, 6, 12, 3.0).float()


class Stopping:
    """Three batches that end with an interruption when they are read for the n-th time."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __iter__(self) -> Iterator[Tensor]:
        yield X[:2]
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        yield X[2:3]
        yield X[3:]


def fit(data: Any, checkpoint: Path | None = None, **options: Any) -> SphericalKMeans:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyClusterWarning)
        defaults: dict[str, Any] = {"n_init": 3, "tol": 0, "max_iter": 25}
        return SphericalKMeans(9, **defaults | options).fit(data, checkpoint=checkpoint, progress=False)


def assert_same_bits(one: SphericalKMeans, two: SphericalKMeans) -> None:
    assert torch.equal(one.centroids_, two.centroids_) and one.objective_ == two.objective_
    for a, b in zip(one.runs_, two.runs_, strict=True):
        assert torch.equal(a.centroids, b.centroids) and torch.equal(a.sums, b.sums) and torch.equal(a.counts, b.counts)
        assert (a.objective, a.n_iter, a.converged) == (b.objective, b.n_iter, b.converged)
        assert (a.n_reseeded, a.n_empty) == (b.n_reseeded, b.n_empty)
    assert one.n_reseeded_ == two.n_reseeded_


HALF_EMPTY = torch.cat((directions(9, 8, 3)[:8], directions(9, 8, 3)[:1])).expand(3, -1, -1)


@pytest.mark.parametrize("options", [{}, {"init": HALF_EMPTY}], ids=["seeded", "reseeded"])
def test_stopped_anywhere_any_number_of_times(tmp_path: Path, options: dict[str, Any]):
    whole = fit([X[:2], X[2:3], X[3:]], **options)
    assert max(run.n_iter for run in whole.runs_) > 4 and bool(whole.n_reseeded_) == bool(options)
    for after in range(9):
        path, stops = tmp_path / str(after), 0
        while True:
            try:
                km = fit(Stopping(after if after > 5 or not stops else 99), path, **options)
                break
            except KeyboardInterrupt:  # up to five reads may not be enough for one iteration
                stops += 1
        assert stops
        assert_same_bits(km, whole)


def test_an_array_too_and_a_finished_fit_is_not_done_again(tmp_path: Path):
    path, whole = tmp_path / "new" / "state", fit(X)
    first = fit(X, path)
    before = path.read_bytes()
    again = fit(X, path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["state"]
    for km in (first, again):
        assert_same_bits(km, whole)
        assert torch.equal(km.labels_, whole.labels_)


@pytest.mark.parametrize(
    "options, data, message",
    [
        ({"seed": 1}, X, "its seed is 0, not 1"),
        ({"tol": 1e-3}, X, "its tol is 0, not 0.001"),
        ({"n_init": 2}, X, "its n_init is 3, not 2"),
        ({"init": "random"}, X, "its init is 'k-means++', not 'random'"),
        ({"features": "squared"}, X, "its features is 'raw', not 'squared'"),
        ({}, X[:3], "its points is 144, not 108"),
        ({}, X[:, :5], "its channels is 8, not 5"),
    ],
)
def test_the_state_of_another_fit_is_refused(tmp_path: Path, options: dict[str, Any], data: Any, message: str):
    fit(X, tmp_path / "state", max_iter=2)
    before = (tmp_path / "state").read_bytes()
    with pytest.raises(
        ValueError, match=re.escape(f"{tmp_path / 'state'} cannot be used: it is of another job: {message}")
    ):
        fit(data, tmp_path / "state", max_iter=2, **options)
    assert (tmp_path / "state").read_bytes() == before


def test_a_damaged_state_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "state"
    fit(X, path, max_iter=2)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-7] ^= 1
    for wrong in (whole[:-1], whole[: len(whole) // 2], b"", bytes(flipped), b"no tensors, only words"):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=f"{re.escape(str(path))} cannot be used"):
            fit(X, path, max_iter=2)
        assert path.read_bytes() == wrong
