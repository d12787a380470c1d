# SPDX-License-Identifier: Apache-2.0
"""Spherical k-means over the positions of activations: restarts share every read, nothing of A's size is allocated."""

from __future__ import annotations

import math
import os
import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from tqdm import tqdm

from ..core.checks import check_choice
from ..distributed import ALONE, Ranks
from ..io.atomic import PathLike
from ..io.tensors import checksum
from ..ops.assign import FEATURES
from ..ops.lloyd_step import LloydStep
from .data import Batch, Points
from .initialization import check_init, seeds
from .lloyd import BatchedLloyd, Run, directions
from .prefetch import Array, Stream

__all__ = ["EmptyClusterWarning", "Run", "SphericalKMeans"]


class EmptyClusterWarning(UserWarning):
    """Clusters without points were re-seeded."""


class SphericalKMeans:
    """k-means on the sphere, of the C-vectors at all positions of activations.

    maximise mean_i <x_i / |x_i|, c_label(i)>, label(i) = argmax_k <x_i, c_k>, c_k = normalise(sum_{i in k} x_i / |x_i|)

    Data are activations [N, C, H, W] or points [M, C], torch tensors or NumPy arrays (read where they are, any
    strides), float32, float64, float16 or (tensors) bfloat16. Labels are [N, H, W] or [M] int32; results are of the
    data's kind. A zero vector has label 0, adds nothing to centroids, and counts with cosine 0 in the objective.
    `fit` and `score` also take a stream of them: an iterable of batches that can be read again. The sums of its batches
    are the sums of the whole, so the result is that of the whole to rounding; results of a stream are tensors.

    Restarts run in lockstep: one read of the data serves all that still run. A run ends when no centroid moves or when
    the objective gains less than `tol` of itself, but not while re-seeding still fills empty clusters. A cluster
    without points is re-seeded from the point least similar to its centroid after the update, several from distinct
    points; this is counted, and warned of once a call (`EmptyClusterWarning`).

    Args:
        n_clusters: K, from 1 to the number of points that are not zero.
        n_init: restarts; the best objective wins. Not used if `init` is an array.
        init: "k-means++" (greedy, weights 1 - max cosine) or "random" (distinct points), either from a random sample of
            max(4096, 64 K) points a call, which all restarts share; or centroids [K, C], or [B, K, C] for B restarts.
            Of 40 times as many points each restart takes the best of 16 "k-means++" after five steps on the sample.
        max_iter: most updates of a run.
        tol: relative gain of the objective. Activations of generators creep through plateaus where a step gains some
            1e-5 but all steps together some 1e-3; 1e-4 is faster and stops on them.
        seed: of the random choices. The same seed, data and number of threads give the same bits.
        features: "raw", "standardized" (per image; points [M, C] are one image) or "squared", as in `stylefast.assign`.
        backend: as in `stylefast.assign`.

    Attributes:
        centroids_: [K, C] float32 (float64 for float64 data), unit norm.
        labels_: of the data given to `fit`, unless they are a stream; equal to `predict` of them.
        objective_: of the data given to `fit`; equal to `score` of them.
        runs_: list of `Run`, one a restart; `centroids_` are those of the best.
        n_reseeded_: how many times a cluster was re-seeded, over all runs and later calls of `partial_fit`.

    Raises:
        TypeError, ValueError: an argument is of a wrong type or out of range.

    Example:
        >>> labels = SphericalKMeans(20, n_init=10).fit(activations).labels_  # [N, H, W]

    Source: Dhillon and Modha, "Concept decompositions for large sparse text data using clustering", 2001.
    """

    centroids_: Any
    labels_: Any
    objective_: float
    runs_: list[Run]
    n_reseeded_: int

    def __init__(
        self,
        n_clusters: int,
        *,
        n_init: int = 10,
        init: str | Array = "k-means++",
        max_iter: int = 300,
        tol: float = 1e-5,
        seed: int = 0,
        features: str = "raw",
        backend: str | None = None,
    ) -> None:
        if not isinstance(tol, Real) or not (0 <= tol < math.inf):
            raise ValueError(f"tol must be a finite number >= 0, got {tol!r}")
        check_choice("features", features, FEATURES)
        self.n_clusters = _integer("n_clusters", n_clusters, 1)
        self.n_init = _integer("n_init", n_init, 1)
        self.init = check_init(init, self.n_clusters)
        self.max_iter = _integer("max_iter", max_iter, 1)
        self.tol = tol
        self.seed = _integer("seed", seed, 0)
        self.features = features
        self.backend = backend

    def fit(
        self,
        activations: Array | Stream,
        *,
        progress: bool = True,
        checkpoint: PathLike | None = None,
        group: ProcessGroup | None = None,
    ) -> SphericalKMeans:
        """Cluster the data from scratch.

        Args:
            activations: [N, C, H, W], or points [M, C]; or an iterable of such batches that gives the same batches
                every time: a list of memory-mapped arrays, a DataLoader that does not shuffle, an object whose
                `__iter__` starts anew. A thread reads two batches ahead; memory does not depend on their number.
            progress: show a progress bar if it takes longer than two seconds.
            checkpoint: a file for the state after every iteration. If it exists the fit goes on from there, to the same
                bits; if it is of another fit it is refused.
            group: process group whose ranks each give their own part of the data (some may give none); the data are the
                parts, rank 0's first. All get the same centroids, those of one process to rounding; `labels_` are of
                the rank's own part. None is this process alone.

        Returns:
            self.

        Raises:
            TypeError, ValueError: wrong type, dtype, rank or shape; an iterator, which cannot be read again; fewer
                points other than zero than clusters; NaN or Inf in a point (the message says in how many, and where the
                first is); a checkpoint of other data or arguments, or a damaged one.
        """
        ranks, rng = Ranks(group), self._rng()
        points = Points(activations, self.features, self.backend, ranks, rng)
        runs = self._lloyd(points, ranks, rng, checkpoint, progress)
        best = max(runs, key=lambda run: run.objective)
        self.__dict__.pop("labels_", None)
        if points.in_memory:
            labels, similarity = points.only().assign(best.centroids)
            (cosines,) = ranks.total(similarity.double().sum())
            best.objective = cosines.item() / points.total
            self.labels_ = _like(activations, labels.flatten() if points.only().rows else labels)
        self.objective_ = best.objective
        self._sums, self._counts = best.sums.double(), best.counts
        for run in runs:
            run.centroids, run.sums, run.counts = (_like(activations, x) for x in (run.centroids, run.sums, run.counts))
        self.runs_, self.centroids_ = runs, best.centroids
        self.n_reseeded_ = sum(run.n_reseeded for run in runs)
        _warn(self.n_reseeded_, best.n_empty)
        return self

    def partial_fit(self, batch: Array) -> SphericalKMeans:
        """Take in one batch of a stream: one Lloyd step on it, whose sums are added to those of all earlier batches.

        label(i) = argmax_k <x_i, c_k> for i in the batch; S_k += sum_{i in k} x_i / |x_i|; c_k = S_k / |S_k|

        Every point ever seen has the weight 1, with the label that it had when it was seen. The first batch
        seeds, and of `n_init` seedings the best on it stays; after `fit`, S starts from its data. A cluster that never
        had a point is re-seeded from the batch. `labels_`, `objective_` and `runs_` of an earlier `fit` go.

        Args:
            batch: [N, C, H, W], or points [M, C]. "standardized" is per image, so batches of whole images add up.

        Returns:
            self.

        Raises:
            TypeError, ValueError: as in `fit`; the number of points matters only in the first batch.
        """
        if hasattr(self, "_sums"):
            points, centroids = self._fitted(batch)
            step = points.step(centroids)
            before = self._sums, self._counts, self.n_reseeded_
        else:
            points, rng = Batch.of(batch, self.features, self.backend), self._rng()
            first = self._seed(Points(batch, self.features, self.backend, ALONE, rng), rng)
            steps = points.step(first)
            best = int(steps.objective.argmax())
            centroids, step = first[best], LloydStep(*(x[best] for x in steps))
            before = 0, 0, 0
        if step.objective.isnan():
            points.assign(centroids)  # raises
        sums, counts, n_reseeded = before[0] + step.sums.double(), before[1] + step.counts, before[2]
        updated = directions(sums, centroids)
        empty = (counts == 0).nonzero().squeeze(1)
        if len(empty):
            everyone = Points(batch, self.features, self.backend, ALONE, self._rng())
            rows = everyone.farthest(updated[counts > 0], len(empty))
            updated[empty[: len(rows)]] = rows.to(updated.dtype)
            n_reseeded += len(rows)
            _warn(len(rows), 0)
        for name in ("labels_", "objective_", "runs_"):
            self.__dict__.pop(name, None)
        self._sums, self._counts, self.n_reseeded_ = sums, counts, n_reseeded
        self.centroids_ = _like(batch, updated)
        return self

    def predict(self, activations: Array) -> Any:
        """Label every point: [N, H, W] or [M] int32, of the data's kind.

        Raises: RuntimeError before `fit` or `partial_fit`; TypeError and ValueError as `fit`, for any number of points.
        """
        points, centroids = self._fitted(activations)
        labels = points.assign(centroids).labels
        return _like(activations, labels.flatten() if points.rows else labels)

    def score(self, activations: Array | Stream) -> float:
        """The mean cosine of all points to the centroids of their labels, 0 of no points.

        Raises: as `predict`.
        """
        cosines, total = 0.0, 0
        for data in [activations] if isinstance(activations, (Tensor, np.ndarray)) else activations:
            points, centroids = self._fitted(data)
            cosines += points.assign(centroids).similarity.double().sum().item()
            total += len(points)
        return cosines / max(1, total)

    def _fitted(self, activations: Array) -> tuple[Batch, Tensor]:
        if not hasattr(self, "centroids_"):
            raise RuntimeError("SphericalKMeans has no centroids yet: call fit or partial_fit first")
        points, centroids = Batch.of(activations, self.features, self.backend), torch.as_tensor(self.centroids_)
        if points.channels != centroids.shape[1]:
            raise ValueError(
                f"activations must have C = {centroids.shape[1]} like the centroids, got {tuple(activations.shape)}"
            )
        return points, centroids

    def _rng(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)  # on the CPU, so that the device does not change the choices

    def _seed(self, points: Points, rng: torch.Generator) -> Tensor:
        """First centroids [B, K, C]."""
        if points.n_nonzero < self.n_clusters:
            raise ValueError(
                f"n_clusters must be at most the number of points other than zero, got K = {self.n_clusters} for "
                f"{points.n_nonzero} of {points.total} points"
            )
        return seeds(points, self.init, self.n_clusters, self.n_init, rng)

    def _lloyd(
        self, points: Points, ranks: Ranks, rng: torch.Generator, checkpoint: PathLike | None, progress: bool
    ) -> list[Run]:
        """Lloyd iterations of all restarts in lockstep, from the checkpoint on if there is one."""
        names = ("n_clusters", "n_init", "max_iter", "tol", "seed", "features")
        fit: dict[str, Any] = {name: getattr(self, name) for name in names}
        fit["init"] = checksum({"init": self.init}) if isinstance(self.init, Tensor) else self.init
        fit |= {"channels": points.channels, "points": points.total, "n_nonzero": points.n_nonzero}
        if checkpoint is not None and ranks.first(os.path.exists(checkpoint)):
            state = BatchedLloyd.load(checkpoint, fit, points.device)
        else:
            state = BatchedLloyd(ranks.first(self._seed(points, rng).cpu()).to(points.device))
        done = max(run.n_iter for run in state.runs)
        off = not progress or ranks.rank > 0
        with tqdm(total=self.max_iter, initial=done, desc="k-means", unit="step", delay=2, disable=off) as bar:
            while state.going:
                state.advance(points, self.tol, self.max_iter)
                if checkpoint is not None and ranks.rank == 0:
                    state.save(checkpoint, fit)
                bar.set_postfix(runs=len(state.going), refresh=False)
                bar.update(bool(state.going))
        return state.runs


def _like(data: Any, result: Tensor) -> Any:
    return result.numpy() if isinstance(data, np.ndarray) else result


def _integer(name: str, value: int, least: int) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)


def _warn(n_reseeded: int, n_empty: int) -> None:
    if n_reseeded:
        left = f"; {n_empty} clusters of the best run stayed empty" if n_empty else ""
        message = f"{n_reseeded} times a cluster without points was re-seeded from the least similar point{left}"
        warnings.warn(message, EmptyClusterWarning, stacklevel=3)
