# SPDX-License-Identifier: Apache-2.0
"""Lloyd steps over an array that skip the points whose labels cannot change."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends import select
from ..ops.pruned_step import PrunedStep, pruned_step
from .batch import Sums
from .data import Points
from .lloyd import SupportsLloyd

STATE = 12  # bytes of labels and bounds, per point and restart
PORTION = 4  # labels and bounds take at most 1 / PORTION of the memory of the data, and twice as much during a step


def with_pruning(points: Points, n_clusters: int, n_init: int) -> SupportsLloyd:
    """Return points whose steps keep labels and bounds if a kernel can use them and they are small, else `points`."""
    if not points.in_memory or points.centroids_dtype != torch.float32:
        return points
    if n_clusters == 1 or select(points.backend, points.device) != "cpu":
        return points
    small = PORTION * STATE * n_init * points.n_local <= points.single_batch().activations.nbytes
    return PrunedPoints(points) if small else points


class PrunedPoints:
    """Points of one array for `BatchedLloyd`, whose step uses labels and bounds of the previous step.

    Steps give the same bits with and without a previous step.

    Args:
        points: Points in the memory of the CPU that are computed in float32.
    """

    def __init__(self, points: Points) -> None:
        self._points, self._batch = points, points.single_batch()
        self._former: tuple[PrunedStep, Tensor] | None = None  # previous step and its centroids

    @property
    def highest_objective(self) -> float:
        """As for `Points`."""
        return self._points.highest_objective

    def step(self, centroids: Tensor) -> Sums:
        """As `Points.step`."""
        batch, former = self._batch, self._former
        self._former = None  # so that at most two states are in memory
        if former is not None and len(former[1]) != len(centroids):
            former = _nearest(centroids, *former)
        step = pruned_step(batch.activations, centroids, former, features=batch.features, backend=batch.backend)
        self._former = step, centroids
        return self._points.over_ranks(Sums(step.sums.to(centroids.dtype), step.counts, step.objective * len(batch)))

    def farthest(self, centroids: Tensor, n: int) -> Tensor:
        """As `Points.farthest`."""
        return self._points.farthest(centroids, n)


def _nearest(centroids: Tensor, former: PrunedStep, former_centroids: Tensor) -> tuple[PrunedStep, Tensor]:
    """Return the part of a former step with the nearest centroids to each restart, after some restarts ended."""
    rows = torch.cdist(centroids.double().flatten(1), former_centroids.double().flatten(1)).argmin(1)
    labels, bounds, sums, counts, objective = former
    kept = PrunedStep(labels[rows], bounds[:, rows], sums[rows], counts[rows], objective[rows])
    return kept, former_centroids[rows]
