# SPDX-License-Identifier: Apache-2.0
"""Options of a build, shared by Python and the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Clustering:
    """Which activations are clustered, and how.

    Args:
        n_clusters: number of clusters K.
        layer: name of a site that reads the tensor to cluster; default: the last convolution at `resolution`.
        resolution: rows of the tensor to cluster, if no layer is given.
        features: what a point is, as in `stylefast.assign`.
        n_init: restarts of k-means; the best objective wins.
        seed: random seed of the k-means initialisation.
        run: the restart whose clusters are taken; default: the one with the best objective.
    """

    n_clusters: int = 32
    layer: str | None = None
    resolution: int = 16
    features: Literal["raw", "standardized", "squared"] = "raw"
    n_init: int = 8
    seed: int = 0
    run: int | None = None


@dataclass(frozen=True)
class BuildOptions:
    """How a build runs; the catalog is the same up to rounding.

    Args:
        batch_size: images per batch, which is one forward pass of the generator.
        dtype: dtype in which the clustered layer's activations are kept in memory or on disk.
        workdir: folder for the state of a long build: activations and sums of M per shard, and k-means after every
            iteration. A build that was stopped goes on from it to the same bits; the state of another build is refused.
            It may be removed when the build has ended.
        shard_images: images per shard, unless the latents are a stream, whose batches are the shards.
    """

    batch_size: int = 4
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    workdir: Path | None = None
    shard_images: int = 64
