# SPDX-License-Identifier: Apache-2.0
"""Initial centroids: distinct points, the probabilities of k-means++, the sample, and the random seed."""

from __future__ import annotations

import itertools

import pytest
import torch
from mixtures import directions, fit, mixture
from torch.nn.functional import normalize, one_hot

from stylefast.distributed import ALONE
from stylefast.kmeans import initialization
from stylefast.kmeans.data import Points


@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize("features", ["raw", "squared"])
def test_initial_centroids_are_distinct_nonzero_points(init: str, features: str):
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


def test_k_means_plus_plus_chooses_greedily_among_two_draws():
    angle = torch.tensor([0.0, 0.4, 0.9, 2.0, 3.0], dtype=torch.float64)
    cosine = torch.cos(angle[:, None] - angle)
    n_init = 20_000
    x = torch.stack((angle.cos(), angle.sin()), dim=1)
    rng = torch.Generator().manual_seed(0)
    points = Points.scan(x, "raw", None, ALONE, rng)
    centroids = initialization.initial_centroids(points, "k-means++", 2, n_init, rng)  # [n_init, 2, C]
    pairs = (centroids @ x.T).argmax(2)  # [n_init, 2]
    observed = torch.zeros(5, 5).index_put_((pairs[:, 0], pairs[:, 1]), torch.tensor(1 / n_init), accumulate=True)
    expected = torch.zeros(5, 5)
    for first in range(5):
        weight = (1 - cosine[first]) / (1 - cosine[first]).sum()
        for a, b in itertools.product(range(5), repeat=2):
            best = max(a, b, key=lambda j: float(torch.maximum(cosine[first], cosine[j]).sum()))
            expected[first, best] += 1 / 5 * float(weight[a] * weight[b])
    assert torch.allclose(observed, expected, atol=0.012)  # 4 standard errors of the likeliest pair


def test_initialization_from_a_sample_is_as_good_as_from_all(monkeypatch: pytest.MonkeyPatch):
    x = mixture(5, 16, 64, 64, 12, 1.0).float()
    sampled = fit(x, 12, n_init=8)
    assert sampled.objective_ == sampled.score(x) == max(run.objective for run in sampled.runs_)
    monkeypatch.setattr(initialization, "SAMPLE", 10**6)
    assert sampled.objective_ > 0.999 * fit(x, 12, n_init=8).objective_


def test_another_seed_gives_other_initial_centroids():
    x = mixture(2, 8, 8, 8, 9, 3.0)
    one, two = (fit(x, 5, seed=seed, n_init=1, max_iter=1) for seed in (0, 1))
    assert not torch.equal(one.centroids_, two.centroids_)


def updated(centroids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """One Lloyd step of restarts [B, K, C] on unit points [m, C]."""
    labels = (centroids @ x.T).argmax(1)  # [B, m]
    return normalize(one_hot(labels, centroids.shape[1]).mT.double() @ x, dim=2)


def best_of(centroids: torch.Tensor, x: torch.Tensor, n_init: int, n: int) -> torch.Tensor:
    """The n centroids with the best objective of each of n_init groups of restarts."""
    objective = (centroids @ x.T).amax(1).mean(1).view(n_init, -1)
    assert (objective.amax(1) - objective.amin(1) > 1e-4).all()
    groups = zip(centroids.unflatten(0, (n_init, -1)), objective, strict=True)
    return torch.cat([group[value.argsort(descending=True)[:n]] for group, value in groups])


def test_many_points_refine_4_of_16_initializations(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(initialization, "SAMPLE", 1)  # the sample then has 64 K points
    monkeypatch.setattr(initialization, "SAMPLE_TOL", 0)
    monkeypatch.setattr(initialization, "SAMPLE_MAX_ITER", 2)
    k, n_init, size = 6, 3, 64 * 6
    x = normalize(torch.randn(40 * size, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1)

    def initial_centroids(n_points: int) -> torch.Tensor:
        rng = torch.Generator().manual_seed(1)
        points = Points.scan(x[:n_points], "raw", None, ALONE, rng)
        return initialization.initial_centroids(points, "k-means++", k, n_init, rng)  # [n_init, K, C]

    rng = torch.Generator().manual_seed(1)
    torch.randn(4, 10, generator=rng)  # the probes of Points.scan
    large = x[torch.randperm(len(x), generator=rng)[: 4 * size].sort().values]
    sample = large[::4]
    centroids = sample[initialization._k_means_plus_plus(sample, k, 16 * n_init, rng)[0]]  # [16 n_init, K, C]
    centroids = best_of(centroids, sample, n_init, 4)
    for _ in range(5):
        centroids = updated(centroids, sample)
    centroids = best_of(centroids, sample, n_init, 1)
    for _ in range(3):  # two iterations, and the update by the sums of the last evaluation
        centroids = updated(centroids, large)
    assert torch.allclose(initial_centroids(len(x)), centroids)
    # With fewer than 24 points per sampled point, the initial centroids do not converge on a sample: they are points.
    for n_points, are_points in ((len(x) - 1, False), (24 * size, False), (24 * size - 1, True)):
        similarity = (initial_centroids(n_points) @ x.T).amax(2)
        assert torch.allclose(similarity, torch.ones_like(similarity)) == are_points


def test_a_table_of_cosines_gives_the_same_points(monkeypatch: pytest.MonkeyPatch):
    x = normalize(torch.randn(200, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1)
    tables = []
    rows = initialization._rows
    monkeypatch.setattr(initialization, "_rows", lambda *args: tables.append(args[1] is not None) or rows(*args))
    chosen = []
    for size in (200, 199):
        monkeypatch.setattr(initialization, "SAMPLE", size)
        chosen.append(initialization._k_means_plus_plus(x, 8, 10, torch.Generator().manual_seed(1))[0])
    assert tables == [True] * 8 + [False] * 8
    assert torch.equal(*chosen)


@pytest.mark.parametrize("weighted", [False, True])
def test_portions_of_restarts_choose_the_same_points(weighted: bool, monkeypatch: pytest.MonkeyPatch):
    rng = torch.Generator().manual_seed(0)
    x = normalize(torch.randn(200, 6, dtype=torch.float64, generator=rng), dim=1)
    weights = torch.rand(200, dtype=torch.float64, generator=rng) if weighted else None
    results = []
    for cached in (10**9, 3 * 4 * 200, 1):  # 10, 3 and 1 restarts at a time
        monkeypatch.setattr(initialization, "CACHED", cached)
        results.append(initialization._k_means_plus_plus(x, 8, 10, torch.Generator().manual_seed(1), weights))
    for indices, objective in results:
        assert torch.equal(indices, results[0][0])
        torch.testing.assert_close(objective, (x @ x[indices].mT).amax(2).mean(1))
