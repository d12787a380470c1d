# SPDX-License-Identifier: Apache-2.0
"""Spherical k-means compared with hand computations, plain Python and scikit-learn, and laws of every fit."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import directions, fit, mixture, rows
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import normalize

import stylefast
from stylefast import SphericalKMeans
from stylefast.kmeans import EmptyClusterWarning

E1, E2, E3 = torch.eye(3)


def by_loop(points: list[list[float]], centroids: list[list[float]], n_iter: int) -> tuple[list, list, list[float]]:
    """Spherical Lloyd: labels and centroids after `n_iter` updates, and the objective before and after each update."""
    trace = []
    for last in [False] * n_iter + [True]:
        units = [[a / math.hypot(*x) for a in x] for x in points]
        cosines = [[sum(a * b for a, b in zip(u, c, strict=True)) for c in centroids] for u in units]
        labels = [max(range(len(centroids)), key=lambda k: (cosine[k], -k)) for cosine in cosines]  # noqa: B023
        trace.append(sum(map(max, cosines)) / len(points))
        if last:
            break
        for k in set(labels):
            total = [sum(axis) for axis in zip(*(u for u, i in zip(units, labels, strict=True) if i == k), strict=True)]
            centroids = centroids[:k] + [[a / math.hypot(*total) for a in total]] + centroids[k + 1 :]
    return labels, centroids, trace


def test_fit_by_hand():
    x = torch.tensor([[2.0, 0.0], [3.0, 4.0], [0.0, 0.0], [-5.0, 0.0]])
    km = fit(x, 2, init=torch.tensor([[7.0, 0.0], [-1.0, 0.0]]), tol=0)
    assert km.labels_.tolist() == [0, 0, 0, 1]
    assert km.labels_.dtype == torch.int32
    torch.testing.assert_close(km.centroids_, torch.tensor([[2 / 5**0.5, 1 / 5**0.5], [-1.0, 0.0]]))
    assert km.objective_ == pytest.approx((2 * 2 / 5**0.5 + 0 + 1) / 4)
    (run,) = km.runs_
    assert (run.n_iter, run.converged, run.n_relocated, run.n_empty) == (1, True, 0, 0)
    assert run.counts.tolist() == [2, 1]
    torch.testing.assert_close(run.sums, torch.tensor([[1.6, 0.8], [-1.0, 0.0]]))
    assert km.predict(torch.tensor([[1.0, -9.0], [-1.0, -1.0], [0.0, 0.0]])).tolist() == [1, 1, 0]
    assert km.score(torch.tensor([[0.0, 9.0], [-1.0, 0.0]])) == pytest.approx((1 / 5**0.5 + 1) / 2)


def test_init_need_not_be_of_unit_norm():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert fit(x, 2, init=torch.tensor([[9.0, 8.0], [0.0, 1.0]])).labels_.tolist() == [0, 1]


@pytest.mark.parametrize("n_iter", [1, 2, 5])
def test_lloyd_equals_a_plain_loop(n_iter: int):
    x, init = rows(mixture(2, 5, 9, 9, 4, 3.0)), directions(4, 5)
    labels, centroids, trace = by_loop(x.tolist(), init.tolist(), n_iter)
    km = fit(x, 4, init=init, max_iter=n_iter, tol=0)
    assert km.labels_.tolist() == labels
    torch.testing.assert_close(km.centroids_, torch.tensor(centroids, dtype=torch.float64))
    assert km.objective_ == pytest.approx(trace[-1], rel=1e-12)
    assert (km.runs_[0].n_iter, km.runs_[0].converged) == (n_iter, False)


@pytest.mark.parametrize("tol", [3e-2, 1e-3, 0.0])
def test_run_ends_when_the_relative_gain_is_below_tol(tol: float):
    x, init = rows(mixture(2, 5, 4, 6, 4, 2.0)), directions(4, 5)
    _, _, trace = by_loop(x.tolist(), init.tolist(), 40)
    end = next(i for i in range(1, 41) if trace[i] - trace[i - 1] < tol * trace[i] or trace[i] >= trace[-1] - 1e-15)
    run = fit(x, 4, init=init, tol=tol).runs_[0]
    assert (run.n_iter, run.converged) == (end, True)


def test_quality_equals_that_of_scikit_learn():
    x = mixture(4, 16, 16, 16, 8, 1.0).float()
    unit = normalize(rows(x), dim=1)
    ours = fit(x, 8, n_init=5, tol=0)
    theirs = KMeans(8, n_init=5, random_state=0, tol=0).fit(unit.numpy())
    score = fit(unit, 8, init=theirs.cluster_centers_, max_iter=1).objective_
    assert ours.objective_ > 0.999 * score
    # For unit vectors, the nearest centroid is the most similar one.
    theirs.cluster_centers_ = ours.centroids_.numpy()
    assert np.array_equal(theirs.predict(unit.numpy()), ours.labels_.flatten().numpy())


@settings(deadline=None, derandomize=True, database=None, max_examples=25)
@given(st.integers(1, 6), st.integers(2, 9), st.integers(0, 99), st.sampled_from(("k-means++", "random")))
def test_every_fit_is_repeatable_and_consistent(k: int, c: int, seed: int, init: str):
    x = mixture(2, c, 3, 7, 5, 1.0, seed).float()
    x[0, :, 0, 0] = 0
    untouched = x.clone()
    km = SphericalKMeans(k, init=init, seed=seed, n_init=3, max_iter=4, tol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyClusterWarning)
        km.fit(x)
        again = SphericalKMeans(k, init=init, seed=seed, n_init=3, max_iter=4, tol=0).fit(x)
    assert torch.equal(x, untouched)
    assert torch.equal(again.centroids_, km.centroids_)
    assert torch.equal(again.labels_, km.labels_)
    assert torch.equal(km.labels_, km.predict(x))
    assert km.labels_[0, 0, 0] == 0
    assert km.objective_ == km.score(x) == max(run.objective for run in km.runs_)
    assert km.predict(km.centroids_).tolist() == list(range(k))
    assert torch.allclose(km.centroids_.norm(dim=1), torch.ones(k))
    assert len(km.runs_) == 3
    for run in km.runs_:
        assert run.objective == pytest.approx(float(stylefast.assign(x, run.centroids).similarity.mean()), abs=1e-6)
        assert int(run.counts.sum()) == 2 * 3 * 7 - 1
        assert int((run.counts == 0).sum()) == run.n_empty


def test_more_iterations_are_never_worse():
    x = mixture(2, 8, 8, 8, 9, 3.0)
    scores = [fit(x, 6, init="random", n_init=1, max_iter=n, tol=0).objective_ for n in range(1, 12)]
    assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(scores))
    assert scores[5] > scores[0] + 1e-3


def test_invariance_to_length_order_and_repetition():
    x, init = mixture(3, 8, 5, 7, 4, 1.5), directions(4, 8)
    km = fit(x, 4, init=init)
    length = 2.0 ** torch.randint(-9, 9, (3, 1, 5, 7), generator=torch.Generator().manual_seed(0))
    other = fit(x * length, 4, init=init)
    assert torch.equal(other.labels_, km.labels_)
    torch.testing.assert_close(other.centroids_, km.centroids_)
    order = [2, 0, 1]
    other = fit(x[order], 4, init=init)
    assert torch.equal(other.labels_, km.labels_[order])
    torch.testing.assert_close(other.centroids_, km.centroids_)
    other = fit(torch.cat((x, x)), 4, init=init)
    assert torch.equal(other.labels_, torch.cat((km.labels_, km.labels_)))
    torch.testing.assert_close(other.centroids_, km.centroids_)
    assert other.objective_ == pytest.approx(km.objective_)


@pytest.mark.parametrize("init", ["k-means++", "random", directions(4, 8).abs()])
def test_features_equal_a_fit_of_transformed_data(init: str | Tensor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stylefast.kmeans.batch.CHUNK", 3 * 2 * 5 * 7)  # three channels at a time
    x = mixture(2, 8, 5, 7, 4, 0.5) + 3
    standardized = torch.nn.functional.instance_norm(x, eps=1e-5)
    for features, transformed in (("standardized", standardized), ("squared", x.square())):
        km = fit(x, 4, features=features, init=init, n_init=2)
        other = fit(transformed, 4, init=init, n_init=2)
        assert torch.equal(km.labels_, other.labels_)
        torch.testing.assert_close(km.centroids_, other.centroids_)
        assert km.objective_ == pytest.approx(other.objective_)


def test_lockstep_restarts_equal_separate_fits():
    x = mixture(2, 8, 8, 8, 9, 3.0)
    inits = torch.stack([directions(5, 8, seed) for seed in range(4)])
    km = fit(x, 5, init=inits, tol=1e-4)
    alone = [fit(x, 5, init=init, tol=1e-4) for init in inits]
    assert len({run.n_iter for run in km.runs_}) > 1
    for run, other in zip(km.runs_, alone, strict=True):
        assert run.n_iter == other.runs_[0].n_iter
        torch.testing.assert_close(run.centroids, other.centroids_)
        assert run.objective == pytest.approx(other.objective_, rel=1e-12)
    best = max(range(4), key=lambda i: alone[i].objective_)
    assert km.objective_ == km.score(x) == km.runs_[best].objective
    torch.testing.assert_close(km.centroids_, alone[best].centroids_)
    assert torch.equal(km.labels_, alone[best].labels_)


def test_empty_clusters_move_to_least_similar_points_and_warn():
    # Similarities to the updated centroid: 0.89, 0.89, 0 (the zero vector is not a candidate), 0.89, -0.89.
    x = torch.stack((E1, 2 * E1, 0 * E1, 3 * E1 + 4 * E2, -E1))
    km = SphericalKMeans(2, init=torch.stack((E1, E1)), max_iter=1)
    with pytest.warns(EmptyClusterWarning, match="an empty cluster was relocated .* 1 times") as caught:
        km.fit(x)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert km.n_relocated_ == km.runs_[0].n_relocated == 1
    assert torch.equal(km.centroids_[1], -E1)
    assert km.labels_.tolist() == [0, 0, 0, 0, 1]
    inits = torch.stack((E1, E1, E1, E1, E2, E3, E1, E1, E1)).view(3, 3, 3)
    with pytest.warns(EmptyClusterWarning):
        km = SphericalKMeans(3, init=inits, tol=0).fit(torch.stack((E1, 2 * E1, 0 * E1, E2, E3, E2 + E1)))
    assert [run.n_relocated for run in km.runs_] == [2, 0, 2]
    assert km.n_relocated_ == 4
    assert sorted(km.runs_[0].counts.tolist()) == [1, 1, 3]


def test_empty_clusters_move_by_similarity_to_updated_centroids():
    x = torch.cat((E1.expand(50, 3), (E1 + 0.01 * E2).expand(50, 3), E3[None]))
    init = torch.stack((E1, E1, E1 + 0.001 * E3))  # before the update, E3 is the least similar point
    km = SphericalKMeans(3, init=init, tol=0.9)
    with pytest.warns(EmptyClusterWarning):
        km.fit(x)
    assert km.runs_[0].n_empty == 0
    assert sorted(km.runs_[0].counts.tolist()) == [1, 50, 50]


def test_relocation_continues_while_it_fills_clusters():
    # The two least similar points, E2 and 2 E2, have the same direction.
    x = torch.cat((E1.expand(50, 3), E2[None], 2 * E2[None], 0.1 * E1[None] + E3))
    km = SphericalKMeans(3, init=E1.expand(3, 3), tol=0.9)
    with pytest.warns(EmptyClusterWarning, match="relocated to the least similar point 3 times$"):
        km.fit(x)
    assert sorted(km.runs_[0].counts.tolist()) == [1, 2, 50]


def test_a_cluster_that_empties_late_is_relocated_below_tol():
    # The points at 0 and 1 leave the middle centroid after its update.
    angle = torch.tensor([-0.3, -0.3, 0.0, 1.0, 1.3, 1.3])
    init = torch.tensor([-1.0, 0.5, 2.0])
    km = SphericalKMeans(3, init=torch.stack((init.cos(), init.sin()), 1), tol=0.9)
    with pytest.warns(EmptyClusterWarning):
        km.fit(torch.stack((angle.cos(), angle.sin()), 1))
    (run,) = km.runs_
    assert (run.n_iter, run.n_relocated, run.n_empty, run.converged) == (2, 1, 0, True)


@pytest.mark.parametrize("init", ["k-means++", "random", torch.stack((E1, E1))])
def test_fits_with_too_few_directions_end_with_a_warning(init: str | Tensor):
    x = torch.arange(1.0, 6.0)[:, None] * E2
    km = SphericalKMeans(2, init=init, n_init=2, tol=0)
    with pytest.warns(EmptyClusterWarning, match="1 clusters of the best run stayed empty"):
        km.fit(x)
    assert km.labels_.unique().numel() == 1
    assert km.objective_ == pytest.approx(1)
    assert km.runs_[0].converged
    assert km.runs_[0].n_iter <= 3
