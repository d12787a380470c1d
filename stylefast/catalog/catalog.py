# SPDX-License-Identifier: Apache-2.0
"""Catalogs: clusters of the activations of a generator, their names, and the contribution of each style channel."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn.functional import interpolate

from ..core.dtypes import Array
from ..core.progress import Progress
from ..distributed import Ranks
from ..generators import Generator, Site
from ..io.atomic import PathLike
from ..ops.assign import assign
from .build import Build
from .clusters import Clusters, estimator_of
from .files import read_catalog, write_catalog
from .inputs import check_factorization, check_options, count_measured, directions, layer_of
from .label_maps import check_size, resized_argmax, smooth_labels
from .latents import LatentShards
from .match import check_match
from .memberships import normalized_memberships
from .options import BuildOptions, Clustering
from .regions import Region, check_regions, clusters_of, name_clusters
from .runs import THRESHOLD


@dataclass(eq=False, repr=False)
class Catalog:
    """Clusters of one layer of a generator, their names, and their contribution M at every site.

    `Catalog.build` computes a catalog, and `Catalog.load` reads one.

    Args:
        generator: Name of the generator.
        fingerprint: Fingerprint of the generator, as in `Generator.fingerprint`.
        sites: Sites of the generator.
        layer: Key of the tensor that is clustered.
        features: Kind of points, "raw", "standardized" or "squared", as in `stylefast.assign`.
        centroids: Centroids of shape [K, C], float32, unit norm. With `method="nmf"`, the components.
        runs: Centroids of every restart, [B, K, C] float32, in the order of `provenance["objectives"]`.
        contributions: M of shape [K, S], float32. The columns of a site are the same as in the row of styles.
        occupancy: Fraction of images in which a position of the layer has the label of the cluster, [K, h, w] float32.
            With `method="nmf"`, the mean of the memberships.
        parts: Ids of the clusters of each part, by the name of the part.
        provenance: JSON-serialisable description of how the catalog was computed.
        seconds: Duration of each stage of the build, in seconds. It is not saved.
        method: "kmeans", whose labels M measures, or "nmf", whose memberships M measures.
    """

    generator: str
    fingerprint: dict[str, str]
    sites: tuple[Site, ...]
    layer: str
    features: str
    centroids: Tensor
    runs: Tensor
    contributions: Tensor
    occupancy: Tensor
    parts: dict[str, list[int]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    method: str = "kmeans"

    @classmethod
    def build(
        cls,
        generator: Generator,
        w: Tensor | Iterable[Any],
        clustering: Clustering = Clustering(),
        options: BuildOptions = BuildOptions(),
        *,
        regions: Mapping[str, Region] | None = None,
        centroids: Array | None = None,
        contribution_images: int | None = None,
        backend: str | None = None,
        progress: Progress = True,
        group: ProcessGroup | None = None,
    ) -> Catalog:
        """Cluster the activations of one layer, then run the generator again and measure M at every site.

        M is the mean over images of equation 1, with labels or memberships that are resized bilinearly. Sites that read
        the same tensor are measured once. With `method="nmf"`, `provenance` has the relative squared error of the
        factorisation and its number of epochs.

        Without a workdir, memory holds the activations of the clustered layer for all images. With a workdir, it holds
        the activations of three shards. The activations of other layers are held for one batch at a time.

        Args:
            generator: Generator that computes the activations.
            w: Latents of the N images, as `Generator.latents` returns them; or an iterable of batches of latents that
                yields the same batches whenever it is read. Each of these batches is a shard.
            clustering: Options of the clustering.
            options: Options of the build.
            regions: Regions of the parts, with which the catalog is annotated. Their areas also choose among the
                restarts of k-means, unless `clustering.run` does: the restart in which most parts have clusters, among
                several the one whose parts have the largest mean overlap with their areas and, among several of these
                or if no area counts, the one with the best objective. `provenance["overlaps"]` has the overlaps of
                every restart, `intersection / union` of the occupancy of a part and of its area. Lists of ids, empty
                areas, and areas that contain another area but do not equal it, such as the skin, do not count.
            centroids: Centroids of known clusters, [K, C]. They are normalised, and k-means is not run. They
                exclude `method="nmf"`.
            contribution_images: Number of images on which M is measured, from the start of `w`. The default is N.
            backend: Name of a backend, as in `stylefast.assign`.
            progress: Whether to show a progress bar; or a function of (stage, units that are done, total) that rank 0
                calls after every batch and every step of k-means. An exception that it raises ends the build.
            group: Process group whose ranks share the build. The default is this process alone. All ranks call this
                method with the same arguments and the same workdir, and work on different shards. All ranks return the
                same catalog, which equals the catalog of a single process up to rounding. A group of several ranks
                excludes `method="nmf"`.

        Returns:
            The catalog, with the parts of `regions`.

        Raises:
            TypeError: If `w` is an iterator, which cannot be read again, or `clustering` or `options` has another type.
            ValueError: If there is no such layer, there are no images or fewer points than clusters (with "nmf",
                fewer channels), an option is out of range or excludes another one, `annotate` refuses the `regions`,
                `centroids` have another width, are zero or are not finite, activations are not finite or too large for
                `options.dtype`, or a file in the workdir is damaged or belongs to another build.

        References:
            Collins et al., "Editing in Style: Uncovering the Local Semantics of GANs", CVPR 2020, section 3.
        """
        check_options(clustering, options, contribution_images)
        ranks = Ranks(group)
        layer = layer_of(generator, clustering)
        check_factorization(clustering, generator, layer, known=centroids is not None, ranks=ranks.size)
        estimator = estimator_of(clustering, backend)
        known = None if centroids is None else Clusters(directions(centroids, generator, layer)[None], 0, {})
        check_regions(regions or {}, clustering.n_clusters if known is None else known.runs.shape[1])
        latents = LatentShards.scan(w, options.shard_images, ranks)
        n_measured = count_measured(contribution_images, latents.n_images)
        with Build(generator, latents, layer, estimator, n_measured, options, ranks=ranks, progress=progress) as build:
            build.collect()
            runs, run, fitted = known or build.cluster(clustering, regions)
            contributions, occupancy = build.measure(runs[run].clone())
        images = {"images": latents.n_images, "contribution_images": n_measured}
        catalog = cls(
            generator=generator.name,
            fingerprint=dict(generator.fingerprint),
            sites=generator.sites,
            layer=layer,
            features=clustering.features,
            centroids=runs[run].clone().cpu(),
            runs=runs.cpu(),
            contributions=contributions.div(n_measured).float(),
            occupancy=occupancy.double().div(latents.n_images).float(),
            provenance={**images, **fitted, "torch": torch.__version__, **generator.precision},
            seconds=build.seconds,
            method=clustering.method,
        )
        return catalog if regions is None else catalog.annotate(regions)

    @property
    def n_clusters(self) -> int:
        """Number of clusters K."""
        return len(self.centroids)

    def __repr__(self) -> str:
        return f"Catalog({self.generator!r}, layer={self.layer!r}, K={self.n_clusters}, parts={list(self.parts)})"

    def annotate(self, regions: Mapping[str, Region], *, threshold: float = THRESHOLD) -> Catalog:
        """Name clusters. The new names replace all previous names.

        The region of a part is either a list of cluster ids, or an area of the mean image: boxes (x from, y from,
        x to, y to) as fractions of the frame, or a mask [h', w'] of weights in [0, 1]. The mass of a cluster is the
        number of positions with its label, over all images. A cluster belongs to the first area that contains more than
        the fraction `threshold` of its mass, unless its id is listed for a part. An area without such a cluster gets
        the one of which it contains the largest fraction, among those without a name. So a part is empty only if its
        area contains nothing of them.

        Args:
            regions: Region of each part, by the name of the part.
            threshold: Fraction of the mass of a cluster, in [0, 1).

        Returns:
            The catalog itself.

        Raises:
            ValueError: If an id is out of range or belongs to two parts, a list of ids is empty, or a box, a mask or
                the threshold is out of range.
        """
        self.parts = name_clusters(regions, self.occupancy, threshold)
        return self

    def contribution(self, part: str) -> Tensor:
        """Return M of a part, the sum over the rows of its clusters: [S] float32.

        Raises:
            ValueError: If the part is unknown or has no clusters. The message lists the parts of the catalog.
        """
        return self.contributions[self.clusters(part)].sum(0)

    def clusters(self, part: str) -> list[int]:
        """Return the ids of the clusters of a part.

        Raises:
            ValueError: If the part is unknown or has no clusters. The message lists the parts of the catalog.
        """
        return clusters_of(part, self.parts)

    def labels(
        self, generator: Generator, w: Tensor, *, size: tuple[int, int] | None = None, backend: str | None = None
    ) -> Tensor:
        """Return the labels of images, [N, h, w] int32: those of the clustered layer, or of an interpolation of it.

        With another size than that of the layer, label(i) is that of the point `sum_j r_ij x_j`, for the points x_j of
        the layer and the weights r_ij of the bilinear resize (`align_corners=False`). Outlines of clusters then follow
        the image instead of the grid of the layer. A zero point has label 0, and ties go to the lowest label. With
        `method="nmf"`, the label is the cluster with the largest membership after the resize.

        Args:
            generator: Generator of the catalog.
            w: Latents of the N images, as `Generator.latents` returns them.
            size: Height and width of the result, such as those of the image. The default is the size of the layer.
            backend: Name of a backend, as in `stylefast.assign`. It computes labels at the size of the layer only.

        Raises:
            ValueError: If `size` is not two integers >= 1, or an activation is not finite with `method="nmf"`.
        """
        size = None if size is None else check_size(size)
        if self.method == "nmf":
            u = self.memberships(generator, w, backend=backend)
            return resized_argmax(u, size or (u.shape[2], u.shape[3]))
        (activations,) = generator.activations(w, [self.layer]).values()
        centroids = self.centroids.to(activations.device)
        if size not in (None, tuple(activations.shape[2:])):
            return smooth_labels(activations, centroids, self.features, size)
        return assign(activations, centroids, features=self.features, backend=backend).labels

    def memberships(
        self, generator: Generator, w: Tensor, *, size: tuple[int, int] | None = None, backend: str | None = None
    ) -> Tensor:
        """Return how much of each position belongs to each cluster, [N, K, h, w] float32.

        With `method="nmf"`, they are the memberships of the factorisation, divided by their sum over the clusters and
        then resized bilinearly; a position without membership has 0 in all clusters. With "kmeans", they are the
        one-hot encoding of `labels` of the same size.

        Args:
            generator: Generator of the catalog.
            w: Latents of the N images, as `Generator.latents` returns them.
            size: Height and width of the result. The default is the size of the layer.
            backend: Name of a backend, as in `labels`.

        Raises:
            ValueError: As in `labels`.
        """
        if self.method == "kmeans":
            labels = self.labels(generator, w, size=size, backend=backend)
            return torch.stack([labels == k for k in range(self.n_clusters)], dim=1).float()
        size = None if size is None else check_size(size)
        (activations,) = generator.activations(w, [self.layer]).values()
        u = normalized_memberships(activations, self.centroids.to(activations.device), backend=backend)
        return u if size is None else interpolate(u, size=size, mode="bilinear", align_corners=False)

    def part_map(self, labels: Tensor, part: str) -> Tensor:
        """Return the positions whose label belongs to a part, a bool tensor with the shape of `labels`."""
        return torch.isin(labels, torch.tensor(self.clusters(part), dtype=labels.dtype, device=labels.device))

    def check(self, generator: Generator) -> None:
        """Check that the catalog belongs to a generator.

        Raises:
            ValueError: If it belongs to another generator. The message names the first difference.
        """
        check_match(self.generator, self.sites, self.fingerprint, generator)

    def save(self, path: PathLike) -> None:
        """Write a .safetensors file. The file is written completely or not at all; equal catalogs give equal bytes.

        Raises:
            ValueError: If the fields do not fit together: a shape, a dtype, NaN or Inf, or ids of a part out of range.
        """
        write_catalog(path, vars(self))

    @classmethod
    def load(cls, path: PathLike, generator: Generator | None = None) -> Catalog:
        """Read a catalog, and check that it belongs to `generator` if one is given.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the path is no regular file, the file is damaged or is not a catalog, its fields do not fit
                together, or the catalog belongs to another generator. The message names the file.
        """
        catalog = cls(**read_catalog(path))
        if generator is not None:
            try:
                catalog.check(generator)
            except ValueError as error:
                raise ValueError(f"{os.fspath(path)} cannot be used: {error}") from error
        return catalog
