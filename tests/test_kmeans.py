# SPDX-License-Identifier: Apache-2.0
"""Spherical k-means by hand, against plain Python and scikit-learn, and by the laws that a clustering obeys."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

import stylefast
from stylefast import SphericalKMeans, kmeans, seeding
from stylefast.kmeans import EmptyClusterWarning

E1, E2, E3 = torch.eye(3)


def mixture(n: int, c: int, h: int, w: int, k: int, noise: float, seed: int = 0) -> Tensor:
    """Activations [N, C, H, W] float64 of any length around k random directions."""
    rng = torch.Generator().manual_seed(seed)
    directions = normalize(torch.randn(k, c, generator=rng, dtype=torch.float64), dim=1)
    x = directions[torch.randint(k, (n, h, w), generator=rng)].movedim(-1, 1)
    x = x + noise / c**0.5 * torch.randn(n, c, h, w, generator=rng, dtype=torch.float64)
    return x * (0.5 + torch.rand(n, 1, h, w, generator=rng, dtype=torch.float64))


def directions(k: int, c: int, seed: int = 1) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(k, c, generator=rng, dtype=torch.float64), dim=1)


def rows(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N * H * W, C]."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def by_loop(points: list[list[float]], centroids: list[list[float]], n_iter: int) -> tuple[list, list, list[float]]:
    """Lloyd on the sphere: centroids after n_iter updates, their labels, and the objective before each update."""
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


def fit(x: Any, k: int, **options: Any) -> SphericalKMeans:
    with warnings.catch_warnings():
        warnings.simplefilter("error", EmptyClusterWarning)
        return SphericalKMeans(k, **options).fit(x, progress=False)


def test_by_hand():
    x = torch.tensor([[2.0, 0.0], [3.0, 4.0], [0.0, 0.0], [-5.0, 0.0]])
    km = fit(x, 2, init=torch.tensor([[7.0, 0.0], [-1.0, 0.0]]), tol=0)
    assert km.labels_.tolist() == [0, 0, 0, 1]
    assert km.labels_.dtype == torch.int32
    torch.testing.assert_close(km.centroids_, torch.tensor([[2 / 5**0.5, 1 / 5**0.5], [-1.0, 0.0]]))
    assert km.objective_ == pytest.approx((2 * 2 / 5**0.5 + 0 + 1) / 4)
    (run,) = km.runs_
    assert (run.n_iter, run.converged, run.n_reseeded, run.n_empty) == (1, True, 0, 0)
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
def test_a_run_ends_when_the_objective_gains_less_than_tol_of_itself(tol: float):
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
    # between unit vectors the nearest centroid is the most similar one
    theirs.cluster_centers_ = ours.centroids_.numpy()
    assert np.array_equal(theirs.predict(unit.numpy()), ours.labels_.flatten().numpy())


@settings(deadline=None, derandomize=True, database=None, max_examples=25)
@given(st.integers(1, 6), st.integers(2, 9), st.integers(0, 99), st.sampled_from(("k-means++", "random")))
def test_laws_of_every_fit(k: int, c: int, seed: int, init: str):
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


def test_length_of_points_order_of_images_and_repetition_do_not_matter():
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


def test_layout_does_not_matter():
    x = mixture(2, 8, 5, 7, 4, 1.5).float()
    km = fit(x, 4, n_init=2)
    wide = torch.full((3, 10, 6, 9), torch.nan)
    wide[1:, 1:9, 1:, 2:] = x
    for view in (
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(2, 3).contiguous().transpose(2, 3),
        wide[1:, 1:9, 1:, 2:],
    ):
        other = fit(view, 4, n_init=2)
        assert torch.equal(other.labels_, km.labels_)
        torch.testing.assert_close(other.centroids_, km.centroids_)
    for points in (rows(x), rows(x).t().contiguous().t()):
        other = fit(points, 4, n_init=2)
        assert other.labels_.shape == (70,)
        assert torch.equal(other.labels_, km.labels_.flatten())
        assert torch.equal(other.predict(points), other.labels_)


@pytest.mark.parametrize("x", [mixture(2, 8, 5, 7, 4, 1.5).float(), rows(mixture(2, 8, 5, 7, 4, 1.5))])
def test_numpy_in_numpy_out_without_a_copy(x: Tensor, recwarn: pytest.WarningsRecorder):
    km, array = fit(x, 4, n_init=2), x.numpy().copy()
    array.flags.writeable = False  # a memory map
    other = fit(array, 4, n_init=2, init="k-means++")
    for name in ("labels_", "centroids_"):
        ours, theirs = getattr(km, name), getattr(other, name)
        assert isinstance(theirs, np.ndarray)
        assert theirs.dtype == ours.numpy().dtype
        assert np.array_equal(theirs, ours.numpy())
    assert isinstance(other.runs_[0].centroids, np.ndarray)
    assert isinstance(other.predict(array), np.ndarray)
    assert isinstance(other.predict(x), Tensor)
    assert isinstance(fit(x, 4, init=other.centroids_).centroids_, Tensor)
    assert seeding.Points.of(array, "raw", None).activations.data_ptr() == array.ctypes.data
    assert not [w for w in recwarn if "writable" in str(w.message)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("features", ["raw", "standardized", "squared"])
def test_dtypes(dtype: torch.dtype, features: str):
    x = mixture(2, 24, 6, 7, 4, 0.5).to(dtype)
    km, exact = fit(x, 4, n_init=2, features=features), fit(x.double(), 4, n_init=2, features=features)
    assert km.centroids_.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(km.labels_, exact.labels_)
    torch.testing.assert_close(km.centroids_.double(), exact.centroids_, atol=1e-5, rtol=0)
    assert km.objective_ == pytest.approx(exact.objective_, abs=1e-6)


@pytest.mark.parametrize("init", ["k-means++", "random", directions(4, 8).abs()])
def test_features_are_those_of_the_transformed_tensor(init: str | Tensor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(seeding, "CHUNK", 3 * 2 * 5 * 7)  # three channels at a time
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


def test_empty_clusters_are_reseeded_from_the_least_similar_points_and_reported():
    # similarities to the updated centroid: 0.89, 0.89, 0 (the zero vector is no candidate), 0.89, -0.89
    x = torch.stack((E1, 2 * E1, 0 * E1, 3 * E1 + 4 * E2, -E1))
    km = SphericalKMeans(2, init=torch.stack((E1, E1)), max_iter=1)
    with pytest.warns(EmptyClusterWarning, match="1 times a cluster without points was re-seeded") as caught:
        km.fit(x)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert km.n_reseeded_ == km.runs_[0].n_reseeded == 1
    assert torch.equal(km.centroids_[1], -E1)
    assert km.labels_.tolist() == [0, 0, 0, 0, 1]
    inits = torch.stack((E1, E1, E1, E1, E2, E3, E1, E1, E1)).view(3, 3, 3)
    with pytest.warns(EmptyClusterWarning):
        km = SphericalKMeans(3, init=inits, tol=0).fit(torch.stack((E1, 2 * E1, 0 * E1, E2, E3, E2 + E1)))
    assert [run.n_reseeded for run in km.runs_] == [2, 0, 2]
    assert km.n_reseeded_ == 4
    assert sorted(km.runs_[0].counts.tolist()) == [1, 1, 3]


def test_an_empty_cluster_does_not_take_the_point_that_another_moves_to():
    x = torch.cat((E1.expand(50, 3), (E1 + 0.01 * E2).expand(50, 3), E3[None]))
    km = SphericalKMeans(
        3, init=torch.stack((E1, E1, E1 + 0.001 * E3)), tol=0.9
    )  # E3 is the point least similar so far
    with pytest.warns(EmptyClusterWarning):
        km.fit(x)
    assert km.runs_[0].n_empty == 0
    assert sorted(km.runs_[0].counts.tolist()) == [1, 50, 50]


def test_reseeding_goes_on_while_it_fills_clusters():
    x = torch.cat((E1.expand(50, 3), E2[None], 2 * E2[None], 0.1 * E1[None] + E3))  # the two least similar are one
    km = SphericalKMeans(3, init=E1.expand(3, 3), tol=0.9)
    with pytest.warns(EmptyClusterWarning, match="3 times a cluster without points was re-seeded from .* point$"):
        km.fit(x)
    assert sorted(km.runs_[0].counts.tolist()) == [1, 2, 50]


def test_a_cluster_that_empties_late_is_reseeded_although_the_gain_is_below_tol():
    angle = torch.tensor([-0.3, -0.3, 0.0, 1.0, 1.3, 1.3])  # 0 and 1 leave the middle centroid after its update
    init = torch.tensor([-1.0, 0.5, 2.0])
    km = SphericalKMeans(3, init=torch.stack((init.cos(), init.sin()), 1), tol=0.9)
    with pytest.warns(EmptyClusterWarning):
        km.fit(torch.stack((angle.cos(), angle.sin()), 1))
    (run,) = km.runs_
    assert (run.n_iter, run.n_reseeded, run.n_empty, run.converged) == (2, 1, 0, True)


@pytest.mark.parametrize("init", ["k-means++", "random", torch.stack((E1, E1))])
def test_fewer_directions_than_clusters_end_and_are_reported(init: str | Tensor):
    x = torch.arange(1.0, 6.0)[:, None] * E2
    km = SphericalKMeans(2, init=init, n_init=2, tol=0)
    with pytest.warns(EmptyClusterWarning, match="1 clusters of the best run stayed empty"):
        km.fit(x)
    assert km.labels_.unique().numel() == 1
    assert km.objective_ == pytest.approx(1)
    assert km.runs_[0].converged
    assert km.runs_[0].n_iter <= 3


@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize("features", ["raw", "squared"])
def test_seeds_are_distinct_points_other_than_zero(init: str, features: str):
    x = torch.zeros(6000, 5)
    at = torch.tensor([3, 999, 1000, 2718, 5999])
    x[at] = torch.eye(5)[[4, 2, 0, 1, 3]] * 3 + 0.1
    km = fit(x, 5, init=init, n_init=4, features=features)
    assert sorted(km.labels_[at].tolist()) == [0, 1, 2, 3, 4]
    assert not km.labels_[torch.isin(torch.arange(6000), at, invert=True)].any()
    assert km.objective_ == pytest.approx(5 / 6000)
    assert all(run.n_iter <= 1 for run in km.runs_)


def test_k_means_plus_plus_finds_every_tight_cluster():
    x, k = mixture(3, 32, 64, 64, 30, 0.05).float(), 30
    truth = fit(x, k, init=directions(k, 32, seed=0).float()).objective_
    km = fit(x, k, n_init=4, max_iter=1)
    assert all(run.objective == pytest.approx(truth, abs=1e-4) for run in km.runs_)
    assert max(run.objective for run in fit(x, k, n_init=4, max_iter=1, init="random").runs_) < truth - 0.05


def test_k_means_plus_plus_draws_by_one_minus_cosine_and_takes_the_best_of_two():
    angle = torch.tensor([0.0, 0.4, 0.9, 2.0, 3.0], dtype=torch.float64)
    cosine = torch.cos(angle[:, None] - angle)
    n_init = 20_000
    x = torch.stack((angle.cos(), angle.sin()), dim=1)
    points = seeding.Points.of(x, "raw", None)
    rng = torch.Generator().manual_seed(0)
    found = seeding.seeds(points, torch.arange(5), "k-means++", 2, n_init, rng)  # [n_init, 2, C]
    pairs = (found @ x.T).argmax(2)  # [n_init, 2]
    observed = torch.zeros(5, 5).index_put_((pairs[:, 0], pairs[:, 1]), torch.tensor(1 / n_init), accumulate=True)
    expected = torch.zeros(5, 5)
    for first in range(5):
        weight = (1 - cosine[first]) / (1 - cosine[first]).sum()
        for a, b in itertools.product(range(5), repeat=2):
            best = max(a, b, key=lambda j: float(torch.maximum(cosine[first], cosine[j]).sum()))
            expected[first, best] += 1 / 5 * float(weight[a] * weight[b])
    assert torch.allclose(observed, expected, atol=0.012)  # 4 standard errors of the likeliest pair


def test_seeding_from_a_sample_is_as_good_as_from_all_points(monkeypatch: pytest.MonkeyPatch):
    x = mixture(5, 16, 64, 64, 12, 1.0).float()
    sampled = fit(x, 12, n_init=8)
    assert sampled.objective_ == sampled.score(x) == max(run.objective for run in sampled.runs_)
    monkeypatch.setattr(seeding, "SAMPLE", 10**6)
    assert sampled.objective_ > 0.999 * fit(x, 12, n_init=8).objective_


def test_seed_changes_the_choice():
    x = mixture(2, 8, 8, 8, 9, 3.0)
    one, two = (fit(x, 5, seed=seed, n_init=1, max_iter=1) for seed in (0, 1))
    assert not torch.equal(one.centroids_, two.centroids_)


@pytest.mark.parametrize("features", ["raw", "standardized", "squared"])
def test_partial_fit_adds_unnormalised_sums(features: str):
    batches = [mixture(n, 6, 4, 5, 3, 1.0, seed=n) + 0.3 for n in (1, 2, 4)]
    transform = {
        "raw": lambda x: x,
        "standardized": lambda x: torch.nn.functional.instance_norm(x, eps=1e-5),
        "squared": lambda x: x.square(),
    }[features]
    km = SphericalKMeans(3, init=directions(3, 6), features=features)
    centroids, sums = directions(3, 6), torch.zeros(3, 6, dtype=torch.float64)
    for batch in batches:
        units = normalize(rows(transform(batch)), dim=1)
        labels = (units @ centroids.T).argmax(1)
        sums.index_add_(0, labels, units)
        centroids = normalize(sums, dim=1)
        km.partial_fit(batch)
        torch.testing.assert_close(km.centroids_, centroids)
    assert km.n_reseeded_ == 0


def test_partial_fit_by_hand_old_data_keep_their_weight():
    km = SphericalKMeans(1, init=E1[None]).partial_fit(E1.expand(99, 3))
    km.partial_fit(5 * E2[None])
    torch.testing.assert_close(km.centroids_, normalize(99 * E1 + E2, dim=0)[None])
    km = fit(torch.cat((E1.expand(99, 3), E3[None])), 2, init=torch.stack((E1, E3))).partial_fit(5 * E2[None])
    torch.testing.assert_close(km.centroids_, torch.stack((normalize(99 * E1 + E2, dim=0), E3)))


def test_partial_fit_equals_fit_where_it_must():
    x = mixture(3, 8, 5, 7, 4, 1.5)
    km = SphericalKMeans(4, seed=3, n_init=5).partial_fit(x)
    once = fit(x, 4, seed=3, n_init=5, max_iter=1)
    assert any(torch.allclose(km.centroids_, run.centroids) for run in once.runs_)
    inits = torch.stack((directions(4, 8, 5), once.centroids_, directions(4, 8, 6)))  # the middle one is the best
    km = SphericalKMeans(4, init=inits).partial_fit(x)
    torch.testing.assert_close(km.centroids_, fit(x, 4, init=inits[1], max_iter=1).centroids_)
    halves = SphericalKMeans(4, init=inits[1]).partial_fit(x[:1])
    first = halves.centroids_.clone()
    assert torch.equal(halves.partial_fit(x[:0]).centroids_, first)
    assert torch.equal(halves.partial_fit(0 * x).centroids_, first)


def test_partial_fit_forgets_what_fit_said_of_its_data():
    x = mixture(3, 8, 5, 7, 4, 1.5)
    km = fit(x, 4).partial_fit(x.numpy())
    assert isinstance(km.centroids_, np.ndarray)
    assert not any(hasattr(km, name) for name in ("labels_", "objective_", "runs_"))
    assert km.predict(x).shape == (3, 5, 7)
    assert torch.equal(km.fit(x, progress=False).centroids_, fit(x, 4).centroids_)


def test_partial_fit_reseeds_clusters_that_never_had_a_point():
    km = SphericalKMeans(3, init=torch.stack((E1, E1, E2)))
    with pytest.warns(EmptyClusterWarning, match="1 times"):
        km.partial_fit(torch.stack((E1, E2, 0 * E1, 0.1 * E2 - E1)))
    assert km.n_reseeded_ == 1
    torch.testing.assert_close(km.centroids_[1], normalize(0.1 * E2 - E1, dim=0))
    with pytest.warns(EmptyClusterWarning, match="1 times"):
        km.partial_fit(torch.stack((E1, E3)))  # E3 goes to cluster 0, ties to the lowest; still none for cluster 1
    assert km.n_reseeded_ == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        km.partial_fit(torch.stack((5 * E3, E1)))  # none for cluster 2, which has a past
    assert km.n_reseeded_ == 2
    torch.testing.assert_close(km.centroids_[:2], normalize(torch.stack((3 * E1 + E3, E3)), dim=1))


def test_partial_fit_reseeds_from_what_no_cluster_holds_and_as_many_as_there_are():
    with pytest.warns(EmptyClusterWarning):
        km = SphericalKMeans(2, init=E1.expand(2, 3)).partial_fit(torch.cat((E1[None], (E1 + E2).expand(4, 3))))
    assert torch.equal(km.centroids_[1], E1)  # although the empty cluster was there
    with pytest.warns(EmptyClusterWarning):
        km = SphericalKMeans(3, init=E1.expand(3, 3)).partial_fit(E1.expand(3, 3)).partial_fit(E2[None])
    assert torch.equal(km.centroids_[1:], torch.stack((E2, E1)))
    assert km.n_reseeded_ == 3


class _Allocations(TorchDispatchMode):
    """Notes the bytes of the largest tensor that is created, views aside."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.known, self.largest = {x.untyped_storage().data_ptr() for x in known}, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in self.known:
                self.largest = max(self.largest, x.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("features", ["raw", "standardized", "squared"])
def test_nothing_of_the_size_of_the_activations_is_allocated(features: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(seeding, "SAMPLE", 512)
    monkeypatch.setattr(seeding, "CHUNK", 1 << 16)
    x = mixture(3, 64, 64, 64, 10, 1.0).half()
    init = directions(8, 64)[[0, 0, 2, 3, 4, 5, 6, 7]]  # a cluster to re-seed
    for data, points in ((x, x), (x.numpy(), x), (rows(x), rows(x))):
        for seeds in ("k-means++", init):
            with _Allocations(x, points) as seen, warnings.catch_warnings():
                warnings.simplefilter("ignore", EmptyClusterWarning)
                km = SphericalKMeans(8, n_init=2, init=seeds, features=features, max_iter=3).fit(data)
                km.predict(data)
                km.partial_fit(data)
            assert 0 < seen.largest < x.nbytes / 4


def test_progress(monkeypatch: pytest.MonkeyPatch):
    bars: list[dict[str, Any]] = []
    tqdm = kmeans.tqdm
    monkeypatch.setattr(kmeans, "tqdm", lambda **options: bars.append(options) or tqdm(**options))
    x = mixture(1, 4, 5, 5, 2, 1.0)
    SphericalKMeans(2).fit(x)
    SphericalKMeans(2).fit(x, progress=False)
    assert [(bar["delay"], bar["disable"]) for bar in bars] == [(2, False), (2, True)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_clusters": 0}, "n_clusters must be an integer >= 1, got 0"),
        ({"n_clusters": 2.5}, "n_clusters must be an integer >= 1, got 2.5"),
        ({"n_clusters": True}, "n_clusters must be an integer >= 1, got True"),
        ({"n_init": 0}, "n_init must be an integer >= 1, got 0"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1, got 0"),
        ({"tol": -1.0}, "tol must be a finite number >= 0, got -1.0"),
        ({"tol": math.nan}, "tol must be a finite number >= 0, got nan"),
        ({"tol": math.inf}, "tol must be a finite number >= 0, got inf"),
        ({"tol": "small"}, "tol must be a finite number >= 0, got 'small'"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
        ({"features": "cosine"}, "features must be one of 'raw'"),
        ({"init": "kmeans++"}, "init must be one of 'k-means\\+\\+', 'random', got 'kmeans\\+\\+'"),
        ({"init": torch.ones(2, 4)}, r"init must have shape \[K, C\] or \[B, K, C\] with K = 3 .* got \(2, 4\)"),
        ({"init": torch.ones(0, 3, 4)}, r"B, C >= 1, got \(0, 3, 4\)"),
        ({"init": torch.ones(3)}, r"init must have shape \[K, C\] or \[B, K, C\], got \(3,\)"),
        ({"init": torch.ones(3, 4) * torch.tensor([[1], [0], [1]])}, r"vectors other than zero, .* at \(1,\)"),
        ({"init": torch.full((2, 3, 4), math.nan)}, r"finite vectors other than zero, .* at \(0, 0\)"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str):
    arguments: dict[str, Any] = {"n_clusters": 3} | options
    with pytest.raises(ValueError, match=message):
        SphericalKMeans(**arguments)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (torch.ones(3, 4, 5), ValueError, r"activations must have shape \[N, C, H, W\] or \[M, C\], got \(3, 4, 5\)"),
        (torch.ones(5, 4).int(), TypeError, "activations must be float32, .* got torch.int32"),
        (np.ones((5, 4), int), TypeError, "activations must be float32, .* got torch.int64"),
        ([[1.0, 2.0]], TypeError, "activations must be a torch.Tensor or a NumPy array, got list"),
        (torch.ones(5, 4).to_sparse(), TypeError, "activations must be a dense"),
        (torch.ones(2, 4, 0, 3), ValueError, "C, H and W >= 1"),
        (torch.ones(5, 0), ValueError, "C, H and W >= 1"),
        (torch.ones(2, 4), ValueError, "n_clusters must be at most .* got K = 3 for 2 of 2 points"),
        (torch.ones(0, 4), ValueError, "got K = 3 for 0 of 0 points"),
        (torch.ones(0, 4, 2, 2), ValueError, "got K = 3 for 0 of 0 points"),
        (torch.tensor([[1.0], [0], [0], [2], [0]]), ValueError, "got K = 3 for 2 of 5 points"),
    ],
)
def test_wrong_data(data: Any, error: type[Exception], message: str):
    for call in (SphericalKMeans(3).fit, SphericalKMeans(3).partial_fit):
        with pytest.raises(error, match=message):
            call(data)


@pytest.mark.parametrize("features", ["raw", "standardized", "squared"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_finite_points_are_counted_and_found(features: str, bad: float):
    x = mixture(3, 4, 5, 6, 3, 1.0).float()
    km = fit(x, 3, features=features)
    x[1, 2, 3, 4] = x[2, 0, 0, 0] = x[2, 1, 0, 0] = bad
    fresh, streaming = SphericalKMeans(3, features=features), SphericalKMeans(3, features=features).partial_fit(x[:1])
    before = streaming.centroids_.clone()
    for call in (fresh.fit, fresh.partial_fit, streaming.partial_fit, km.predict, km.score):
        with pytest.raises(ValueError, match=r"got 2 of 90 points with NaN.*the first at image 1, position \(3, 4\)"):
            call(x)
        with pytest.raises(ValueError, match=r"got 2 of 90 points with NaN.*the first at row 52$"):
            call(rows(x))
    assert torch.equal(streaming.centroids_, before)


def test_no_graph_is_kept():
    x = rows(mixture(1, 4, 5, 5, 2, 1.0)).requires_grad_()
    km = fit(x, 2, init=directions(2, 4).requires_grad_())
    km.partial_fit(x)
    assert not km.centroids_.requires_grad
    assert not fit(x, 2).centroids_.requires_grad


def test_wrong_calls():
    x = mixture(2, 4, 5, 6, 3, 1.0)
    for call in (SphericalKMeans(3).predict, SphericalKMeans(3).score):
        with pytest.raises(RuntimeError, match="no centroids yet: call fit or partial_fit"):
            call(x)
    km = fit(x, 3)
    for call in (km.predict, km.score, km.partial_fit):
        with pytest.raises(ValueError, match=r"activations must have C = 4 like the centroids, got \(2, 3, 5, 6\)"):
            call(x[:, :3])
    with pytest.raises(ValueError, match=r"init must have shape .* with C = 4 on cpu .* got \(3, 5\) on cpu"):
        SphericalKMeans(3, init=torch.ones(3, 5)).fit(x)
    with pytest.raises(ValueError, match="backend must be one of"):
        SphericalKMeans(3, backend="abacus").fit(x)
    assert km.predict(x[:0]).shape == (0, 5, 6)
    assert km.predict(rows(x)[:0]).shape == (0,)
    assert km.score(x[:0]) == 0
