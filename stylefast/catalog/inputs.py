# SPDX-License-Identifier: Apache-2.0
"""Checks of the arguments of a build."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..core.checks import as_tensor, check_choice, check_integer, check_type
from ..core.dtypes import Array
from ..generators import Generator
from .options import BuildOptions, Clustering

KMEANS_OPTIONS = ("features", "n_init", "seed", "run")  # of `Clustering`


def check_options(clustering: Clustering, options: BuildOptions, contribution_images: int | None) -> None:
    """Raise TypeError or ValueError unless the options of a build have the right types and ranges."""
    check_type("clustering", clustering, Clustering, "Clustering(n_clusters=32)")
    check_type("options", options, BuildOptions, "BuildOptions(batch_size=8)")
    check_integer("batch_size", options.batch_size, 1)
    check_integer("shard_images", options.shard_images, 1)
    check_choice("dtype", options.dtype, ("float32", "float16", "bfloat16"))
    if contribution_images is not None:
        check_integer("contribution_images", contribution_images, 1)
    check_choice("method", clustering.method, ("kmeans", "nmf"))
    if clustering.method == "nmf" and (given := changed(clustering, KMEANS_OPTIONS)):
        raise ValueError(f'method="nmf" does not run k-means: leave out {", ".join(given)}')
    if clustering.run is not None and not 0 <= clustering.run < clustering.n_init:
        raise ValueError(f"run must be in [0, {clustering.n_init}), got {clustering.run}")


def count_measured(contribution_images: int | None, n_images: int) -> int:
    """Return the number of images on which M is measured. Raise ValueError if it exceeds that of all images."""
    if contribution_images is not None and contribution_images > n_images:
        raise ValueError(f"contribution_images must be at most {n_images}, got {contribution_images}")
    return n_images if contribution_images is None else contribution_images


def check_factorization(clustering: Clustering, generator: Generator, layer: str, *, known: bool, ranks: int) -> None:
    """Raise ValueError if the factorisation that the options ask for cannot run.

    Args:
        clustering: Options of the clustering.
        generator: Generator whose activations are factorised.
        layer: Key of the tensor to factorise.
        known: Whether the centroids are known.
        ranks: Number of processes that share the build.
    """
    if clustering.method != "nmf":
        return
    if known:
        raise ValueError('centroids are those of k-means, which method="nmf" does not run: leave out one of both')
    if ranks > 1:
        raise ValueError(f'method="nmf" must run in a single process, got a process group of {ranks} ranks')
    if clustering.n_clusters > (channels := _channels(generator, layer)):
        expected = f'at most C = {channels} of layer {layer} with method="nmf"'
        raise ValueError(f"n_clusters must be {expected}, got {clustering.n_clusters}")


def changed(clustering: Clustering, names: Iterable[str]) -> list[str]:
    """Return the options, out of some names, that differ from their defaults."""
    default = Clustering()
    return [name for name in names if getattr(clustering, name) != getattr(default, name)]


def directions(centroids: Array, generator: Generator, layer: str) -> Tensor:
    """Return the user's centroids with unit norm, [K, C] float32."""
    channels = _channels(generator, layer)
    vectors = as_tensor("centroids", centroids, "[K, C]", 2, 2).double()
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    if vectors.shape[1] != channels or not (norms.isfinite() & (norms > 0)).all():
        expected = f"[K, C] with C = {channels} to match layer {layer}, finite and not zero"
        raise ValueError(f"centroids must have shape {expected}, got {tuple(centroids.shape)}")
    return (vectors / norms).float().to(generator.device)


def _channels(generator: Generator, layer: str) -> int:
    return next(site.channels for site in generator.sites if site.tensor == layer)


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
