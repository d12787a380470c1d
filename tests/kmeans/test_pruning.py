# SPDX-License-Identifier: Apache-2.0
"""Fits with and without bounds give the same bits, and the labels of fits by lloyd_step."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import skip_unless
from mixtures import mixture
from torch import Tensor

from stylefast import SphericalKMeans
from stylefast.kmeans import EmptyClusterWarning, estimator, pruning
from stylefast.kmeans.batch import Sums
from stylefast.ops.pruned_step import PrunedStep

pytestmark = skip_unless("cpu")


class Forgetful(pruning.PrunedPoints):
    """Points whose steps score all points."""

    def step(self, centroids: Tensor) -> Sums:
        self._former = None
        return super().step(centroids)


def fit(x: Any, k: int, **options: Any) -> SphericalKMeans:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyClusterWarning)
        return SphericalKMeans(k, **{"n_init": 3, "tol": 0, "max_iter": 40, **options}).fit(x, progress=False)


@contextmanager
def counted_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Yield a list to which each pruned step of a fit adds whether it had bounds."""
    calls, original = [], pruning.pruned_step
    with monkeypatch.context() as patch:
        patch.setattr(pruning, "pruned_step", lambda x, c, former, **kw: calls.append(former is not None) or original(x, c, former, **kw))  # fmt: skip # noqa: E501
        yield calls


def assert_same_fit(one: SphericalKMeans, two: SphericalKMeans) -> None:
    assert torch.equal(one.labels_, two.labels_) and torch.equal(one.centroids_, two.centroids_)
    assert one.objective_ == two.objective_
    for a, b in zip(one.runs_, two.runs_, strict=True):
        assert torch.equal(a.centroids, b.centroids) and torch.equal(a.sums, b.sums) and torch.equal(a.counts, b.counts)
        assert (a.n_iter, a.converged, a.n_relocated, a.n_empty) == (b.n_iter, b.converged, b.n_relocated, b.n_empty)
        assert a.objective == b.objective


def points(kind: str, seed: int) -> Tensor:
    x = mixture(4, 160, 9, 9, 12, 2.0, seed).float()
    if kind == "duplicates":
        x = x[:, :, :3].repeat(1, 1, 3, 1)
    if kind == "zeros":
        x[1:3] = 0
    if kind == "cone":
        x = x + 3
    return x.bfloat16() if kind == "bfloat16" else x


@pytest.mark.parametrize("features", ["raw", "standardized", "squared"])
@pytest.mark.parametrize(("seed", "k"), [(0, 9), (1, 9), (2, 70)])
@pytest.mark.parametrize("kind", ["plain", "duplicates", "zeros", "cone", "bfloat16"])
def test_bounds_do_not_change_a_fit(kind: str, seed: int, k: int, features: str, monkeypatch: pytest.MonkeyPatch):
    x = points(kind, seed)
    with counted_steps(monkeypatch) as calls:
        pruned = fit(x, k, seed=seed, features=features)
    assert any(calls)
    with monkeypatch.context() as patch:
        patch.setattr(pruning, "PrunedPoints", Forgetful)
        assert_same_fit(pruned, fit(x, k, seed=seed, features=features))


@pytest.mark.parametrize(("seed", "k"), [(0, 9), (1, 9), (2, 64), (3, 90)])
def test_a_fit_equals_a_fit_by_lloyd_step(seed: int, k: int, monkeypatch: pytest.MonkeyPatch):
    x = points("plain", seed)
    pruned = fit(x, k, seed=seed, tol=1e-5)
    monkeypatch.setattr(estimator, "with_pruning", lambda points, n_clusters, n_init: points)
    plain = fit(x, k, seed=seed, tol=1e-5)
    assert torch.equal(pruned.labels_, plain.labels_) and pruned.objective_ == pytest.approx(plain.objective_, abs=1e-7)
    for a, b in zip(pruned.runs_, plain.runs_, strict=True):
        torch.testing.assert_close(a.centroids, b.centroids, rtol=0, atol=1e-6)
        assert torch.equal(a.counts, b.counts) and (a.n_iter, a.converged) == (b.n_iter, b.converged)


def test_restarts_that_end_keep_the_bounds_of_the_others(monkeypatch: pytest.MonkeyPatch):
    x = points("plain", 0)
    with counted_steps(monkeypatch) as calls:
        km = fit(x, 9, n_init=4)
    assert len({run.n_iter for run in km.runs_}) > 1
    assert calls == [False] + [True] * (len(calls) - 1)


def test_a_step_has_one_former_state_in_memory(monkeypatch: pytest.MonkeyPatch):
    states: list[weakref.ref[Tensor]] = []  # labels of all states
    alive, original = [], pruning.pruned_step

    def step(*args: Any, **options: Any) -> PrunedStep:
        alive.append(sum(state() is not None for state in states))
        result = original(*args, **options)
        states.extend([weakref.ref(result.labels), weakref.ref(result.bounds)])
        return result

    monkeypatch.setattr(pruning, "pruned_step", step)
    km = fit(points("plain", 0), 9, n_init=4)
    assert len({run.n_iter for run in km.runs_}) > 1
    assert max(alive) == 2 and min(alive[1:]) == 0  # 0: only the part of the remaining restarts


@pytest.mark.parametrize("empty", [5, 12])
def test_relocation_with_bounds_does_not_change_a_fit(empty: int, monkeypatch: pytest.MonkeyPatch):
    x = points("duplicates", 1)[:1, :, :3, :3].repeat(4, 1, 3, 3)  # 9 distinct points
    init = x[0, :, 0, 0].repeat(empty, 1) + 0.01 * torch.arange(empty)[:, None]
    pruned = fit(x, empty, init=init)
    assert pruned.n_relocated_ > 0
    monkeypatch.setattr(pruning, "PrunedPoints", Forgetful)
    assert_same_fit(pruned, fit(x, empty, init=init))


def test_a_resumed_fit_without_bounds_gives_the_same_bits(tmp_path: Path):
    x, path = points("plain", 2), tmp_path / "fit"
    whole = fit(x, 9, max_iter=30)
    options: dict[str, Any] = {"n_init": 3, "tol": 0, "max_iter": 30}

    class Interrupted(Exception):
        pass

    state = estimator.BatchedLloyd
    for n_steps in (1, 3):
        path.unlink(missing_ok=True)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
            remaining = [n_steps]
            save = state.save

            def stop(self: Any, *args: Any, save: Any = save, remaining: list[int] = remaining) -> None:
                save(self, *args)
                remaining[0] -= 1
                if not remaining[0]:
                    raise Interrupted

            patch.setattr(state, "save", stop)
            SphericalKMeans(9, **options).fit(x, checkpoint=path, progress=False)
        resumed = SphericalKMeans(9, **options).fit(x, checkpoint=path, progress=False)
        assert_same_fit(resumed, whole)


@pytest.mark.parametrize("case", ["float64", "few channels", "stream", "reference", "one cluster"])
def test_pruning_is_only_used_where_it_pays(case: str, monkeypatch: pytest.MonkeyPatch):
    x = points("plain", 0)
    data: Any = {"float64": x.double(), "few channels": x[:, :8], "stream": [x[:2], x[2:]]}.get(case, x)
    backend = "reference" if case == "reference" else None
    with counted_steps(monkeypatch) as calls:
        fit(data, 1 if case == "one cluster" else 9, backend=backend)
    assert not calls
