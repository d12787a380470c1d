# SPDX-License-Identifier: Apache-2.0
"""`partial_fit`: sums by an independent formula, the weight of former batches, relocation, deleted attributes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from mixtures import directions, fit, mixture, rows
from torch.nn.functional import normalize

from stylefast import SphericalKMeans
from stylefast.kmeans import EmptyClusterWarning

E1, E2, E3 = torch.eye(3)


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
    assert km.n_relocated_ == 0


def test_partial_fit_by_hand_keeps_weight_of_former_data():
    km = SphericalKMeans(1, init=E1[None]).partial_fit(E1.expand(99, 3))
    km.partial_fit(5 * E2[None])
    torch.testing.assert_close(km.centroids_, normalize(99 * E1 + E2, dim=0)[None])
    km = fit(torch.cat((E1.expand(99, 3), E3[None])), 2, init=torch.stack((E1, E3))).partial_fit(5 * E2[None])
    torch.testing.assert_close(km.centroids_, torch.stack((normalize(99 * E1 + E2, dim=0), E3)))


def test_partial_fit_equals_one_iteration_of_fit():
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


def test_partial_fit_deletes_results_of_an_earlier_fit():
    x = mixture(3, 8, 5, 7, 4, 1.5)
    km = fit(x, 4).partial_fit(x.numpy())
    assert isinstance(km.centroids_, np.ndarray)
    assert not any(hasattr(km, name) for name in ("labels_", "objective_", "runs_"))
    assert km.predict(x).shape == (3, 5, 7)
    assert torch.equal(km.fit(x, progress=False).centroids_, fit(x, 4).centroids_)


def test_partial_fit_relocates_clusters_without_any_point():
    km = SphericalKMeans(3, init=torch.stack((E1, E1, E2)))
    with pytest.warns(EmptyClusterWarning, match=" 1 times"):
        km.partial_fit(torch.stack((E1, E2, 0 * E1, 0.1 * E2 - E1)))
    assert km.n_relocated_ == 1
    torch.testing.assert_close(km.centroids_[1], normalize(0.1 * E2 - E1, dim=0))
    with pytest.warns(EmptyClusterWarning, match=" 1 times"):
        km.partial_fit(torch.stack((E1, E3)))  # E3 ties and goes to the lowest cluster, 0; cluster 1 is still empty
    assert km.n_relocated_ == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        km.partial_fit(torch.stack((5 * E3, E1)))  # cluster 2 gets no point, but has points of former batches
    assert km.n_relocated_ == 2
    torch.testing.assert_close(km.centroids_[:2], normalize(torch.stack((3 * E1 + E3, E3)), dim=1))


def test_partial_fit_relocates_clusters_to_distinct_points():
    with pytest.warns(EmptyClusterWarning):
        km = SphericalKMeans(2, init=E1.expand(2, 3)).partial_fit(torch.cat((E1[None], (E1 + E2).expand(4, 3))))
    assert torch.equal(km.centroids_[1], E1)  # although this was already the centroid of the empty cluster
    with pytest.warns(EmptyClusterWarning):
        km = SphericalKMeans(3, init=E1.expand(3, 3)).partial_fit(E1.expand(3, 3)).partial_fit(E2[None])
    assert torch.equal(km.centroids_[1:], torch.stack((E2, E1)))
    assert km.n_relocated_ == 3
