# SPDX-License-Identifier: Apache-2.0
"""The clusters of a build: its estimator, the points that it reads, and the result of its fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..core.checks import to_tensor
from ..factorization import NMF
from ..factorization.nmf import BATCH_POINTS
from ..kmeans import SphericalKMeans
from .options import Clustering
from .regions import Region
from .runs import choose_run

Estimator: TypeAlias = SphericalKMeans | NMF


class Clusters(NamedTuple):
    """Clusters of a build.

    Attributes:
        runs: Centroids of every restart, [B, K, C] float32, or the components of a factorisation as a single run.
        run: Index of the run that the catalog uses.
        provenance: Entries of the provenance that describe the fit.
    """

    runs: Tensor
    run: int
    provenance: dict[str, Any]


def estimator_of(clustering: Clustering, backend: str | None) -> Estimator:
    """Return the estimator that the options of a build describe."""
    if clustering.method == "nmf":
        return NMF(clustering.n_clusters, backend=backend)
    return SphericalKMeans(
        clustering.n_clusters,
        n_init=clustering.n_init,
        seed=clustering.seed,
        features=clustering.features,
        backend=backend,
    )


def fitted_clusters(
    estimator: Estimator,
    clustering: Clustering,
    regions: Mapping[str, Region] | None,
    occupancies: Callable[[Tensor], Tensor],
) -> Clusters:
    """Return the result of a fitted estimator.

    Args:
        estimator: The estimator, after its fit.
        clustering: Options of the clustering.
        regions: Regions of the parts, as in `choose_run`.
        occupancies: Function that returns the occupancy of every run, as in `choose_run`.
    """
    if isinstance(estimator, NMF):
        fitted = {"method": "nmf", "relative_error": estimator.error_, "epochs": estimator.n_iter_}
        return Clusters(to_tensor("components", estimator.components_).float()[None], 0, fitted)
    objectives = [restart.objective for restart in estimator.runs_]
    runs = torch.stack([to_tensor("centroids", restart.centroids).float() for restart in estimator.runs_])
    choice = choose_run(runs, objectives, clustering.run, regions, occupancies)
    provenance = {"seed": clustering.seed, **choice, "n_reseeded": estimator.n_relocated_}
    return Clusters(runs, choice["run"], provenance)


class StoredActivations:
    """Stream of the activations that a rank has written, one batch per shard.

    Args:
        read: Function that returns the activations of a shard.
        shards: Indices of the shards.
    """

    def __init__(self, read: Callable[[int], Tensor], shards: Sequence[int]) -> None:
        self._read, self._shards = read, shards

    def __iter__(self) -> Iterator[Tensor]:
        return map(self._read, self._shards)


class MiniBatches:
    """Stream of the mini-batches into which `NMF` would split the tensor of all activations.

    So the components do not depend on the shards.

    Args:
        activations: Stream of activations [n, C, h, w], in batches of any sizes.
        n_positions: Number of positions h·w.
    """

    def __init__(self, activations: Iterable[Tensor], n_positions: int) -> None:
        self._activations, self._size = activations, max(1, BATCH_POINTS // n_positions)

    def __iter__(self) -> Iterator[Tensor]:
        rest: Tensor | None = None
        for batch in self._activations:
            *full, rest = (batch if rest is None else torch.cat([rest, batch])).split(self._size)
            yield from full
        if rest is not None:
            yield rest
