# SPDX-License-Identifier: Apache-2.0
"""K-means estimator. Restarts share every read of the data, and no memory of the size of the data is allocated."""

from __future__ import annotations

import math
import os
from numbers import Real
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from ..core.checks import check_choice, check_integer, check_seed, to_tensor
from ..core.dtypes import Array
from ..core.progress import Progress, progress_bar
from ..distributed import ALONE, Ranks
from ..io.atomic import PathLike
from ..io.tensors import checksum
from ..ops.assign import FEATURES
from .batch import Batch
from .data import Points
from .initialization import check_init, initial_centroids
from .lloyd import BatchedLloyd, Run, directions, needs_double, warn_if_relocated
from .prefetch import Stream, array_of
from .pruning import with_pruning

__all__ = ["SphericalKMeans"]


class SphericalKMeans:
    """Spherical k-means of the C-vectors at all positions of activations.

    It maximises the mean cosine of the points `x_i` to the centroids `c_k` of their labels (see `stylefast.kmeans`)::

        mean_i <x_i / |x_i|, c_label(i)>,  label(i) = argmax_k <x_i, c_k>,  c_k = normalise(sum_{i in k} x_i / |x_i|)

    Data are activations [N, C, H, W] or points [M, C] with any strides, which are not copied: tensors (float32,
    float64, float16 or bfloat16) or NumPy arrays (no bfloat16). Results are of the same kind. A zero vector has label
    0, is not added to centroids, and has cosine 0 in the objective. `fit` and `score` also take a stream, an iterable
    of batches that can be read again. The results are then tensors, and equal the results of one array up to rounding.

    Args:
        n_clusters: Number of clusters K, from 1 to the number of nonzero points.
        n_init: Number of restarts. The restart with the best objective is used. Ignored if `init` is an array.
        init: "k-means++" or "random", or initial centroids of shape [K, C], or [B, K, C] for B restarts.
        max_iter: Maximum number of updates per run.
        tol: Relative gain of the objective below which a run ends. With generator activations, each step on a plateau
            gains about 1e-5, but all of them together gain about 1e-3. With 1e-4, runs are shorter and stop there.
        seed: Random seed. The same seed, data and number of threads give the same bits.
        features: Kind of points, as in `stylefast.assign`. With "standardized", points [M, C] are one image.
        backend: Name of a backend, as in `stylefast.assign`.

    Attributes:
        centroids_: Centroids of the best run, [K, C] float32 (float64 for float64 data, and for data in narrow cones,
            see `stylefast.kmeans`), of unit norm.
        labels_: Labels of the data given to `fit`, as `predict` returns them. Not set for streams.
        objective_: Objective of the data given to `fit`, as `score` returns it.
        runs_: One `Run` per restart.
        n_relocated_: Number of relocations of empty clusters by iterations of all runs and by later `partial_fit`.

    Raises:
        TypeError: If `init` has a wrong type or dtype.
        ValueError: If an argument is out of range.

    References:
        Dhillon and Modha, "Concept decompositions for large sparse text data using clustering", 2001.

    Example:
        >>> import stylefast, torch
        >>> stylefast.SphericalKMeans(20, n_init=2).fit(torch.randn(4, 64, 16, 16)).labels_.shape
        torch.Size([4, 16, 16])
    """

    centroids_: Array
    labels_: Array
    objective_: float
    runs_: list[Run]
    n_relocated_: int
    _sums: Tensor  # [K, C] float64, over all points so far; the state of partial_fit
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
        self.seed: int = check_seed("seed", seed)
        self.features = features
        self.backend = backend

    def fit(
        self,
        activations: Array | Stream,
        *,
        progress: Progress = True,
        checkpoint: PathLike | None = None,
        group: ProcessGroup | None = None,
    ) -> SphericalKMeans:
        """Cluster the data from scratch.

        Args:
            activations: Data of shape [N, C, H, W] or [M, C], or a stream that gives the same batches on every pass: a
                list of memory-mapped arrays, a DataLoader that does not shuffle, or an object whose `__iter__` starts
                anew. A thread reads two batches ahead. Memory does not depend on the number of batches.
            progress: Whether to show a progress bar, or a function to call, as in `Catalog.build`.
            checkpoint: File that every iteration overwrites with the state of the fit. If it exists, the fit resumes
                from it and gives the same bits.
            group: Process group whose ranks share the fit. The default is this process alone. Each rank passes its own
                part of the data, which may be empty, and gets the `labels_` of this part. All ranks get the same
                centroids, which equal the centroids of a single process up to rounding.

        Returns:
            The fitted estimator itself.

        Raises:
            TypeError: If the data have a wrong type or dtype, or are an iterator, which can be read only once.
            ValueError: If a shape is wrong, there are fewer nonzero points than clusters, points contain NaN or Inf
                (the message gives their number and the first position), or the checkpoint is damaged or of another fit.
        """
        ranks, rng = Ranks(group), self._rng()
        points = Points.scan(activations, self.features, self.backend, ranks, rng)
        runs = self._lloyd(points, rng, checkpoint, progress)
        best = max(runs, key=lambda run: run.objective)
        self.__dict__.pop("labels_", None)
        no_streams = all(ranks.gather(points.in_memory))
        if points.in_memory:
            batch = points.single_batch()
            labels, distances = batch.distances(to_tensor("centroids", best.centroids))
            if no_streams:
                (cosines,) = ranks.total((1 - distances).sum())
                best.objective = cosines.item() / points.n_points
            self.labels_ = _like(activations, labels.flatten() if batch.is_rows else labels)
        self.objective_ = best.objective
        self._sums, self._counts = to_tensor("sums", best.sums).double(), to_tensor("counts", best.counts)
        for run in runs:
            run.centroids, run.sums, run.counts = (_like(activations, x) for x in (run.centroids, run.sums, run.counts))
        self.runs_, self.centroids_ = runs, best.centroids
        self.n_relocated_ = sum(run.n_relocated for run in runs)
        warn_if_relocated(self.n_relocated_, best.n_empty)
        return self

    def partial_fit(self, batch: Array) -> SphericalKMeans:
        """Update the centroids with one batch, by one Lloyd step with sums S over the points of all batches so far.

        For the points i of the batch, `S_k += sum_{i in k} x_i / |x_i|`, and then `c_k = S_k / |S_k|`. All points so
        far have equal weight and keep the label from their batch. The first batch initialises the centroids with the
        best of `n_init` initialisations. After `fit`, S starts with the sums of its data. A cluster that never had a
        point is relocated to a point of the batch. `labels_`, `objective_` and `runs_` of an earlier `fit` are deleted.

        Args:
            batch: Data of shape [N, C, H, W] or [M, C]. "standardized" is per image, so it needs whole images.

        Returns:
            The estimator itself.

        Raises:
            TypeError: As in `fit`.
            ValueError: As in `fit`; the number of points matters only in the first batch.
        """
        points, centroids = self._next_step(batch)
        step = points.step(centroids)
        if step.objective.isnan():
            points.assign(centroids)  # raises
        if needs_double(centroids, float(step.objective), int(step.counts.sum()) / max(1, len(points))):
            points, centroids = self._next_step(batch, in_double=True)
            step = points.step(centroids)
        sums, counts, n_relocated = step.sums.double(), step.counts, 0
        if hasattr(self, "_sums"):
            sums, counts, n_relocated = self._sums + sums, self._counts + counts, self.n_relocated_
        updated = directions(sums, centroids)
        empty = (counts == 0).nonzero().squeeze(1)
        if len(empty):
            in_double = updated.dtype == torch.float64
            scanned = Points.scan(batch, self.features, self.backend, ALONE, self._rng(), in_double)
            rows = scanned.farthest(updated[counts > 0], len(empty))
            updated[empty[: len(rows)]] = rows.to(updated.dtype)
            n_relocated += len(rows)
            warn_if_relocated(len(rows), 0)
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
        """Return the labels of all points, [N, H, W] or [M] int32.

        Args:
            activations: Data of shape [N, C, H, W] or [M, C], with as many channels as the centroids.

        Raises:
            RuntimeError: If neither `fit` nor `partial_fit` was called.
            TypeError, ValueError: As in `fit`, but for any number of points.
        """
        batch, centroids = self._checked_batch(activations)
        labels = batch.assign(centroids).labels
        return _like(activations, labels.flatten() if batch.is_rows else labels)

    def score(self, activations: Array | Stream) -> float:
        """Return the mean cosine of all points to the centroids of their labels, or 0 without points.

        Args:
            activations: Data of shape [N, C, H, W] or [M, C], or a stream of such batches.

        Raises:
            RuntimeError, TypeError, ValueError: As in `predict`.
        """
        cosines, n_points = 0.0, 0
        for data in [activations] if hasattr(activations, "__array__") else activations:
            batch, centroids = self._checked_batch(array_of(data))
            cosines += (1 - batch.distances(centroids)[1]).sum().item()
            n_points += len(batch)
        return cosines / max(1, n_points)

    def _checked_batch(self, activations: Array) -> tuple[Batch, Tensor]:
        """Return activations as a batch, and the fitted centroids, which have the same C."""
        if not hasattr(self, "centroids_"):
            raise RuntimeError("SphericalKMeans has no centroids yet: call fit or partial_fit first")
        batch = Batch.from_array(activations, self.features, self.backend)
        centroids = to_tensor("centroids_", self.centroids_)
        if batch.channels != centroids.shape[1]:
            raise ValueError(
                f"activations must have C = {centroids.shape[1]} like the centroids, got {tuple(activations.shape)}"
            )
        return batch, centroids

    def _next_step(self, data: Array, *, in_double: bool = False) -> tuple[Batch, Tensor]:
        """Return data as a batch, and the centroids [K, C] for their step of `partial_fit`."""
        if hasattr(self, "_sums"):
            batch, centroids = self._checked_batch(data)
            return batch, directions(self._sums, centroids.double()) if in_double else centroids
        rng = self._rng()
        points = Points.scan(data, self.features, self.backend, ALONE, rng, in_double)
        restarts = self._initial_centroids(points, rng)
        return points.single_batch(), restarts[int(points.step(restarts).objective.argmax())]

    def _rng(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)  # on the CPU, so that choices do not depend on the device

    def _initial_centroids(self, points: Points, rng: torch.Generator) -> Tensor:
        """Return the initial centroids of all restarts, [B, K, C], with the same bits on all ranks."""
        centroids = initial_centroids(points, self.init, self.n_clusters, self.n_init, rng)
        return points.ranks.broadcast(centroids.cpu()).to(points.device)

    def _lloyd(self, points: Points, rng: torch.Generator, checkpoint: PathLike | None, shown: Progress) -> list[Run]:
        """Run the Lloyd iterations of all restarts in lockstep, from the checkpoint if it exists."""
        names = ("n_clusters", "n_init", "max_iter", "tol", "seed", "features")
        provenance: dict[str, Any] = {name: getattr(self, name) for name in names}
        provenance["init"] = checksum({"init": self.init}) if isinstance(self.init, Tensor) else self.init
        provenance |= {"channels": points.channels, "points": points.n_points, "n_nonzero": points.n_nonzero}
        ranks, before = points.ranks, rng.get_state()
        if checkpoint is not None and ranks.broadcast(os.path.exists(checkpoint)):
            state = BatchedLloyd.load(checkpoint, provenance, points.device)
            points = points.to_double() if state.centroids.dtype == torch.float64 else points
        else:
            state = BatchedLloyd(self._initial_centroids(points, rng))
        pruned = with_pruning(points, self.n_clusters, len(state.runs))
        n_done = max(run.n_iter for run in state.runs)
        with progress_bar(self.max_iter, "k-means", "step", shown=not ranks.rank and shown, done=n_done) as bar:
            while state.active:
                state.advance(pruned, self.tol, self.max_iter, ahead=points.can_run_ahead and checkpoint is None)
                if state.needs_double(points):
                    points = pruned = points.to_double()
                    state = BatchedLloyd(self._initial_centroids(points, rng.set_state(before)))
                if checkpoint is not None and ranks.rank == 0:
                    state.save(checkpoint, provenance)
                bar.set_postfix(runs=len(state.active), refresh=False)
                bar.update(bool(state.active))
            bar.total = bar.n  # all restarts have converged
        return state.runs


def _like(data: Array | Stream, result: Array) -> Array:
    """Return the result as a NumPy array if the data are one, otherwise as a tensor."""
    return result.numpy() if isinstance(data, np.ndarray) and isinstance(result, Tensor) else result
