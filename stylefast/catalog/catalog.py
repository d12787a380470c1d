# SPDX-License-Identifier: Apache-2.0
"""A catalog: clusters of a generator's activations, their names, and what every style channel contributes to each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from ..core.checks import as_tensor, check_choice, check_integer, check_type
from ..core.dtypes import Array
from ..distributed import Ranks
from ..generators import Generator, Site
from ..io.atomic import PathLike
from ..io.tensors import read_tensors, write_tensors
from ..kmeans import SphericalKMeans
from ..ops.assign import assign
from .build import Build
from .latents import LatentShards
from .options import BuildOptions, Clustering
from .regions import Region, name_clusters

FORMAT = "stylefast-catalog-2"


@dataclass(eq=False)
class Catalog:
    """What is known of one generator's channels; `Catalog.build` makes one, `load` reads one.

    Args:
        generator: the generator's name.
        fingerprint: of its sites and weights, as `Generator.fingerprint` gives it.
        sites: its sites.
        layer: key of the tensor that is clustered.
        features: "raw", "standardized" or "squared", as in `stylefast.assign`.
        centroids: [K, C] float32, unit norm.
        runs: [B, K, C] float32: the centroids of every restart, in the order of `provenance["objectives"]`.
        contributions: M [K, S] float32, every site's columns where its styles lie.
        occupancy: [K, h, w] float32: the fraction of images in which a position of the layer has the cluster's label.
        parts: name -> cluster ids.
        provenance: how the catalog was made, as JSON can hold it.
        seconds: what the stages of the build took; not saved.
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

    @classmethod
    def build(
        cls,
        generator: Generator,
        w: Tensor | Iterable[Any],
        clustering: Clustering = Clustering(),
        options: BuildOptions = BuildOptions(),
        *,
        centroids: Array | None = None,
        contribution_images: int | None = None,
        backend: str | None = None,
        progress: bool = True,
        group: ProcessGroup | None = None,
    ) -> Catalog:
        """Clusters one layer's activations of N images, then measures M at every site while the generator runs again.

        Memory: without a workdir the clustered layer's activations of all images, else those of three shards, and one
        batch of any other layer at a time. Sites that read the same tensor are measured once. M is the mean over images
        of equation 1, with labels resized bilinearly.

        Args:
            generator: computes activations.
            w: latents of the N images, as `generator.latents` returns them; or an iterable of batches of latents that
                yields the same batches every time, each of which is a shard.
            clustering: which activations are clustered, and how.
            options: how the build runs.
            centroids: [K, C] of known clusters: their directions are taken, and nothing is clustered.
            contribution_images: number of images that M is measured on, the first ones; default: all images.
            backend: as in `stylefast.assign`.
            progress: whether to show a progress bar once two seconds have passed.
            group: process group whose ranks share the build: all call it with the same arguments, each works on some of
                the shards, and all get the same catalog, that of one process to rounding; they share the workdir.

        Raises:
            TypeError: w is an iterator, which cannot be read again; clustering or options of another type.
            ValueError: no such layer, centroids of another width, zero or not finite, no images, fewer points than
                clusters, activations or M with NaN or Inf, activations that dtype cannot hold, a file in workdir that
                is damaged or of another build.

        Source: "Editing in Style" (Collins et al., CVPR 2020), section 3.
        """
        _check_options(clustering, options, contribution_images)
        ranks = Ranks(group)
        latents = LatentShards.scan(w, options.shard_images, ranks)
        n_measured = min(contribution_images or latents.n_images, latents.n_images)
        layer = _layer(generator, clustering)
        kmeans = SphericalKMeans(
            clustering.n_clusters,
            n_init=clustering.n_init,
            seed=clustering.seed,
            features=clustering.features,
            backend=backend,
        )
        runs = None if centroids is None else _directions(centroids, generator, layer)[None]  # [1, K, C]
        build = Build(generator, latents, layer, kmeans, n_measured, options, ranks=ranks, progress=progress)
        build.collect()
        provenance: dict[str, Any] = {"images": latents.n_images, "contribution_images": n_measured}
        run = 0
        if runs is None:
            build.cluster()
            objectives = [restart.objective for restart in kmeans.runs_]
            run = objectives.index(max(objectives)) if clustering.run is None else clustering.run
            runs = torch.stack([torch.as_tensor(restart.centroids).float() for restart in kmeans.runs_])
            provenance |= {"seed": clustering.seed, "run": run, "objectives": objectives}
            provenance["n_reseeded"] = kmeans.n_relocated_
        contributions, occupancy = build.measure(runs[run].clone())
        return cls(
            generator=generator.name,
            fingerprint=dict(generator.fingerprint),
            sites=generator.sites,
            layer=layer,
            features=clustering.features,
            centroids=runs[run].clone().cpu(),
            runs=runs.cpu(),
            contributions=contributions.div(n_measured).float(),
            occupancy=occupancy.double().div(latents.n_images).float(),
            provenance={**provenance, "torch": torch.__version__, **generator.precision},
            seconds=build.seconds,
        )

    @property
    def n_clusters(self) -> int:
        """K."""
        return len(self.centroids)

    def annotate(self, regions: Mapping[str, Region], *, threshold: float = 0.5) -> Catalog:
        """Names clusters, in place of the names so far.

        A region is a list of cluster ids, or a place on the mean image: boxes (x from, y from, x to, y to) as fractions
        of the frame, or a mask [h', w'] of weights in [0, 1]. A cluster belongs to the first place that holds more than
        `threshold` of its mass (the images' pixels that carry its label), unless an id names it.

        Args:
            regions: part name -> region.
            threshold: of a cluster's mass.

        Returns:
            The catalog itself.

        Raises:
            ValueError: an id out of range or in two parts, an empty part given by ids, a box or mask out of range.
        """
        self.parts = name_clusters(regions, self.occupancy, threshold)
        return self

    def contribution(self, part: str) -> Tensor:
        """M of a part, the sum of its clusters' rows: [S] float32.

        Raises: ValueError with the parts there are, if this is none of them or has no clusters.
        """
        return self.contributions[self.clusters(part)].sum(0)

    def clusters(self, part: str) -> list[int]:
        """The ids of a part's clusters. Raises ValueError if there is no such part or it has no clusters."""
        if not self.parts.get(part):
            parts = ", ".join(f"{name} {ids}" for name, ids in self.parts.items()) or "none; annotate the catalog first"
            raise ValueError(f"part must be one with clusters, got {part!r}; parts: {parts}")
        return self.parts[part]

    def labels(self, generator: Generator, w: Tensor, *, backend: str | None = None) -> Tensor:
        """The clusters of images: labels [N, h, w] int32 on the clustered layer."""
        (activations,) = generator.activations(w, [self.layer]).values()
        centroids = self.centroids.to(activations.device)
        return assign(activations, centroids, features=self.features, backend=backend).labels

    def part_map(self, labels: Tensor, part: str) -> Tensor:
        """Where a part is: bool, of the shape of `labels`."""
        return torch.isin(labels, torch.tensor(self.clusters(part), dtype=labels.dtype, device=labels.device))

    def check(self, generator: Generator) -> None:
        """Raises ValueError that names the first difference, if the catalog belongs to another generator."""
        for site, actual in zip(self.sites, generator.sites, strict=False):
            if site != actual:
                raise ValueError(
                    f"catalog of {self.generator!r} does not belong to generator {generator.name!r}: "
                    f"the first site that differs is {site.name} {site.size} x {site.channels} in the catalog, "
                    f"{actual.name} {actual.size} x {actual.channels} in the generator"
                )
        if len(self.sites) != len(generator.sites):
            counts = f"{len(self.sites)} sites in the catalog, {len(generator.sites)} in the generator"
            raise ValueError(f"catalog of {self.generator!r} does not belong to generator {generator.name!r}: {counts}")
        if self.fingerprint != generator.fingerprint:
            raise ValueError(f"catalog of {self.generator!r} does not belong to {generator.name!r}: other weights")

    def save(self, path: PathLike) -> None:
        """Writes a safetensors file, whole or not at all; equal catalogs give equal bytes."""
        header = {name: getattr(self, name) for name in _HEADER} | {"sites": [asdict(site) for site in self.sites]}
        write_tensors(path, FORMAT, {name: getattr(self, name) for name in _TENSORS}, catalog=header)

    @classmethod
    def load(cls, path: PathLike, generator: Generator | None = None) -> Catalog:
        """Reads a catalog, and checks that it belongs to `generator` if one is given.

        Raises: FileNotFoundError; ValueError that names what is a folder, truncated, foreign or of another generator.
        """
        tensors, header = read_tensors(path, FORMAT)
        try:
            fields: dict[str, Any] = {**header["catalog"], **tensors}
            fields["sites"] = tuple(Site(**{**site, "size": tuple(site["size"])}) for site in fields["sites"])
            catalog = cls(**fields)
            if generator is not None:
                catalog.check(generator)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} cannot be used: {error}") from error
        return catalog


