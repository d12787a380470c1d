# SPDX-License-Identifier: Apache-2.0
"""The k-means estimator. Restarts share every read of the data; nothing of the size of the data is allocated."""

from __future__ import annotations

import math
import os
import warnings
from numbers import Real
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from tqdm import tqdm

from ..core.checks import check_choice, check_integer
from ..core.dtypes import Array
from ..distributed import ALONE, Ranks
from ..io.atomic import PathLike
from ..io.tensors import checksum
from ..ops.assign import FEATURES
from ..ops.lloyd_step import LloydStep
from .data import Batch, Points
from .initialization import check_init, initial_centroids
from .lloyd import BatchedLloyd, Run, directions
from .prefetch import Stream, array_of

__all__ = ["EmptyClusterWarning", "Run", "SphericalKMeans"]


class EmptyClusterWarning(UserWarning):
    """Empty clusters were relocated."""


class SphericalKMeans:
    """k-means on the sphere, of the C-vectors at all positions of activations.

    maximise mean_i <x_i / |x_i|, c_label(i)>, label(i) = argmax_k <x_i, c_k>, c_k = normalise(sum_{i in k} x_i / |x_i|)

    Data are activations [N, C, H, W] or points [M, C], torch tensors or NumPy arrays (read where they are, any
    strides), float32, float64, float16 or (tensors) bfloat16. Labels are [N, H, W] or [M] int32; results are of the
    data's kind. A zero vector has label 0, adds nothing to centroids, and counts with cosine 0 in the objective.
    `fit` and `score` also take a stream of them: an iterable of batches that can be read again. The sums of its batches
    are the sums of the whole, so the result is that of the whole to rounding; results of a stream are tensors.

    Restarts run in lockstep: one read of the data serves all that still run. A run ends when no centroid moves or when
    the objective gains less than `tol` of itself, but not while relocation still fills empty clusters. An empty cluster
    is relocated: the point least similar to its centroid after the update becomes the new centroid. Several empty
    clusters are relocated to distinct points. Relocations are counted, and each call that makes any issues one
    `EmptyClusterWarning`.

    Args:
        n_clusters: K, from 1 to the number of points that are not zero.
        n_init: restarts; the best objective wins. Not used if `init` is an array.
        init: "k-means++" (greedy, weights 1 - max cosine) or "random" (distinct points), either from a random sample of
            max(4096, 64 K) points per call, which all restarts share; or centroids [K, C], or [B, K, C] for B restarts.
            With at least 40 points per sampled point, each restart runs 16 "k-means++" initialisations for five steps
            on the sample and keeps the best.
        max_iter: maximum number of updates per run.
        tol: relative gain of the objective. Activations of generators creep through plateaus where a step gains some
            1e-5 but all steps together some 1e-3; 1e-4 is faster and stops on them.
        seed: seed of the random choices. The same seed, data and number of threads give the same bits.
        features: "raw", "standardized" (per image; points [M, C] are one image) or "squared", as in `stylefast.assign`.
        backend: as in `stylefast.assign`.

    Attributes:
        centroids_: [K, C] float32 (float64 for float64 data), unit norm.
        labels_: labels of the data given to `fit`, unless they are a stream; equal to `predict` of them.
        objective_: objective of the data given to `fit`; equal to `score` of them.
        runs_: list of `Run`, one per restart; `centroids_` are those of the best.
        n_relocated_: how many times an empty cluster was relocated, over all runs and later calls of `partial_fit`.

    Raises:
        TypeError, ValueError: an argument is of a wrong type or out of range.

    Example:
        >>> labels = SphericalKMeans(20, n_init=10).fit(activations).labels_  # [N, H, W]

    Source: Dhillon and Modha, "Concept decompositions for large sparse text data using clustering", 2001.
    """

    centroids_: Array
    labels_: Array
    objective_: float
    runs_: list[Run]
    n_relocated_: int
    _sums: Tensor  # [K, C] float64, over all points seen; the state of partial_fit
    _counts: Tensor  # [K] int64

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
        self.n_clusters: int = check_integer("n_clusters", n_clusters, 1)
        self.n_init: int = check_integer("n_init", n_init, 1)
        self.init: str | Tensor = check_init(init, self.n_clusters)
        self.max_iter: int = check_integer("max_iter", max_iter, 1)
        self.tol = tol
        self.seed: int = check_integer("seed", seed, 0)
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
            checkpoint: a file that every iteration overwrites with the state of the fit. If it exists, the fit resumes
                from it, to the same bits; a checkpoint of another fit is refused.
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
        points = Points.scan(activations, self.features, self.backend, ranks, rng)
        runs = self._lloyd(points, ranks, rng, checkpoint, progress)
        best = max(runs, key=lambda run: run.objective)
        self.__dict__.pop("labels_", None)
        if points.in_memory:
            batch = points.single_batch()
            labels, similarity = batch.assign(torch.as_tensor(best.centroids))
            (cosines,) = ranks.total(similarity.double().sum())
            best.objective = cosines.item() / points.n_points
            self.labels_ = _like(activations, labels.flatten() if batch.is_rows else labels)
        self.objective_ = best.objective
        self._sums, self._counts = torch.as_tensor(best.sums).double(), torch.as_tensor(best.counts)
        for run in runs:
            run.centroids, run.sums, run.counts = (_like(activations, x) for x in (run.centroids, run.sums, run.counts))
        self.runs_, self.centroids_ = runs, best.centroids
        self.n_relocated_ = sum(run.n_relocated for run in runs)
        _warn_if_relocated(self.n_relocated_, best.n_empty)
        return self

    def partial_fit(self, batch: Array) -> SphericalKMeans:
        """Take in one batch of a stream: one Lloyd step on it, whose sums are added to those of all earlier batches.

        label(i) = argmax_k <x_i, c_k> for i in the batch; S_k += sum_{i in k} x_i / |x_i|; c_k = S_k / |S_k|

        Every point ever seen has the weight 1, with the label that it had when it was seen. The first batch
        initialises the centroids: the best of `n_init` initialisations on it is kept. After `fit`, S starts from its
        data. A cluster that never had a point is relocated to a point of the batch. `labels_`, `objective_` and `runs_`
        of an earlier `fit` are deleted.

        Args:
            batch: [N, C, H, W], or points [M, C]. "standardized" is per image, so batches of whole images add up.

        Returns:
            self.

        Raises:
            TypeError, ValueError: as in `fit`; the number of points matters only in the first batch.
        """
        if hasattr(self, "_sums"):
            points, centroids = self._checked_batch(batch)
            step = points.step(centroids)
            former_sums, former_counts, n_relocated = self._sums, self._counts, self.n_relocated_
        else:
            points, rng = Batch.from_array(batch, self.features, self.backend), self._rng()
            restarts = self._initial_centroids(Points.scan(batch, self.features, self.backend, ALONE, rng), rng)
            steps = points.step(restarts)
            best = int(steps.objective.argmax())
            centroids, step = restarts[best], LloydStep(*(x[best] for x in steps))
            former_sums, former_counts, n_relocated = 0, 0, 0
        if step.objective.isnan():
            points.assign(centroids)  # raises
        sums, counts = former_sums + step.sums.double(), former_counts + step.counts
        updated = directions(sums, centroids)
        empty = (counts == 0).nonzero().squeeze(1)
        if len(empty):
            scanned = Points.scan(batch, self.features, self.backend, ALONE, self._rng())
            rows = scanned.farthest(updated[counts > 0], len(empty))
            updated[empty[: len(rows)]] = rows.to(updated.dtype)
            n_relocated += len(rows)
            _warn_if_relocated(len(rows), 0)
        for name in ("labels_", "objective_", "runs_"):
            self.__dict__.pop(name, None)
        self._sums, self._counts, self.n_relocated_ = sums, counts, n_relocated
        self.centroids_ = _like(batch, updated)
        return self

    @overload
    def predict(self, activations: Tensor) -> Tensor: ...

    @overload
    def predict(self, activations: np.ndarray) -> np.ndarray: ...

    def predict(self, activations: Array) -> Array:
        """Label every point: [N, H, W] or [M] int32, of the data's kind.

        Raises: RuntimeError before `fit` or `partial_fit`; TypeError and ValueError as `fit`, for any number of points.
        """
        batch, centroids = self._checked_batch(activations)
        labels = batch.assign(centroids).labels
        return _like(activations, labels.flatten() if batch.is_rows else labels)

    def score(self, activations: Array | Stream) -> float:
        """The mean cosine of all points to the centroids of their labels, 0 of no points.

        Raises: as `predict`.
        """
        cosines, n_points = 0.0, 0
        for data in [activations] if isinstance(activations, (Tensor, np.ndarray)) else activations:
            batch, centroids = self._checked_batch(array_of(data))
            cosines += batch.assign(centroids).similarity.double().sum().item()
            n_points += len(batch)
        return cosines / max(1, n_points)

    def _checked_batch(self, activations: Array) -> tuple[Batch, Tensor]:
        """Activations as a batch, and the fitted centroids, which have the same C."""
        if not hasattr(self, "centroids_"):
            raise RuntimeError("SphericalKMeans has no centroids yet: call fit or partial_fit first")
        batch = Batch.from_array(activations, self.features, self.backend)
        centroids = torch.as_tensor(self.centroids_)
        if batch.channels != centroids.shape[1]:
            raise ValueError(
                f"activations must have C = {centroids.shape[1]} like the centroids, got {tuple(activations.shape)}"
            )
        return batch, centroids

    def _rng(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)  # on the CPU, so that the device does not change the choices

    def _initial_centroids(self, points: Points, rng: torch.Generator) -> Tensor:
        """Initial centroids of all restarts: [B, K, C]."""
        if points.n_nonzero < self.n_clusters:
            raise ValueError(
                f"n_clusters must be at most the number of points other than zero, got K = {self.n_clusters} for "
                f"{points.n_nonzero} of {points.n_points} points"
            )
        return initial_centroids(points, self.init, self.n_clusters, self.n_init, rng)

    def _lloyd(
        self, points: Points, ranks: Ranks, rng: torch.Generator, checkpoint: PathLike | None, progress: bool
    ) -> list[Run]:
        """Lloyd iterations of all restarts in lockstep, resumed from the checkpoint if it exists."""
        names = ("n_clusters", "n_init", "max_iter", "tol", "seed", "features")
        provenance: dict[str, Any] = {name: getattr(self, name) for name in names}
        provenance["init"] = checksum({"init": self.init}) if isinstance(self.init, Tensor) else self.init
        provenance |= {"channels": points.channels, "points": points.n_points, "n_nonzero": points.n_nonzero}
        if checkpoint is not None and ranks.broadcast(os.path.exists(checkpoint)):
            state = BatchedLloyd.load(checkpoint, provenance, points.device)
        else:
            state = BatchedLloyd(ranks.broadcast(self._initial_centroids(points, rng).cpu()).to(points.device))
        n_done = max(run.n_iter for run in state.runs)
        hidden = not progress or ranks.rank > 0
        with tqdm(total=self.max_iter, initial=n_done, desc="k-means", unit="step", delay=2, disable=hidden) as bar:
            while state.active:
                state.advance(points, self.tol, self.max_iter)
                if checkpoint is not None and ranks.rank == 0:
                    state.save(checkpoint, provenance)
                bar.set_postfix(runs=len(state.active), refresh=False)
                bar.update(bool(state.active))
        return state.runs


def _like(data: Array | Stream, result: Array) -> Array:
    """The result as a NumPy array if the data are one, else as a tensor."""
    return result.numpy() if isinstance(data, np.ndarray) and isinstance(result, Tensor) else result


def _warn_if_relocated(n_relocated: int, n_empty: int) -> None:
    if n_relocated:
        remaining = f"; {n_empty} clusters of the best run stayed empty" if n_empty else ""
        message = f"an empty cluster was relocated to the least similar point {n_relocated} times{remaining}"
        warnings.warn(message, EmptyClusterWarning, stacklevel=3)
