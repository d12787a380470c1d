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


def test_many_points_refine_16_initializations_on_the_sample(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(initialization, "SAMPLE", 1)  # the sample then has 64 K points
    k, n_init, size = 6, 3, 64 * 6
    x = normalize(torch.randn(40 * size, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1)

    def initial_centroids(n_points: int) -> torch.Tensor:
        rng = torch.Generator().manual_seed(1)
        points = Points.scan(x[:n_points], "raw", None, ALONE, rng)
        return initialization.initial_centroids(points, "k-means++", k, n_init, rng)  # [n_init, K, C]

    rng = torch.Generator().manual_seed(1)
    torch.randn(4, 10, generator=rng)  # the probes of Points.scan
    sample = x[torch.randperm(len(x), generator=rng)[:size].sort().values]
    centroids = sample[initialization._k_means_plus_plus(sample, k, 16 * n_init, rng)]  # [16 n_init, K, C]
    for _ in range(5):
        labels = (centroids @ sample.T).argmax(1)  # [16 n_init, m]
        centroids = normalize(one_hot(labels, k).mT.double() @ sample, dim=2)
    objective = (centroids @ sample.T).amax(1).mean(1).view(n_init, 16)
    assert (objective.amax(1) - objective.amin(1) > 1e-4).all()
    best = centroids.view(n_init, 16, k, -1)[torch.arange(n_init), objective.argmax(1)]
    assert torch.allclose(initial_centroids(len(x)), best)
    # With one point fewer, the initial centroids are not refined: they are points.
    similarity = (initial_centroids(len(x) - 1) @ x.T).amax(2)
    assert torch.allclose(similarity, torch.ones_like(similarity))
