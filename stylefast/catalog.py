# SPDX-License-Identifier: Apache-2.0
"""A catalog: clusters of a generator's activations, their names, and what every style channel contributes to each."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from .clock import Clock
from .files import replacing
from .generators import Generator, Site
from .kmeans import SphericalKMeans
from .ops.assign import assign
from .ops.contribution import contribution
from .regions import Region, name_clusters

FORMAT = "stylefast-catalog-1"


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
        occupancy: [K, h, w] float32: the share of images in which a position of the layer has the cluster's label.
        parts: name -> cluster ids.
        provenance: how the catalog was made, as JSON can hold it.
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

    @classmethod
    def build(
        cls,
        generator: Generator,
        w: Tensor,
        *,
        n_clusters: int = 32,
        layer: str | None = None,
        resolution: int = 16,
        features: str = "raw",
        n_init: int = 8,
        seed: int = 0,
        run: int | None = None,
        contribution_images: int | None = None,
        batch_size: int = 4,
        backend: str | None = None,
        progress: bool = True,
    ) -> Catalog:
        """Clusters one layer's activations of N images, then measures M at every site while the generator runs again.

        Memory: the clustered layer's activations of all images, and one batch of any other layer at a time. Sites that
        read the same tensor are measured once. M is the mean over images of equation 1, with labels resized bilinearly.

        Args:
            generator: where activations come from.
            w: latents of the N images, as `generator.latents` gives them.
            n_clusters: K.
            layer: name of a site that reads the tensor to cluster; default: the last one of `resolution` rows.
            resolution: rows of the tensor to cluster, if `layer` is None.
            features, n_init, seed, backend: as in `SphericalKMeans`.
            run: which restart's clusters to take; default: the one with the best objective.
            contribution_images: the first so many images measure M; default: all.
            batch_size: images a forward pass.
            progress: show progress bars on anything longer than two seconds.

        Raises:
            ValueError: no such layer, no images, fewer points than clusters, activations or M with NaN or Inf.

        Source: "Editing in Style" (Collins et al., CVPR 2020), section 3.
        """
        n_measured = len(w) if contribution_images is None else min(contribution_images, len(w))
        for name, n in (("the rows of w", len(w)), ("batch_size", batch_size), ("contribution_images", n_measured)):
            if n < 1:
                raise ValueError(f"{name} must be >= 1, got {n}")
        if run is not None and not 0 <= run < n_init:
            raise ValueError(f"run must be in [0, {n_init}), got {run}")
        kmeans = SphericalKMeans(n_clusters, n_init=n_init, seed=seed, features=features, backend=backend)
        layer = layer or _layer_of(generator, resolution)
        clock = Clock()
        batches = tqdm(total=len(w) + n_measured, desc="catalog", unit="image", delay=2, disable=not progress)

        layer, points = _collect(generator, w, layer, batch_size, batches, clock)
        with clock.running("clustering"):
            kmeans.fit(points, progress=progress)
            run = max(range(n_init), key=lambda i: kmeans.runs_[i].objective) if run is None else run
            centroids = kmeans.runs_[run].centroids.float()
            labels = assign(points, centroids, features=features, backend=backend).labels  # [N, h, w]
            occupancy = torch.stack([(labels == k).float().mean(0) for k in range(n_clusters)])  # [K, h, w]
        del points

        totals = _measure(generator, w[:n_measured], labels, n_clusters, batch_size, backend, batches, clock)
        batches.close()
        return cls(
            generator=generator.name,
            fingerprint=dict(generator.fingerprint),
            sites=generator.sites,
            layer=layer,
            features=features,
            centroids=centroids.cpu(),
            runs=torch.stack([r.centroids.float() for r in kmeans.runs_]).cpu(),
            contributions=torch.cat([totals[site.tensor] for site in generator.sites], 1).div(n_measured).float().cpu(),
            occupancy=occupancy.cpu(),
            provenance={
                "images": len(w),
                "contribution_images": n_measured,
                "seed": seed,
                "run": run,
                "objectives": [r.objective for r in kmeans.runs_],
                "n_reseeded": kmeans.n_reseeded_,
                "torch": torch.__version__,
                "seconds": {name: round(value, 3) for name, value in clock.seconds.items()},
            },
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
            known = ", ".join(f"{name} {ids}" for name, ids in self.parts.items()) or "none; annotate the catalog first"
            raise ValueError(f"part must be one with clusters, got {part!r}; parts: {known}")
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
        for mine, theirs in zip(self.sites, generator.sites, strict=False):
            if mine != theirs:
                raise ValueError(
                    f"catalog of {self.generator!r} does not belong to generator {generator.name!r}: "
                    f"the first site that differs is {mine.name} {mine.size} x {mine.channels} in the catalog, "
                    f"{theirs.name} {theirs.size} x {theirs.channels} in the generator"
                )
        if len(self.sites) != len(generator.sites):
            counts = f"{len(self.sites)} sites in the catalog, {len(generator.sites)} in the generator"
            raise ValueError(f"catalog of {self.generator!r} does not belong to generator {generator.name!r}: {counts}")
        if self.fingerprint != generator.fingerprint:
            raise ValueError(f"catalog of {self.generator!r} does not belong to {generator.name!r}: other weights")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file, whole or not at all."""
        tensors = {name: getattr(self, name).clone(memory_format=torch.contiguous_format) for name in _TENSORS}
        header = {name: getattr(self, name) for name in _HEADER} | {"sites": [asdict(site) for site in self.sites]}
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"format": FORMAT, "catalog": json.dumps(header)})

    @classmethod
    def load(cls, path: str | os.PathLike[str], generator: Generator | None = None) -> Catalog:
        """Reads a catalog, and checks that it belongs to `generator` if one is given.

        Raises: FileNotFoundError; ValueError that names what is a folder, truncated, foreign or of another generator.
        """
        try:
            if os.path.isdir(path):
                raise ValueError("it is a folder")
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
                header = json.loads(metadata["catalog"])
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
            header["sites"] = tuple(Site(**{**site, "size": tuple(site["size"])}) for site in header["sites"])
            catalog = cls(**header, **tensors)
            if generator is not None:
                catalog.check(generator)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} is no catalog that can be used: {error}") from error
        return catalog


