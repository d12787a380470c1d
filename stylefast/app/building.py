# SPDX-License-Identifier: Apache-2.0
"""Logic of "Build again" in the tab Parts: a build with progress that can be cancelled, and that keeps the names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..catalog import BuildOptions, Catalog, Clustering
from ..core.checks import check_integer
from ..generators import Generator
from .workspace import DEFAULT_MEASURED, Workspace

COMPARED, GRID = 16, 64  # images, and positions per side, on which old and new clusters are compared
MOST = 0.5  # fraction of a new cluster that must lie in a part


class CancelledError(Exception):
    """The user has cancelled a build."""


class Cancellation:
    """Request to end the build of one page."""

    def __init__(self) -> None:
        self.requested = False


@dataclass(frozen=True)
class BuildRequest:
    """What "Build again" asks for.

    Args:
        n_clusters: Number of clusters K.
        resolution: Height of the layer to cluster.
        n_init: Number of restarts of k-means.
        n_images: Number of images to cluster, with the seeds from 0.
    """

    n_clusters: int
    resolution: int
    n_init: int
    n_images: int

    def check(self) -> None:
        """Raise ValueError unless all numbers are integers >= 1."""
        names = {"clusters": self.n_clusters, "restarts": self.n_init, "images": self.n_images}
        for name, value in names.items():
            check_integer(name, value, 1)


def resolutions(generator: Generator) -> list[int]:
    """Return the heights of the layers that can be clustered, in ascending order."""
    return sorted({site.size[0] for site in generator.sites if site.kind == "conv" and min(site.size) >= 4})


def rebuild(
    workspace: Workspace,
    former: Catalog,
    request: BuildRequest,
    cancellation: Cancellation,
    report: Callable[[float, str], object],
) -> Catalog:
    """Build a catalog, whose clusters get the names of the former parts in which most of their area lies.

    Args:
        workspace: Workspace of the generator.
        former: Catalog whose parts give the names.
        request: What to build.
        cancellation: Checked after every batch of images and every step of k-means.
        report: Called with the fraction of the work that is done and a sentence.

    Raises:
        CancelledError: If the user has cancelled the build.
        ValueError: If an option is out of range.
    """
    request.check()
    fraction = 0.0

    def stop() -> None:
        if cancellation.requested or workspace.is_closing.is_set():
            raise CancelledError

    def wait(sentence: str) -> None:
        stop()
        report(0.0, sentence)

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal fraction
        stop()
        if stage == "catalog":
            fraction = done / total
        report(fraction, f"{done} of {total} images" if stage == "catalog" else f"{stage}, step {done}")

    generator = workspace.generator
    with workspace.heavy_task("the build of a catalog", wait):
        w = generator.latents(range(request.n_images), truncation=workspace.truncation)
        measured = min(DEFAULT_MEASURED, request.n_images)
        clustering = Clustering(request.n_clusters, resolution=request.resolution, n_init=request.n_init)
        catalog = Catalog.build(
            generator, w, clustering, BuildOptions(batch_size=2), contribution_images=measured, progress=progress
        )
        catalog.provenance |= {"seeds": f"0-{request.n_images - 1}", "truncation": workspace.truncation}
        catalog.parts = carry_parts(former, catalog, generator, w[:COMPARED])
    return catalog


def carry_parts(former: Catalog, catalog: Catalog, generator: Generator, w: Tensor) -> dict[str, list[int]]:
    """Return the parts of the new clusters: each belongs to the former part that contains most of its area.

    A cluster belongs to no part if no part contains more than half of its area. Parts without clusters are left out.

    Args:
        former: Catalog with parts.
        catalog: Catalog of the same generator.
        generator: The generator.
        w: Latents of the images on which the areas are compared.
    """
    height, width = (math.ceil(GRID * side / max(generator.image_size)) for side in generator.image_size)
    old, new = (c.labels(generator, w, size=(height, width)).long().cpu() for c in (former, catalog))  # [N, H, W]
    pairs = (new * former.n_clusters + old).flatten()
    overlap = torch.bincount(pairs, minlength=catalog.n_clusters * former.n_clusters)
    overlap = overlap.view(catalog.n_clusters, former.n_clusters).double()  # [K new, K former], in positions
    part_of: dict[int, str] = {}
    for part, ids in former.parts.items():
        fraction = overlap[:, ids].sum(1) / overlap.sum(1)  # NaN for a cluster without area
        for k in (fraction > MOST).nonzero().flatten().tolist():
            part_of.setdefault(k, part)
    parts = {part: sorted(k for k, name in part_of.items() if name == part) for part in former.parts}
    return {part: ids for part, ids in parts.items() if ids}
