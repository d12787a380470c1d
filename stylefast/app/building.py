# SPDX-License-Identifier: Apache-2.0
"""Logic of "Build again" in the tab Parts: a build with progress that can be cancelled, and that keeps the names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

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
    """What "Build again" asks for. The method and the kind of points are those of the former catalog.

    Args:
        n_clusters: Number of clusters K.
        resolution: Height of the layer to cluster.
        n_init: Number of restarts of k-means. A factorisation has none.
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


@dataclass(frozen=True, eq=False)
class Built:
    """A catalog that was built again, and what gives its clusters the names of parts.

    Args:
        catalog: The new catalog, without parts.
        former: Catalog with the clusters that were compared with the new ones.
        overlap: Positions that each pair of a new and a former cluster shares, as `measure_overlap` returns them.
        generator: Generator of both catalogs.
        w: Latents of the images on which clusters are compared.
    """

    catalog: Catalog
    former: Catalog
    overlap: Tensor
    generator: Generator
    w: Tensor

    def with_parts_of(self, present: Catalog) -> Catalog:
        """Return the new catalog with the parts that the page has now, which may differ from those before the build.

        Args:
            present: Catalog of the page. If its clusters are not those of the former catalog, they are compared with
                the new ones, which renders up to 16 images.
        """
        overlap = self.overlap
        if present.centroids is not self.former.centroids:
            overlap = measure_overlap(present, self.catalog, self.generator, self.w)
        return replace(self.catalog, parts=carry_parts(present.parts, overlap))


def resolutions(generator: Generator) -> list[int]:
    """Return the heights of the layers that can be clustered, in ascending order."""
    return sorted({site.size[0] for site in generator.sites if site.kind == "conv" and min(site.size) >= 4})


def rebuild(
    workspace: Workspace,
    former: Catalog,
    request: BuildRequest,
    cancellation: Cancellation,
    report: Callable[[float, str], object],
) -> Built:
    """Build a catalog, and compare its clusters with the former ones.

    Args:
        workspace: Workspace of the generator.
        former: Catalog whose method is kept, and whose clusters are compared.
        request: What to build.
        cancellation: Checked after every batch of images, every step of k-means, and the comparison of the clusters.
        report: Called with the fraction of the work that is done and a sentence.

    Raises:
        CancelledError: If the user has cancelled the build.
        ValueError: If an option is out of range, or a factorisation would have more clusters than the layer has
            channels.
    """
    request.check()
    clustering, fraction = clustering_of(former, request), 0.0

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
        catalog = Catalog.build(
            generator, w, clustering, BuildOptions(batch_size=2), contribution_images=measured, progress=progress
        )
        catalog.provenance |= {"seeds": f"0-{request.n_images - 1}", "truncation": workspace.truncation}
        stop()
        report(1.0, "Comparing the new clusters with the parts")
        overlap = measure_overlap(former, catalog, generator, w[:COMPARED])
        stop()
    return Built(catalog, former, overlap, generator, w[:COMPARED])


def clustering_of(former: Catalog, request: BuildRequest) -> Clustering:
    """Return options with the method and the kind of points of a catalog, and with its layer if that has the size.

    Args:
        former: The catalog.
        request: What to build. Another resolution than that of the catalog means the last convolution of that size.
    """
    is_same_size = request.resolution == former.occupancy.shape[1]
    layer = next(site.name for site in former.sites if site.tensor == former.layer) if is_same_size else None
    clustering = Clustering(request.n_clusters, layer, request.resolution, method=cast(Any, former.method))
    if former.method == "nmf":
        return clustering
    return replace(clustering, features=cast(Any, former.features), n_init=request.n_init)


def measure_overlap(former: Catalog, catalog: Catalog, generator: Generator, w: Tensor) -> Tensor:
    """Return the number of positions that each new cluster shares with each former one, [K new, K former] float64.

    Args:
        former: Catalog of the former clusters.
        catalog: Catalog of the new clusters, of the same generator.
        generator: The generator.
        w: Latents of the images on which the clusters are compared.
    """
    height, width = (math.ceil(GRID * side / max(generator.image_size)) for side in generator.image_size)
    old, new = (c.labels(generator, w, size=(height, width)).long().cpu() for c in (former, catalog))  # [N, H, W]
    pairs = (new * former.n_clusters + old).flatten()
    overlap = torch.bincount(pairs, minlength=catalog.n_clusters * former.n_clusters)
    return overlap.view(catalog.n_clusters, former.n_clusters).double()


def carry_parts(former: Mapping[str, Sequence[int]], overlap: Tensor) -> dict[str, list[int]]:
    """Return the parts of the new clusters: each belongs to the former part that contains most of its area.

    A cluster belongs to no part if no part contains more than half of its area. Parts without clusters are left out.

    Args:
        former: The former clusters of each part.
        overlap: What `measure_overlap` returned, [K new, K former].
    """
    part_of: dict[int, str] = {}
    for part, ids in former.items():
        fraction = overlap[:, list(ids)].sum(1) / overlap.sum(1)  # NaN for a cluster without area
        for k in (fraction > MOST).nonzero().flatten().tolist():
            part_of.setdefault(k, part)
    parts = {part: sorted(k for k, name in part_of.items() if name == part) for part in former}
    return {part: ids for part, ids in parts.items() if ids}