_TENSORS = ("centroids", "runs", "contributions", "occupancy")
_HEADER = ("generator", "fingerprint", "layer", "features", "parts", "provenance")


def _check_options(clustering: Clustering, options: BuildOptions, contribution_images: int | None) -> None:
    check_type("clustering", clustering, Clustering, "Clustering(n_clusters=32)")
    check_type("options", options, BuildOptions, "BuildOptions(batch_size=8)")
    check_integer("batch_size", options.batch_size, 1)
    check_integer("shard_images", options.shard_images, 1)
    check_choice("dtype", options.dtype, ("float32", "float16", "bfloat16"))
    if contribution_images is not None:
        check_integer("contribution_images", contribution_images, 1)
    if clustering.run is not None and not 0 <= clustering.run < clustering.n_init:
        raise ValueError(f"run must be in [0, {clustering.n_init}), got {clustering.run}")


def _directions(centroids: Array, generator: Generator, layer: str) -> Tensor:
    """Given centroids at unit norm: [K, C] float32."""
    channels = next(site.channels for site in generator.sites if site.tensor == layer)
    vectors = as_tensor("centroids", centroids, "[K, C]", 2, 2).double()
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    if vectors.shape[1] != channels or not (norms.isfinite() & (norms > 0)).all():
        expected = f"[K, C] with C = {channels} to match layer {layer}, finite and not zero"
        raise ValueError(f"centroids must have shape {expected}, got {tuple(centroids.shape)}")
    return (vectors / norms).float().to(generator.device)


def _layer(generator: Generator, clustering: Clustering) -> str:
    """The key of the tensor to cluster."""
    if clustering.layer is not None:
        return generator.select([clustering.layer])[0].tensor
    convs = [site for site in generator.sites if site.kind == "conv"]
    tensors = [site.tensor for site in convs if site.size[0] == clustering.resolution]
    if not tensors:
        sizes = ", ".join(f"{h}x{w}" for h, w in sorted({site.size for site in convs}))
        raise ValueError(
            f"resolution must be that of a layer of {generator.name} ({sizes}), got {clustering.resolution}"
        )
    return tensors[-1]
