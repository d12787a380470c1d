# SPDX-License-Identifier: Apache-2.0
"""Lloyd iterations of several restarts at once, and their checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core.dtypes import Array
from ..io.atomic import PathLike
from ..io.tensors import read_tensors, write_tensors
from .data import Sums

FORMAT = "stylefast-kmeans-1"
_ARRAYS = ("centroids", "sums", "counts")  # attributes of Run, which are also the names in a checkpoint
_NUMBERS = {  # attribute of Run -> key in a checkpoint
    "objective": "objective",
    "n_iter": "n_iter",
    "converged": "converged",
    "n_relocated": "n_reseeded",
    "n_empty": "n_empty",
}


@dataclass(eq=False)
class Run:
    """State of one restart at its last evaluation. Arrays are tensors or NumPy arrays, like the data.

    Args:
        centroids: [K, C], unit norm.
        sums: [K, C], sum of the unit-normalised points of every cluster; not normalised.
        counts: [K] int64, number of points of every cluster that are not zero.
        objective: mean cosine of all points to the centroids of their labels.
        n_iter: number of updates of the centroids.
        converged: False if `max_iter` ended the run.
        n_relocated: how many times an empty cluster was relocated.
        n_empty: number of clusters without points at the end.
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
    """Points that `BatchedLloyd` can cluster. `stylefast.kmeans.data.Points` documents the methods."""

    def step(self, centroids: Tensor) -> Sums: ...

    def farthest(self, centroids: Tensor, n: int) -> Tensor: ...


class BatchedLloyd:
    """Lloyd iterations of B restarts that share every read of the data.

    Args:
        centroids: [B, K, C], the initial centroids.

    Attributes:
        runs: all B restarts, each in the state of its last evaluation.
        active: indices in `runs` of the restarts that have not ended.
        centroids: [len(active), K, C], the centroids that the next iteration evaluates.
    """

    runs: list[Run]
    active: list[int]
    centroids: Tensor

    def __init__(self, centroids: Tensor) -> None:
        counts = torch.zeros(centroids.shape[1], dtype=torch.int64, device=centroids.device)
        self.runs = [Run(initial, torch.zeros_like(initial), counts) for initial in centroids]
        self.active = list(range(len(centroids)))
        self.centroids = centroids

    def advance(self, points: SupportsLloyd, tol: float, max_iter: int) -> None:
        """One iteration of the active restarts. A restart keeps the centroids that were evaluated last."""
        step = points.step(self.centroids)
        updated = directions(step.sums, self.centroids)
        moved = (updated != self.centroids).flatten(1).any(1).tolist()
        empty = step.counts == 0  # [B, K]
        objective, n_empty = step.objective.tolist(), empty.sum(1).tolist()
        remaining = []
        for i, run in enumerate(self.runs[index] for index in self.active):
            settled = not moved[i] or objective[i] - run.objective < tol * abs(objective[i])
            # With fewer directions than clusters some clusters stay empty, however often they are relocated.
            run.converged = settled and (n_empty[i] == 0 or 0 < run.n_empty <= n_empty[i])
            run.objective, run.n_empty = objective[i], n_empty[i]
            run.centroids, run.sums, run.counts = self.centroids[i], step.sums[i], step.counts[i]
            if run.converged or run.n_iter == max_iter:
                continue
            if n_empty[i]:
                updated[i, empty[i]] = points.farthest(updated[i, ~empty[i]], n_empty[i])
                run.n_relocated += n_empty[i]
            run.n_iter += 1
            remaining.append(i)
        self.centroids, self.active = updated[remaining], [self.active[i] for i in remaining]

    def save(self, path: PathLike, provenance: Mapping[str, Any]) -> None:
        """Writes a checkpoint, whole or not at all.

        Args:
            path: where.
            provenance: JSON-serialisable description of the data and the arguments of the fit; `load` compares it.
        """
        tensors = {"next": self.centroids}
        for index, run in enumerate(self.runs):
            tensors |= {f"{name}.{index}": getattr(run, name) for name in _ARRAYS}
        runs = [{key: getattr(run, attribute) for attribute, key in _NUMBERS.items()} for run in self.runs]
        write_tensors(path, FORMAT, tensors, provenance=provenance, going=self.active, runs=runs)

    @classmethod
    def load(cls, path: PathLike, provenance: Mapping[str, Any], device: torch.device) -> BatchedLloyd:
        """Reads a checkpoint. Raises ValueError with the first difference if its provenance is another."""
        tensors, header = read_tensors(path, FORMAT, provenance=provenance)
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        state = cls(tensors["next"])
        state.active, state.runs = header["going"], []
        for index, stored in enumerate(header["runs"]):
            arrays = {name: tensors[f"{name}.{index}"] for name in _ARRAYS}
            state.runs.append(Run(**arrays, **{attribute: stored[key] for attribute, key in _NUMBERS.items()}))
        return state


def directions(sums: Tensor, centroids: Tensor) -> Tensor:
    """sums / |sums|, in the centroids' dtype; where a sum is zero, the former centroid."""
    norm = torch.linalg.vector_norm(sums, dim=-1, keepdim=True)
    return torch.where(norm > 0, (sums / norm).to(centroids.dtype), centroids)
