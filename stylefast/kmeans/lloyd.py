# SPDX-License-Identifier: Apache-2.0
"""Lloyd iterations of restarts in lockstep, and their state on disk between two of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..io.atomic import PathLike
from ..io.tensors import read_tensors, write_tensors
from .data import Sums

FORMAT = "stylefast-kmeans-1"
_TENSORS = ("centroids", "sums", "counts")
_NUMBERS = ("objective", "n_iter", "converged", "n_reseeded", "n_empty")


@dataclass(eq=False)
class Run:
    """One restart, in its last state. Arrays are tensors or NumPy arrays, like the data.

    Args:
        centroids: [K, C], unit norm.
        sums: [K, C], of the unit-normalised points of every cluster; not normalised.
        counts: [K] int64, points that are not zero of every cluster.
        objective: mean cosine of all points to the centroids of their labels.
        n_iter: how often the centroids were updated.
        converged: False if `max_iter` ended the run.
        n_reseeded: how many times a cluster without points was re-seeded.
        n_empty: clusters without points in the end.
    """

    centroids: Any = None
    sums: Any = None
    counts: Any = None
    objective: float = -math.inf
    n_iter: int = 0
    converged: bool = False
    n_reseeded: int = 0
    n_empty: int = 0


class Steps(Protocol):
    """What an iteration asks of points: `stylefast.points.Points` says what it is."""

    def step(self, centroids: Tensor) -> Sums: ...

    def farthest(self, centroids: Tensor, n: int) -> Tensor: ...


class BatchedLloyd:
    """Restarts that share every read: what is needed to go on after any update.

    Args:
        centroids: [B, K, C], the first ones of B restarts.

    Attributes:
        runs: all B, each in the state in which it was evaluated last.
        going: those that have not ended, by place in `runs`.
        centroids: [len(going), K, C], to be evaluated next.
    """

    def __init__(self, centroids: Tensor) -> None:
        self.runs = [Run() for _ in centroids]
        self.going = list(range(len(centroids)))
        self.centroids = centroids

    def advance(self, points: Steps, tol: float, max_iter: int) -> None:
        """One iteration of the runs that go on. A run keeps the centroids that were evaluated last."""
        step = points.step(self.centroids)
        updated = directions(step.sums, self.centroids)
        moves = (updated != self.centroids).flatten(1).any(1).tolist()
        empty = step.counts == 0  # [B, K]
        objective, n_empty = step.objective.tolist(), empty.sum(1).tolist()
        keep = []
        for i, run in enumerate(self.runs[place] for place in self.going):
            settled = not moves[i] or objective[i] - run.objective < tol * abs(objective[i])
            # With fewer directions than clusters some stay empty, however often they are re-seeded.
            run.converged = settled and (n_empty[i] == 0 or 0 < run.n_empty <= n_empty[i])
            run.objective, run.n_empty = objective[i], n_empty[i]
            run.centroids, run.sums, run.counts = self.centroids[i], step.sums[i], step.counts[i]
            if run.converged or run.n_iter == max_iter:
                continue
            if n_empty[i]:
                updated[i, empty[i]] = points.farthest(updated[i, ~empty[i]], n_empty[i])
                run.n_reseeded += n_empty[i]
            run.n_iter += 1
            keep.append(i)
        self.centroids, self.going = updated[keep], [self.going[i] for i in keep]

    def save(self, path: PathLike, fit: Mapping[str, Any]) -> None:
        """Writes the state of a fit, whole or not at all; `fit` says of which."""
        tensors = {"next": self.centroids}
        for place, run in enumerate(self.runs):
            if run.centroids is not None:
                tensors |= {f"{name}.{place}": getattr(run, name) for name in _TENSORS}
        runs = [{name: getattr(run, name) for name in _NUMBERS} for run in self.runs]
        write_tensors(path, FORMAT, tensors, provenance=fit, going=self.going, runs=runs)

    @classmethod
    def load(cls, path: PathLike, fit: Mapping[str, Any], device: torch.device) -> BatchedLloyd:
        """Reads the state of a fit. Raises ValueError that says what differs if it is of another fit."""
        tensors, header = read_tensors(path, FORMAT, provenance=fit)
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        state = cls(tensors["next"])
        state.going, state.runs = header["going"], []
        for place, numbers in enumerate(header["runs"]):
            arrays = {name: tensors.get(f"{name}.{place}") for name in _TENSORS}
            state.runs.append(Run(**arrays, **numbers))
        return state


def directions(sums: Tensor, centroids: Tensor) -> Tensor:
    """sums / |sums|, and where a sum is zero the centroid that was there, in the centroids' dtype."""
    norm = torch.linalg.vector_norm(sums, dim=-1, keepdim=True)
    return torch.where(norm > 0, (sums / norm).to(centroids.dtype), centroids)
