# SPDX-License-Identifier: Apache-2.0
"""Checks of the arguments of a build."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.checks import as_tensor, check_choice, check_integer, check_type
from ..core.dtypes import Array
from ..generators import Generator
from .options import BuildOptions, Clustering


def check_options(clustering: Clustering, options: BuildOptions, contribution_images: int | None) -> None:
    """Raise TypeError or ValueError unless the options of a build have the right types and ranges."""
    check_type("clustering", clustering, Clustering, "Clustering(n_clusters=32)")
    check_type("options", options, BuildOptions, "BuildOptions(batch_size=8)")
    check_integer("batch_size", options.batch_size, 1)
    check_integer("shard_images", options.shard_images, 1)
    check_choice("dtype", options.dtype, ("float32", "float16", "bfloat16"))
    if contribution_images is not None:
        check_integer("contribution_images", contribution_images, 1)
    if clustering.run is not None and not 0 <= clustering.run < clustering.n_init:
        raise ValueError(f"run must be in [0, {clustering.n_init}), got {clustering.run}")


def directions(centroids: Array, generator: Generator, layer: str) -> Tensor:
    """Return the user's centroids with unit norm, [K, C] float32."""
    channels = next(site.channels for site in generator.sites if site.tensor == layer)
    vectors = as_tensor("centroids", centroids, "[K, C]", 2, 2).double()
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    if vectors.shape[1] != channels or not (norms.isfinite() & (norms > 0)).all():
        expected = f"[K, C] with C = {channels} to match layer {layer}, finite and not zero"
        raise ValueError(f"centroids must have shape {expected}, got {tuple(centroids.shape)}")
    return (vectors / norms).float().to(generator.device)


def layer_of(generator: Generator, clustering: Clustering) -> str:
    """Return the key of the tensor to cluster."""
    if clustering.layer is not None:
        check_choice("layer", clustering.layer, tuple(site.name for site in generator.sites))
        return generator.select([clustering.layer])[0].tensor
    convs = [site for site in generator.sites if site.kind == "conv"]
    tensors = [site.tensor for site in convs if site.size[0] == clustering.resolution]
    if not tensors:
        sizes = ", ".join(f"{h}x{w}" for h, w in sorted({site.size for site in convs}))
        raise ValueError(
            f"resolution must be that of a layer of {generator.name} ({sizes}), got {clustering.resolution}"
        )
    return tensors[-1]
