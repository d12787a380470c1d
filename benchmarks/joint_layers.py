# SPDX-License-Identifier: Apache-2.0
"""Catalog of the clusters of two layers together, an alternative that bench_defaults.py measures."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from stylefast import Catalog, SphericalKMeans, assign, contribution
from stylefast.catalog import FFHQ_REGIONS, Clustering
from stylefast.catalog.inputs import layer_of
from stylefast.catalog.regions import overlaps
from stylefast.catalog.runs import THRESHOLD, best_overlap
from stylefast.generators import Generator

RESOLUTIONS = (16, 32)
BATCH_SIZE = 4


def joint_catalog(generator: Generator, w: Tensor, clustering: Clustering, n_measured: int) -> Catalog:
    """Build a catalog whose points are the activations of the layers of both RESOLUTIONS, each with norm 1.

    The coarser layer is interpolated bilinearly. The restart is the one that fits the boxes best. The catalog names the
    last layer, and has the channels of its centroids, because a catalog has one layer.
    """
    layers = [layer_of(generator, Clustering(resolution=resolution)) for resolution in RESOLUTIONS]
    points = torch.cat([_points(generator, rows, layers) for rows in w.split(BATCH_SIZE)])
    k = clustering.n_clusters
    estimator = SphericalKMeans(k, n_init=clustering.n_init, seed=clustering.seed).fit(points)
    runs = torch.stack([torch.as_tensor(run.centroids) for run in estimator.runs_])
    occupancies = [_occupancy(assign(points, centroids).labels, k) for centroids in runs]
    per_run = [overlaps(FFHQ_REGIONS, occupancy, THRESHOLD) for occupancy in occupancies]
    best = best_overlap(per_run, [run.objective for run in estimator.runs_])
    labels = assign(points, runs[best]).labels
    m = torch.zeros(k, generator.style_width, dtype=torch.float64)
    for rows, batch in zip(w[:n_measured].split(BATCH_SIZE), labels[:n_measured].split(BATCH_SIZE), strict=True):

        def add(key: str, tensor: Tensor, labels: Tensor = batch) -> None:
            readers = [site for site in generator.sites if site.tensor == key]
            sums = contribution(tensor, labels, k, standardize=not readers[0].normalized).double() * len(labels)
            for site in readers:
                m[:, site.slice] += sums

        generator.visit(rows, add)
    channels = next(site.channels for site in generator.sites if site.tensor == layers[-1])
    last = normalize(runs[:, :, -channels:], dim=2).contiguous()
    return Catalog(
        generator=generator.name,
        fingerprint=dict(generator.fingerprint),
        sites=generator.sites,
        layer=layers[-1],
        features="raw",
        centroids=last[best].clone(),
        runs=last,
        contributions=m.div(n_measured).float(),
        occupancy=occupancies[best].float(),
        provenance={"run": best},
    )


def _points(generator: Generator, w: Tensor, layers: list[str]) -> Tensor:
    """Return the points of a batch of images, [N, C, h, w] with the size of the last layer."""
    tensors = list(generator.activations(w, layers).values())
    size = tensors[-1].shape[2:]
    return torch.cat([interpolate(normalize(x), size=size, mode="bilinear") for x in tensors], dim=1)


def _occupancy(labels: Tensor, k: int) -> Tensor:
    """Return the fraction of images in which a position has a label, [K, h, w]."""
    return torch.stack([(labels == i).double().mean(0) for i in range(k)])
