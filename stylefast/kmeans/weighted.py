# SPDX-License-Identifier: Apache-2.0
"""Spherical k-means of rows with weights, by the ops for points without weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from .batch import Batch, Sums, unit_vectors
from .estimator import SphericalKMeans
from .initialization import SAMPLE, centroids_of_sample, unit_centroids
from .lloyd import BatchedLloyd, Run


def fit_weighted_rows(rows: Tensor, weights: Tensor, parameters: SphericalKMeans, seed: int) -> list[Run]:
    """Run all restarts, in float64 if they need it, and return them.

    Args:
        rows: Nonzero rows, [n, C] float32 or float64.
        weights: Weights > 0, [n] float64.
        parameters: Estimator whose parameters, except `seed` and `features`, are used.
        seed: Random seed.
    """
    points = _WeightedRows(rows, weights, parameters.backend)
    rng = torch.Generator().manual_seed(seed)
    state = BatchedLloyd(_initial_centroids(rows, weights, parameters, rng))
    while state.active:
        state.advance(points, parameters.tol, parameters.max_iter)
        if state.needs_double(points):
            return fit_weighted_rows(rows.double(), weights, parameters, seed)
    return state.runs


class _WeightedRows:
    """Rows with weights for `BatchedLloyd`.

    A kernel divides a point by its norm. The point `(x / |x|, sqrt(1 / w^2 - 1))` has norm `1 / w`, so it adds
    `w x / |x|` to the sums and `w cos` to the objective. It has the same label as x, because the last coordinate of
    every centroid is 0.
    """

    def __init__(self, rows: Tensor, weights: Tensor, backend: str | None) -> None:
        self._channels, self._weight, points = rows.shape[1], None, rows
        if not (weights == weights[0]).all():
            weight = (weights / weights.max()).to(rows.dtype).clamp(min=torch.finfo(rows.dtype).tiny ** 0.25)
            points = rows.new_empty(len(rows), self._channels + 1)
            points[:, :-1] = unit_vectors(rows)
            points[:, -1] = (1 / weight.square() - 1).sqrt()
            self._weight = weight
        self.highest_objective: float = 1.0 if self._weight is None else float(self._weight.double().mean())
        self._batch = Batch.from_array(points, "raw", backend, "X")

    def step(self, centroids: Tensor) -> Sums:
        """Run one Lloyd step of restarts [B, K, C]. In the objective, weights are relative to the largest weight."""
        step = self._batch.step(self._padded(centroids))
        return Sums(step.sums[..., : self._channels], step.counts, step.objective)

    def farthest(self, centroids: Tensor, n: int) -> Tensor:
        """Return the n rows with the lowest cosine to their most similar centroid, at unit norm: [n, C]."""
        cosine = self._batch.assign(self._padded(centroids)).similarity.flatten()
        if self._weight is not None:
            cosine = cosine / self._weight
        rows = self._batch.gather(cosine.argsort(stable=True)[:n], centroids.dtype)
        return unit_vectors(rows[:, : self._channels])

    def _padded(self, centroids: Tensor) -> Tensor:
        return centroids if self._weight is None else pad(centroids, (0, 1))


def _initial_centroids(rows: Tensor, weights: Tensor, parameters: SphericalKMeans, rng: torch.Generator) -> Tensor:
    """Return the initial centroids of all restarts at unit norm, [B, K, n_features]."""
    init, n_clusters = parameters.init, parameters.n_clusters
    if not isinstance(init, Tensor):
        sample, sample_weights = _sample(rows, weights, max(SAMPLE, 64 * n_clusters), rng)
        return centroids_of_sample(sample, init, n_clusters, parameters.n_init, rng, sample_weights)
    if init.shape[-1] != rows.shape[1]:
        raise ValueError(f"init must have {rows.shape[1]} features, got shape {tuple(init.shape)}")
    return unit_centroids(init, rows.dtype)


def _sample(rows: Tensor, weights: Tensor, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample rows and return them at unit norm with their weights.

    If there are at most `size` rows, all are returned. Otherwise `size` rows of equal weight are returned, each row as
    often as its weight requires. Rows are taken in the order of their projections onto a random direction, so that
    the result does not depend on their order, nor on whether a row is repeated or has a larger weight.
    """
    direction = torch.randn(rows.shape[1], generator=rng, dtype=torch.float64, device="cpu").to(rows.dtype)
    order = (rows @ direction).argsort(stable=True)
    cumulative = weights[order].cumsum(0)
    steps = torch.arange(size, device="cpu") + torch.rand((), generator=rng, dtype=torch.float64, device="cpu")
    if len(rows) > size:
        chosen = torch.searchsorted(cumulative, steps * (cumulative[-1] / size), right=True)
        order = order[chosen.clamp(max=len(rows) - 1)]
        weights = torch.ones_like(weights)
    return unit_vectors(rows[order]), weights[order]
