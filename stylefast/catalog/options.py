# SPDX-License-Identifier: Apache-2.0
"""Options of a build, shared by Python and the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Clustering:
    """Options of the clustering: the layer, the method, the kind of points, and k-means.

    Args:
        n_clusters: Number of clusters K. With the method nmf, at most the number of channels of the layer.
        layer: Name of a site that reads the tensor to cluster, such as convs.5. The default is the last convolution
            of the given resolution.
        resolution: Height of the tensor to cluster, if no layer is given.
        method: Spherical k-means, whose labels give each position to one cluster (kmeans), or a non-negative
            factorisation, whose memberships divide each position among the clusters (nmf). A factorisation
            excludes the options of k-means: the kind of points, the restarts, the seed and the run.
        features: Kind of points: the activations as they are (raw), with zero mean and unit variance per image and
            channel (standardized), or squared (squared).
        n_init: Number of k-means restarts from different initial centroids.
        seed: Random seed of the k-means initialisation.
        run: Index of the restart whose clusters the catalog uses, counted from 0. The default is the restart that fits
            the boxes of the parts best or, without boxes, the restart with the best objective.
    """

    n_clusters: int = 64
    layer: str | None = None
    resolution: int = 16
    method: Literal["kmeans", "nmf"] = "kmeans"
    features: Literal["raw", "standardized", "squared"] = "raw"
    n_init: int = 8
    seed: int = 0
    run: int | None = None


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build. They change the catalog by rounding only.

    Args:
        batch_size: Images per batch. A batch is one forward pass of the generator.
        dtype: Dtype in which the activations of the clustered layer are kept in memory or on disk.
        workdir: Folder for the state of the build: the activations and the sums of M per shard, and a checkpoint of
            k-means after every iteration. A build that was stopped resumes from it and gives the same bits. A
            factorisation that was stopped starts again from the stored activations. It is an error if the folder
            contains the state of another build. The folder can be removed after the build.
        shard_images: Images per shard. If the latents are a stream, its batches are the shards.
    """

    batch_size: int = 4
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    workdir: Path | None = None
    shard_images: int = 64
