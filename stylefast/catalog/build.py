# SPDX-License-Identifier: Apache-2.0
"""How a catalog is built: activations of one layer, clusters, then M; every step can be shared and taken up again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ..core.clock import Clock
from ..distributed import Ranks
from ..generators import Generator
from ..io.tensors import checksum, read_tensors, write_tensors
from ..kmeans import SphericalKMeans
from ..ops.assign import assign
from ..ops.contribution import contribution
from .latents import Latents

FORMAT = "stylefast-shard-1"


class Measured(NamedTuple):
    """Sums over images: M [K, S] float64, and how often a position has a label [K, h, w] int64."""

    contributions: Tensor
    occupancy: Tensor


class Build:
    """The steps of one build, in order: `collect`, `cluster`, `measure`.

    With a workdir each step leaves its results there shard by shard, and takes what it finds there; without, the
    activations of this rank's images are kept in memory until they are labelled.

    Args:
        generator, batch_size, dtype, workdir, progress: as in `Catalog.build`.
        latents: of all images.
        layer: key of the tensor that is clustered.
        kmeans: what clusters it.
        n_measured: how many images M is measured on.
        ranks: those that share the build.
    """

    def __init__(
        self,
        generator: Generator,
        latents: Latents,
        layer: str,
        kmeans: SphericalKMeans,
        n_measured: int,
        *,
        batch_size: int,
        dtype: torch.dtype,
        workdir: Path | None,
        ranks: Ranks,
        progress: bool,
    ) -> None:
        self.generator, self.latents, self.layer, self.kmeans = generator, latents, layer, kmeans
        self.n_measured, self.batch_size, self.workdir, self.ranks = n_measured, batch_size, workdir, ranks
        self.dtype, self.progress, self.clock = dtype, progress, Clock()
        total = latents.n_mine + sum(self._measured(shard) for shard in latents.mine)
        off = not progress or ranks.rank > 0
        self.bar = tqdm(total=total, desc="catalog", unit="image", delay=2, disable=off)
        site = next(site for site in generator.sites if site.tensor == layer)
        self.shape = (site.channels, *site.size)
        self.kept: Tensor | None = None
        self.labels: Tensor | None = None  # [N, h, w] of this rank's images, once activations need not be kept

    def collect(self) -> None:
        """Runs the generator up to the layer that is clustered; keeps or writes its activations."""
        if self.workdir is None:
            self.kept = self._empty(self.latents.n_mine)
        for shard, w in self.latents:
            if self.kept is not None:
                first = self.latents.begins[shard] - self.latents.first
                self._run(shard, w, self.kept[first : first + len(w)])
            elif (path := self._path("activations", shard)).exists():
                read_tensors(path, FORMAT, provenance=self._of(w))  # raises if it is damaged or another's
                self.bar.update(len(w))
            else:
                activations = self._run(shard, w, self._empty(len(w)))
                write_tensors(path, FORMAT, {"activations": activations}, provenance=self._of(w))

    def cluster(self) -> None:
        """Fits k-means to the activations of all ranks."""
        checkpoint = None if self.workdir is None else self.workdir / "kmeans.safetensors"
        data = Shards(self) if self.kept is None else self.kept
        with self.clock.running("clustering"):
            self.kmeans.fit(data, progress=self.progress, checkpoint=checkpoint, group=self.ranks.group)

    def measure(self, centroids: Tensor) -> Measured:
        """Labels the activations and runs the generator to its end: M of all sites, where the clusters lie."""
        if self.kept is not None:
            with self.clock.running("clustering"):
                self.labels, self.kept = self._assign(self.kept, centroids), None
        k = len(centroids)
        zeros = torch.zeros(k, self.generator.style_width, dtype=torch.float64)
        total = Measured(zeros, torch.zeros(k, *self.shape[1:], dtype=torch.int64))
        of = {"centroids": checksum({"": centroids}), "features": self.kmeans.features}
        for shard, w in self.latents:
            belongs = of | self._of(w) | {"measured": self._measured(shard)}
            if self.workdir is not None and (path := self._path("contributions", shard)).exists():
                found = Measured(**read_tensors(path, FORMAT, provenance=belongs)[0])
                self.bar.update(self._measured(shard))
            else:
                found = self._measure(shard, w, centroids)
                if self.workdir is not None:
                    write_tensors(self._path("contributions", shard), FORMAT, found._asdict(), provenance=belongs)
            total = Measured(*(a + b for a, b in zip(total, found, strict=True)))
        self.bar.close()
        if "contribution" in (seconds := self.clock.seconds):  # ran within the generator
            seconds["generator"] -= seconds["contribution"]
        return Measured(*self.ranks.total(*total))

    def read(self, shard: int) -> Tensor:
        """The activations that were written for a shard: [n, C, h, w]."""
        tensors, _ = read_tensors(self._path("activations", shard), FORMAT)
        return tensors["activations"].to(self.generator.device)

    def _empty(self, n: int) -> Tensor:
        return torch.empty(n, *self.shape, dtype=self.dtype, device=self.generator.device)

    def _run(self, shard: int, w: Tensor, into: Tensor) -> Tensor:
        """Fills `into` with the activations of a shard's images."""
        for begin in range(0, len(w), self.batch_size):
            with self.clock.running("generator"):
                (batch,) = self.generator.activations(w[begin : begin + self.batch_size], [self.layer]).values()
            rows = into[begin : begin + len(batch)].copy_(batch)
            if batch.dtype != self.dtype and batch.isfinite().all() and not rows.isfinite().all():
                raise ValueError(
                    f"dtype must be one that holds activations up to {batch.abs().max():g}, as "
                    f"{self._images(shard, begin, len(batch))} have, got {self.dtype}"
                )
            self.bar.update(len(batch))
        return into

    def _assign(self, activations: Tensor, centroids: Tensor) -> Tensor:
        features, backend = self.kmeans.features, self.kmeans.backend
        return assign(activations, centroids, features=features, backend=backend).labels

    def _measure(self, shard: int, w: Tensor, centroids: Tensor) -> Measured:
        """A shard's part of the sums."""
        k, n = len(centroids), self._measured(shard)
        first = self.latents.begins[shard] - self.latents.first
        known = None if self.labels is None else self.labels[first : first + len(w)]
        labels = self._assign(self.read(shard), centroids) if known is None else known
        occupancy = torch.stack([(labels == i).sum(0) for i in range(k)])  # [K, h, w]
        normalized = {site.tensor: site.normalized for site in self.generator.sites}
        totals: dict[str, Tensor] = {}
        for begin in range(0, n, self.batch_size):
            batch = w[begin : min(n, begin + self.batch_size)]
            rows = labels[begin : begin + len(batch)]

            def add(key: str, tensor: Tensor, rows: Tensor = rows) -> None:
                with self.clock.running("contribution"):
                    m = contribution(tensor, rows, k, standardize=not normalized[key], backend=self.kmeans.backend)
                    totals[key] = totals.get(key, torch.zeros_like(m, dtype=torch.float64)) + m.double() * len(rows)

            with self.clock.running("generator"):
                self.generator.visit(batch, add)
            for site in self.generator.sites:
                if not totals[site.tensor].isfinite().all():
                    where = f"in the batch of {self._images(shard, begin, len(batch))}"
                    raise ValueError(f"activations of site {site.name} must be finite, got NaN or Inf {where}")
            self.bar.update(len(batch))
        sums = [totals.get(site.tensor, torch.zeros(k, site.channels).double()) for site in self.generator.sites]
        return Measured(torch.cat(sums, 1).cpu(), occupancy.cpu())

    def _measured(self, shard: int) -> int:
        """How many images of a shard M is measured on."""
        begin, end = self.latents.begins[shard : shard + 2]
        return max(0, min(end, self.n_measured) - begin)

    def _images(self, shard: int, begin: int, n: int) -> str:
        first = self.latents.begins[shard] + begin
        return f"images {first} to {first + n - 1}"

    def _path(self, stem: str, shard: int) -> Path:
        assert self.workdir is not None
        return self.workdir / f"{stem}-{shard:05}-of-{len(self.latents):05}.safetensors"

    def _of(self, w: Tensor) -> dict[str, Any]:
        """What the activations of a shard follow from."""
        latents = checksum({"w": w})
        of = {"generator": self.generator.fingerprint, "layer": self.layer, "dtype": str(self.dtype), "w": latents}
        return of | self.generator.precision


class Shards:
    """The activations that this rank has written, as a stream."""

    def __init__(self, build: Build) -> None:
        self.build = build

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.build.read, self.build.latents.mine)
