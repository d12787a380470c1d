# SPDX-License-Identifier: Apache-2.0
"""Lloyd iterations of several restarts at once, and their checkpoints."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor

from ..core.checks import to_tensor
from ..core.dtypes import Array
from ..io.atomic import PathLike
from ..io.schema import TensorSpec, check_tensor_table, decode
from ..io.tensors import read_tensors, write_tensors
from .batch import NARROW, Sums

FORMAT = "stylefast-kmeans-1"
_ARRAYS = ("centroids", "sums", "counts")  # attributes of Run and names of the tensors in a checkpoint
_NUMBERS = {  # attribute of Run -> key in a checkpoint
    "objective": "objective",
    "n_iter": "n_iter",
    "converged": "converged",
    "n_relocated": "n_reseeded",
    "n_empty": "n_empty",
}


class EmptyClusterWarning(UserWarning):
    """An empty cluster was relocated to the point that is least similar to its centroid."""


class _Numbers(TypedDict):
    objective: float
    n_iter: int
    converged: bool
    n_reseeded: int
    n_empty: int


class _Header(TypedDict):
    going: list[int]
    runs: list[_Numbers]


@dataclass(eq=False)
class Run:
    """State of one restart at its last evaluation. Arrays are tensors or NumPy arrays, like the data.

    Args:
        centroids: Centroids of unit norm, [K, C].
        sums: Sum of the unit-normalised points of every cluster, [K, C], not normalised.
        counts: Number of nonzero points of every cluster, [K] int64.
        objective: Mean cosine of all points to the centroids of their labels.
        n_iter: Number of updates of the centroids.
        converged: Whether the run converged; False if `max_iter` ended it.
        n_relocated: Number of relocations of empty clusters after the initialisation.
        n_empty: Number of clusters without points.
    """

    centroids: Array
    sums: Array
    counts: Array
    objective: float = -math.inf
    n_iter: int = 0
    converged: bool = False
    n_relocated: int = 0
    n_empty: int = 0


class SupportsLloyd(Protocol):
    """Points that `BatchedLloyd` can cluster. `stylefast.kmeans.data.Points` documents the members."""

    @property
    def highest_objective(self) -> float: ...

    def step(self, centroids: Tensor) -> Sums: ...

    def farthest(self, centroids: Tensor, n: int) -> Tensor: ...


class _Evaluation:
    """One Lloyd step of several restarts, the centroids that it gives, and its numbers on their way to the host.

    Args:
        points: Points to cluster.
        centroids: Centroids that are evaluated, [B, K, C].

    Attributes:
        centroids: As above.
        sums, counts: Result of the step, as in `Run` but for B restarts.
        updated: Centroids of the next iteration, [B, K, C].
    """

    def __init__(self, points: SupportsLloyd, centroids: Tensor) -> None:
        self.sums, self.counts, objective = points.step(centroids)
        self.centroids, self.updated = centroids, directions(self.sums, centroids)
        moved = (self.updated != centroids).flatten(1).any(1)
        n_empty = (self.counts == 0).sum(1)
        # One copy, into pinned memory if it comes from a GPU. The host waits for the copy, but not for later kernels.
        self._numbers = torch.stack([x.double() for x in (objective, n_empty, moved)], 1).to("cpu", non_blocking=True)
        self._copied = torch.cuda.current_stream(moved.device).record_event() if moved.is_cuda else None
        self._rows = list(range(len(centroids)))

    def select(self, rows: list[int]) -> _Evaluation:
        """Drop all restarts except the given ones, and return the evaluation."""
        if len(rows) < len(self._rows):
            self._rows = rows
            for name in ("centroids", "sums", "counts", "updated"):
                setattr(self, name, rows_of(getattr(self, name), rows))
        return self

    def numbers(self) -> list[tuple[float, int, bool]]:
        """Return the objective of every restart, its number of empty clusters, and whether a centroid moved."""
        if self._copied is not None:
            self._copied.synchronize()
        values = self._numbers.tolist()
        return [(values[i][0], int(values[i][1]), bool(values[i][2])) for i in self._rows]


class BatchedLloyd:
    """Lloyd iterations of B restarts that share every read of the data.

    Args:
        centroids: Initial centroids, [B, K, C].

    Attributes:
        runs: State of all B restarts, each at its last evaluation.
        active: Indices in `runs` of the restarts that have not ended.
        centroids: Centroids of the active restarts that the next iteration evaluates, [len(active), K, C].
    """

    runs: list[Run]
    active: list[int]
    centroids: Tensor

    def __init__(self, centroids: Tensor) -> None:
        counts = torch.zeros(centroids.shape[1], dtype=torch.int64, device=centroids.device)
        self.runs = [Run(initial, torch.zeros_like(initial), counts) for initial in centroids]
        self.active = list(range(len(centroids)))
        self.centroids = centroids
        self._started: _Evaluation | None = None  # of `centroids`

    def advance(self, points: SupportsLloyd, tol: float, max_iter: int, *, ahead: bool = False) -> None:
        """Run one iteration of the active restarts. A restart that ends keeps the centroids that were evaluated last.

        Args:
            points: Points to cluster.
            tol: Relative gain of the objective below which a restart ends. If the mean distance 1 - cos is less than
                NARROW, the gain is relative to this distance.
            max_iter: Maximum number of updates per restart.
            ahead: Whether to start the step of the next iteration before the numbers of this one are read, so that a
                GPU does not wait for the host. The step is computed in vain for restarts that end in this iteration,
                and for all restarts if clusters are relocated. The results are the same up to rounding. A fit with a
                checkpoint must not set it, because a resumed fit starts without such a step and may round differently.
        """
        evaluation = self._started or _Evaluation(points, self.centroids)
        ahead = ahead and any(self.runs[index].n_iter < max_iter for index in self.active)
        self._started = _Evaluation(points, evaluation.updated) if ahead else None
        updated, remaining, relocated = evaluation.updated, [], False
        for i, (objective, n_empty, moved) in enumerate(evaluation.numbers()):
            run, highest = self.runs[self.active[i]], points.highest_objective
            objective = min(objective, highest)  # rounding can exceed the bound
            distance = highest - objective
            scale = distance if distance < NARROW * highest else abs(objective)
            settled = not moved or objective - run.objective < tol * scale
            # With fewer distinct directions than clusters, some clusters stay empty after any number of relocations.
            run.converged = settled and (n_empty == 0 or 0 < run.n_empty <= n_empty)
            run.objective, run.n_empty = objective, n_empty
            run.centroids, run.sums, run.counts = evaluation.centroids[i], evaluation.sums[i], evaluation.counts[i]
            if run.converged or run.n_iter == max_iter:
                continue
            if n_empty:
                empty = evaluation.counts[i] == 0  # [K]
                updated[i, empty] = points.farthest(updated[i, ~empty], n_empty)
                run.n_relocated += n_empty
                relocated = True
            run.n_iter += 1
            remaining.append(i)
        self.centroids, self.active = rows_of(updated, remaining), [self.active[i] for i in remaining]
        self._started = None if self._started is None or relocated else self._started.select(remaining)

    def needs_double(self, points: SupportsLloyd) -> bool:
        """Whether a restart needs float64, as the function `needs_double` defines it."""
        return any(needs_double(run.centroids, run.objective, points.highest_objective) for run in self.runs)

    def save(self, path: PathLike, provenance: Mapping[str, Any]) -> None:
        """Write a checkpoint atomically.

        Args:
            path: Path of the file.
            provenance: JSON-serialisable description of the data and the arguments of the fit; `load` compares it.
        """
        tensors = {"next": self.centroids}
        for index, run in enumerate(self.runs):
            tensors |= {f"{name}.{index}": getattr(run, name) for name in _ARRAYS}
        runs = [{key: getattr(run, attribute) for attribute, key in _NUMBERS.items()} for run in self.runs]
        write_tensors(path, FORMAT, tensors, provenance=provenance, going=self.active, runs=runs)

    @classmethod
    def load(cls, path: PathLike, provenance: Mapping[str, Any], device: torch.device) -> BatchedLloyd:
        """Read a checkpoint.

        Args:
            path: Path of the file.
            provenance: Description of the data and the arguments of this fit.
            device: Device of the centroids and sums.

        Returns:
            The restarts in the state of the checkpoint.

        Raises:
            ValueError: If the file is damaged or has another provenance. The message names the first difference.
        """
        tensors, header = read_tensors(path, FORMAT, provenance=provenance)
        try:
            stored: _Header = decode(_Header, header, "header")
            _check_tensors(stored, tensors)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)} cannot be used: {error}") from error
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        state = cls(tensors["next"])
        state.active, state.runs = stored["going"], []
        for index, run in enumerate(stored["runs"]):
            arrays = {name: tensors[f"{name}.{index}"] for name in _ARRAYS}
            state.runs.append(Run(**arrays, **{attribute: run[key] for attribute, key in _NUMBERS.items()}))
        return state


def _check_tensors(header: _Header, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the tensors of a checkpoint fit its header."""
    active, n_runs = header["going"], len(header["runs"])
    if not all(0 <= index < n_runs for index in active) or len(set(active)) != len(active):
        raise ValueError(f"going must be different restarts of {n_runs}, got {active}")
    floats = (torch.float32, torch.float64)
    specs = {"next": TensorSpec("B K C", floats)}
    for index in range(n_runs):
        specs[f"centroids.{index}"] = specs[f"sums.{index}"] = TensorSpec("K C", floats)
        specs[f"counts.{index}"] = TensorSpec("K", (torch.int64,))
    check_tensor_table(specs, tensors, B=len(active))