_TENSORS = ("centroids", "runs", "contributions", "occupancy")
_HEADER = ("generator", "fingerprint", "layer", "features", "parts", "provenance")


def _layer_of(generator: Generator, resolution: int) -> str:
    convs = [site for site in generator.sites if site.kind == "conv"]
    fitting = [site.tensor for site in convs if site.size[0] == resolution]
    if not fitting:
        sizes = ", ".join(f"{h}x{w}" for h, w in sorted({site.size for site in convs}))
        raise ValueError(f"resolution must be that of a layer of {generator.name} ({sizes}), got {resolution}")
    return fitting[-1]


def _collect(
    generator: Generator, w: Tensor, layer: str, batch_size: int, batches: Any, clock: Clock
) -> tuple[str, Tensor]:
    """The key of a layer's tensor and the tensor of all images [N, C, h, w]."""
    points = None
    for begin in range(0, len(w), batch_size):
        with clock.running("generator"):
            ((layer, batch),) = generator.activations(w[begin : begin + batch_size], [layer]).items()
        points = batch.new_empty(len(w), *batch.shape[1:]) if points is None else points
        points[begin : begin + len(batch)] = batch
        batches.update(len(batch))
    assert points is not None
    return layer, points


def _measure(
    generator: Generator,
    w: Tensor,
    labels: Tensor,
    n_clusters: int,
    batch_size: int,
    backend: str | None,
    batches: Any,
    clock: Clock,
) -> dict[str, Tensor]:
    """N M [K, C] float64 of every distinct tensor."""
    normalized = {site.tensor: site.normalized for site in generator.sites}
    totals: dict[str, Tensor] = {}
    for begin in range(0, len(w), batch_size):
        batch = w[begin : begin + batch_size]
        batch_labels = labels[begin : begin + len(batch)]  # of more images than w has

        def add(key: str, tensor: Tensor, batch_labels: Tensor = batch_labels) -> None:
            with clock.running("contribution"):
                m = contribution(
                    tensor, batch_labels, n_clusters, standardize=not normalized[key], per_image=False, backend=backend
                )
                totals[key] = totals.get(key, torch.zeros_like(m, dtype=torch.float64)) + m.double() * len(batch_labels)

        with clock.running("generator"):
            generator.visit(batch, add)
        for site in generator.sites:
            if not totals[site.tensor].isfinite().all():
                where = f"in the batch of images {begin} to {begin + len(batch) - 1}"
                raise ValueError(f"activations of site {site.name} must be finite, got NaN or Inf {where}")
        batches.update(len(batch))
    clock.seconds["generator"] -= clock.seconds.get("contribution", 0.0)
    return totals
