# SPDX-License-Identifier: Apache-2.0
"""The three steps of a build: activations of one layer, clusters, contributions M.

Ranks can share each step, and a build that was stopped resumes from its workdir.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.progress import Progress, progress_bar
from ..distributed import Ranks
from ..factorization import NMF
from ..generators import Generator
from ..io.atomic import make_folder
from ..io.private import folder_lock
from ..io.schema import TensorSpec
from ..io.tensors import checksum, write_tensors
from ..ops.assign import assign
from ..ops.contribution import contribution
from .clusters import Clusters, Estimator, MiniBatches, StoredActivations, fitted_clusters
from .latents import LatentShards
from .memberships import normalized_memberships
from .options import BuildOptions, Clustering
from .regions import Region
from .sums import FORMAT, Sums, read_shard, sum_over_images, sums_specs


class Build:
    """Context of one build, in which its steps are called in this order: `collect`, `cluster`, `measure`.

    With a workdir, the steps write their results to it and reuse the results that they find there. Without a workdir,
    the activations of this rank's images stay in memory until they are labelled.

    Args:
        generator: Generator that computes the activations.
        latents: Latents of all images.
        layer: Key of the tensor to cluster.
        estimator: Estimator that clusters or factorises the tensor.
        n_measured: Number of images on which M is measured, from the start of the latents.
        options: Options of the build.
        ranks: Ranks that share the build.
        progress: Progress of the build, as in `Catalog.build`.

    Attributes:
        seconds: Duration of each stage so far, in seconds.

    Raises:
        ValueError: If the context is entered while another build uses the workdir.
    """

    def __init__(
        self,
        generator: Generator,
        latents: LatentShards,
        layer: str,
        estimator: Estimator,
        n_measured: int,
        options: BuildOptions,
        *,
        ranks: Ranks,
        progress: Progress,
    ) -> None:
        self._generator, self._latents, self._layer, self._estimator = generator, latents, layer, estimator
        self._n_measured, self._batch_size, self._ranks, self._progress = (
            n_measured,
            options.batch_size,
            ranks,
            progress,
        )
        self._workdir = None if options.workdir is None else Path(options.workdir)
        self._dtype: torch.dtype = getattr(torch, options.dtype)
        self._occupancy_dtype = torch.float64 if isinstance(estimator, NMF) else torch.int64
        self.seconds: dict[str, float] = {}
        self._lock = ExitStack()
        total = latents.n_local_images + sum(map(self._count_measured, latents.local))
        self._bar = progress_bar(total, "catalog", "image", shown=ranks.rank == 0 and progress)
        site = next(site for site in generator.sites if site.tensor == layer)
        self._shape = (site.channels, *site.size)
        self._activations: Tensor | None = None  # of this rank's images, without a workdir
        self._assigned: Tensor | None = None  # of this rank's images, after their activations are dropped

    def __enter__(self) -> Build:
        locked = None
        if self._workdir is not None and self._ranks.rank == 0:
            make_folder(self._workdir)
            locked = self._lock.enter_context(folder_lock(self._workdir, wait=False))
        if self._ranks.broadcast(locked) is False:
            self._lock.close()
            raise ValueError(f"workdir must not be used by two builds at the same time, got {self._workdir}")
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()

    def collect(self) -> None:
        """Run the generator up to the clustered layer, and keep or write the activations of that layer."""
        if self._workdir is None:
            self._check_memory()
            self._activations = self._empty(self._latents.n_local_images)
        for shard, w in self._latents:
            if self._activations is not None:
                self._run(shard, w, self._activations[self._latents.local_slice(shard)])
            elif (path := self._path("activations", shard)).exists():
                self._read_activations(path, len(w), provenance=self._provenance(w))  # raises for a foreign file
                self._bar.update(len(w))
            else:
                activations = self._run(shard, w, self._empty(len(w)))
                write_tensors(path, FORMAT, {"activations": activations}, provenance=self._provenance(w))

    def cluster(self, clustering: Clustering, regions: Mapping[str, Region] | None) -> Clusters:
        """Fit k-means to the activations of all ranks, or factorise those of this process, and return the clusters."""
        data = self._stored() if self._activations is None else self._activations
        checkpoint = None if self._workdir is None else self._workdir / "kmeans.safetensors"
        with self._timed("clustering"):
            if not isinstance(self._estimator, NMF):
                self._estimator.fit(data, progress=self._progress, checkpoint=checkpoint, group=self._ranks.group)
            elif isinstance(data, Tensor):
                self._estimator.fit(data, progress=self._progress)
            else:
                self._estimator.fit(MiniBatches(data, math.prod(self._shape[1:])), progress=self._progress)
        return fitted_clusters(self._estimator, clustering, regions, self.occupancies)

    def occupancies(self, runs: Tensor) -> Tensor:
        """Return the fraction of images, of all ranks, in which a position has the label of a cluster.

        Args:
            runs: Centroids of several runs, [B, K, C].

        Returns:
            Fractions of shape [B, K, h, w], float64.
        """
        counts = torch.zeros(*runs.shape[:2], *self._shape[1:], dtype=torch.int64, device="cpu")
        batches: Iterable[Tensor] = self._stored() if self._activations is None else [self._activations]
        with self._timed("clustering"):
            for activations in batches:
                for run, centroids in enumerate(runs):
                    counts[run] += sum_over_images(self._assign(activations, centroids), len(centroids)).cpu()
        return self._ranks.total(counts)[0].double() / self._latents.n_images

    def measure(self, centroids: Tensor) -> Sums:
        """Label the activations, or compute their memberships, and measure M in a second pass of the generator.

        Args:
            centroids: Centroids or components, [K, C].

        Returns:
            The sums over the images of all ranks.
        """
        if self._activations is not None:
            with self._timed("clustering"):
                self._assigned, self._activations = self._assign(self._activations, centroids), None
        k = len(centroids)
        zeros = torch.zeros(k, self._generator.style_width, dtype=torch.float64, device="cpu")
        total = Sums(zeros, torch.zeros(k, *self._shape[1:], dtype=self._occupancy_dtype, device="cpu"))
        kind = {"method": "nmf"} if isinstance(self._estimator, NMF) else {"features": self._estimator.features}
        clusters = {"centroids": checksum({"": centroids}), **kind}
        for shard, w in self._latents:
            sums = self._shard_sums(shard, w, centroids, clusters)
            total = Sums(*(a + b for a, b in zip(total, sums, strict=True)))
        self._bar.close()
        if "contribution" in self.seconds:  # this stage runs inside the stage "generator"
            self.seconds["generator"] -= self.seconds["contribution"]
        return Sums(*self._ranks.total(*total))

    def _stored(self) -> StoredActivations:
        return StoredActivations(self.read, self._latents.local)

    def read(self, shard: int) -> Tensor:
        """Return the stored activations of a shard, [n, C, h, w]."""
        n = self._latents.starts[shard + 1] - self._latents.starts[shard]
        return self._read_activations(self._path("activations", shard), n).to(self._generator.device)

    def _read_activations(self, path: Path, n: int, **options: Any) -> Tensor:
        """Return the activations of n images in a file, [n, C, h, w]."""
        channels, h, w = self._shape
        spec = TensorSpec("n C h w", (self._dtype,), finite=False)  # k-means checks the values
        lengths = {"n": n, "C": channels, "h": h, "w": w}
        return read_shard(path, {"activations": spec}, lengths, **options)["activations"]

    def _check_memory(self) -> None:
        """Raise ValueError if main memory cannot hold the activations of all images of this rank."""
        n_images = self._latents.n_local_images
        n_bytes = n_images * math.prod(self._shape) * self._dtype.itemsize
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if n_bytes > limit and self._generator.device.type == "cpu":
            need = f"whose activations take {n_bytes / 1e9:.1f} GB of the {limit / 1e9:.1f} GB of memory"
            raise ValueError(f"workdir must be given for {n_images:,} images, {need}")

    def _empty(self, n: int) -> Tensor:
        return torch.empty(n, *self._shape, dtype=self._dtype, device=self._generator.device)

    def _run(self, shard: int, w: Tensor, out: Tensor) -> Tensor:
        """Fill `out` with the activations of a shard's images, and return it."""
        for start in range(0, len(w), self._batch_size):
            with self._timed("generator"):
                (batch,) = self._generator.activations(w[start : start + self._batch_size], [self._layer]).values()
            stored = out[start : start + len(batch)].copy_(batch)
            is_narrower = torch.finfo(self._dtype).max < torch.finfo(batch.dtype).max
            if is_narrower and bool(batch.isfinite().all() & ~stored.isfinite().all()):  # waits for a GPU
                raise ValueError(
                    f"dtype must have a range that contains the activations, up to {batch.abs().max():g} in "
                    f"{self._describe_images(shard, start, len(batch))}, got {self._dtype}"
                )
            self._bar.update(len(batch))
        return out

    def _assign(self, activations: Tensor, centroids: Tensor) -> Tensor:
        """Return the labels of activations, [N, h, w], or their memberships, [N, K, h, w]."""
        backend = self._estimator.backend
        if isinstance(self._estimator, NMF):
            return normalized_memberships(activations, centroids, backend=backend)
        return assign(activations, centroids, features=self._estimator.features, backend=backend).labels

    def _shard_sums(self, shard: int, w: Tensor, centroids: Tensor, clusters: dict[str, Any]) -> Sums:
        """Return the sums of a shard, from the workdir if it has them."""
        if self._workdir is None:
            return self._measure(shard, w, centroids)
        path = self._path("contributions", shard)
        provenance = clusters | self._provenance(w) | {"measured": self._count_measured(shard)}
        if path.exists():
            self._bar.update(self._count_measured(shard))
            lengths = {"K": len(centroids), "S": self._generator.style_width, "h": self._shape[1], "w": self._shape[2]}
            return Sums(**read_shard(path, sums_specs(self._occupancy_dtype), lengths, provenance=provenance))
        sums = self._measure(shard, w, centroids)
        write_tensors(path, FORMAT, sums._asdict(), provenance=provenance)
        return sums

    def _measure(self, shard: int, w: Tensor, centroids: Tensor) -> Sums:
        k, n = len(centroids), self._count_measured(shard)
        if self._assigned is None:
            assigned = self._assign(self.read(shard), centroids)
        else:
            assigned = self._assigned[self._latents.local_slice(shard)]
        sites = self._generator.sites
        sums = torch.zeros(k, self._generator.style_width, dtype=torch.float64, device=self._generator.device)
        for start in range(0, n, self._batch_size):
            batch = w[start : min(n, start + self._batch_size)]
            batch_assigned = assigned[start : start + len(batch)]

            def add(key: str, tensor: Tensor, assigned: Tensor = batch_assigned) -> None:
                with self._timed("contribution"):
                    readers = [site for site in sites if site.tensor == key]
                    standardize = not readers[0].normalized
                    m = contribution(tensor, assigned, k, standardize=standardize, backend=self._estimator.backend)
                    weighted = m.double() * len(assigned)
                    for site in readers:
                        sums[:, site.slice] += weighted

            with self._timed("generator"):
                self._generator.visit(batch, add)
                is_finite = bool(sums.isfinite().all())  # waits for a GPU, so that the stage includes its time
            if not is_finite:
                site = next(site for site in sites if not sums[:, site.slice].isfinite().all())
                images = self._describe_images(shard, start, len(batch))
                raise ValueError(
                    f"activations of site {site.name} must be finite, got NaN or Inf in the batch of {images}"
                )
            self._bar.update(len(batch))
        return Sums(sums.cpu(), sum_over_images(assigned, k).cpu())

    def _count_measured(self, shard: int) -> int:
        """Return the number of images of a shard on which M is measured."""
        start, stop = self._latents.starts[shard : shard + 2]
        return max(0, min(stop, self._n_measured) - start)

    def _describe_images(self, shard: int, start: int, n: int) -> str:
        first = self._latents.starts[shard] + start
        return f"images {first} to {first + n - 1}"

    def _path(self, stem: str, shard: int) -> Path:
        assert self._workdir is not None
        return self._workdir / f"{stem}-{shard:05}-of-{len(self._latents):05}.safetensors"

    def _provenance(self, w: Tensor) -> dict[str, Any]:
        """Return a JSON-serialisable description of the inputs from which a shard's activations are computed."""
        layer = {"generator": self._generator.fingerprint, "layer": self._layer, "dtype": str(self._dtype)}
        return layer | {"w": checksum({"w": w})} | self._generator.precision

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Add the duration of the block to the stage, even if the block raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