def rows_of(tensor: Tensor, rows: list[int]) -> Tensor:
    """Return the given rows of a tensor. A list as index would be copied to a GPU, which waits for the GPU."""
    if len(rows) == len(tensor):
        return tensor
    return torch.stack([tensor[i] for i in rows]) if rows else tensor[:0]


def directions(sums: Tensor, centroids: Tensor) -> Tensor:
    """Return `sums / |sums|` in the dtype of the centroids, or the former centroid where a sum is zero."""
    norm = torch.linalg.vector_norm(sums, dim=-1, keepdim=True)
    return torch.where(norm > 0, (sums / norm).to(centroids.dtype), centroids)


def needs_double(centroids: Array, objective: float, highest: float) -> bool:
    """Whether labels need cosines in float64: points are close to their centroids, and two centroids to each other.

    Args:
        centroids: Centroids of unit norm, [K, C].
        objective: Mean cosine of all points to the centroids of their labels.
        highest: Objective if every nonzero point equals its centroid.

    Returns:
        False for float64 centroids. Otherwise, whether the mean of `1 - cos` over the nonzero points, and `1 - cos` of
        two centroids, are less than NARROW.
    """
    vectors = to_tensor("centroids", centroids)
    if vectors.dtype == torch.float64 or not objective > (1 - NARROW) * highest:
        return False
    cosines = vectors.double() @ vectors.double().T  # [K, K]
    return bool((cosines.fill_diagonal_(-1) > 1 - NARROW).any())


def warn_if_relocated(n_relocated: int, n_empty: int) -> None:
    """Issue an `EmptyClusterWarning` for the caller of the calling method if clusters were relocated."""
    if n_relocated:
        remaining = f"; {n_empty} clusters of the best run stayed empty" if n_empty else ""
        message = f"an empty cluster was relocated to the least similar point {n_relocated} times{remaining}"
        warnings.warn(message, EmptyClusterWarning, stacklevel=3)
