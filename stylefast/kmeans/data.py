# SPDX-License-Identifier: Apache-2.0
"""Data of spherical k-means: all points of an array, a stream or several ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..core.dtypes import Array
from ..distributed import Ranks
from .batch import Batch, Sums
from .prefetch import Stream, array_of, check_stream, prefetch


@dataclass(frozen=True, eq=False)
class Points:
    """All points of an array or a stream; with several ranks, the points of all ranks in the order of the ranks.

    `Points.scan` creates an object from data. The constructor only stores its arguments: it neither reads nor
    communicates. Iteration and all other methods read the data once and keep nothing of them. Every rank must call
    `scan`, `step`, `gather` and `farthest`, in the same order.

    Args:
        data: An array [N, C, H, W] or [M, C], or an iterable of such batches that can be read again. A batch may be a
            tuple or list that begins with the array, like the batches of a DataLoader.
        features, backend: As in `stylefast.assign`.
        ranks: Ranks that share the data set.
        channels: Number of channels C; 0 if no rank has a batch.
        dtype: Dtype in which the ops compute on the data.
        device: Device of the data of this rank; the CPU if the rank has no data.
        probes: Random vectors for `Batch.nonzero`, [4, C].
        n_local: Number of points of this rank.
        n_points: Number of points of all ranks.
        n_nonzero: Number of nonzero points of all ranks. Their indices, 0 to n_nonzero - 1, do not depend on how the
            points are divided into batches and among ranks.
        nonzero_offset: Index of the first nonzero point of this rank.
        in_double: Whether centroids, and so all computations, are float64 for data of any dtype.
    """

    data: Array | Stream
    features: str
    backend: str | None
    ranks: Ranks
    channels: int
    dtype: torch.dtype
    device: torch.device
    probes: Tensor
    n_local: int
    n_points: int
    n_nonzero: int
    nonzero_offset: int
    in_double: bool = False

    @classmethod
    def scan(
        cls,
        data: Array | Stream,
        features: str,
        backend: str | None,
        ranks: Ranks,
        rng: torch.Generator,
        in_double: bool = False,
    ) -> Points:
        """Read the first batch and then all batches, count the points, and gather the counts of all ranks.

        Args:
            data, features, backend, ranks, in_double: As for the class.
            rng: Random generator of the probes.

        Raises:
            TypeError: If a batch has a wrong type or dtype.
            ValueError: If a batch has a wrong shape, or a point contains NaN or Inf.
        """
        if not isinstance(data, (Tensor, np.ndarray)):
            check_stream("activations", data)
        first = next(_read(data, features, backend), None)
        kinds = ranks.gather(None if first is None else (first.channels, first.dtype))
        channels, dtype = next((kind for kind in kinds if kind is not None), (0, torch.float32))
        device = torch.device("cpu") if first is None else first.activations.device
        probes = torch.randn(4, channels, generator=rng, dtype=torch.float32, device="cpu").to(device)
        n_local = n_local_nonzero = 0
        for batch in _read_alike(data, features, backend, channels, dtype):
            n_local += len(batch)
            n_local_nonzero += len(batch.nonzero(probes))
        counts = ranks.gather((n_local, n_local_nonzero))
        n_points, n_nonzero = (sum(column) for column in zip(*counts, strict=True))
        offset = sum(count for _, count in counts[: ranks.rank])
        return cls(
            data=data,
            features=features,
            backend=backend,
            ranks=ranks,
            channels=channels,
            dtype=dtype,
            device=device,
            probes=probes,
            n_local=n_local,
            n_points=n_points,
            n_nonzero=n_nonzero,
            nonzero_offset=offset,
            in_double=in_double,
        )

    @property
    def centroids_dtype(self) -> torch.dtype:
        """Dtype of the centroids."""
        return torch.float64 if self.in_double else self.dtype

    @property
    def highest_objective(self) -> float:
        """Objective if every nonzero point equals its centroid."""
        return self.n_nonzero / max(1, self.n_points)

    def to_double(self) -> Points:
        """Return the same points, for centroids in float64."""
        return replace(self, in_double=True)

    @property
    def in_memory(self) -> bool:
        """Whether the data are a single array."""
        return isinstance(self.data, (Tensor, np.ndarray))

    @property
    def can_run_ahead(self) -> bool:
        """Whether a step may start before the host knows that it is needed: for one array on one GPU.

        Ranks must agree on their steps, and an extra pass over a stream takes longer than waiting for the host.
        """
        return self.in_memory and self.ranks.size == 1 and self.device.type == "cuda"

    def __iter__(self) -> Iterator[Batch]:
        n_read = 0
        for batch in _read_alike(self.data, self.features, self.backend, self.channels, self.dtype):
            n_read += len(batch)
            yield batch
        if n_read != self.n_local:
            raise ValueError(
                f"activations must have the same points on every pass, got {self.n_local} points first and then "
                f"{n_read}"
            )

    def single_batch(self) -> Batch:
        """Return the only batch of data that are a single array."""
        (batch,) = self
        return batch

    def step(self, centroids: Tensor) -> Sums:
        """Run one Lloyd step of restarts [B, K, C].

        One batch on one rank gives the same bits as `stylefast.lloyd_step`.
        """
        total: Sums | None = None
        for batch in self:
            step = batch.step(centroids)
            sums = Sums(step.sums, step.counts, step.objective * len(batch))
            total = sums if total is None else _double(total).plus(_double(sums))
        if total is None:
            b, k, _ = centroids.shape
            zeros = torch.zeros(b, k + 1, dtype=torch.float64, device=self.device)
            total = Sums(torch.zeros_like(centroids), zeros[:, 1:].long(), zeros[:, 0])
        return self.over_ranks(total)

    def over_ranks(self, total: Sums) -> Sums:
        """Return the Lloyd step of all ranks from that of this rank, whose objective is a sum over its points."""
        if self.ranks.size > 1:
            total = Sums(*self.ranks.total(*_double(total)))
        return Sums(total.sums, total.counts, total.objective / max(1, self.n_points))

    def gather(self, indices: Tensor) -> Tensor:
        """Return the points with the given indices [m] among the nonzero points, scaled to unit norm: [m, C]."""
        rows = torch.zeros(len(indices), self.channels, dtype=self.centroids_dtype, device=self.device)
        offset = self.nonzero_offset
        for batch in self:
            positions = self._nonzero(batch)
            matching = ((indices >= offset) & (indices < offset + len(positions))).nonzero().squeeze(1)
            if len(matching):
                matching_positions = positions[(indices[matching] - offset).to(self.device)]
                rows[matching.to(self.device)] = batch.gather(matching_positions, self.centroids_dtype)
            offset += len(positions)
        return self.ranks.total(rows)[0]  # each row is zero on all ranks except one

    def farthest(self, centroids: Tensor, n: int) -> Tensor:
        """Return the n points with the lowest cosine to their most similar centroid, at unit norm: [n, C].

        If there are fewer than n nonzero points, all are returned. On ties, the first points are taken.
        """
        dtype = self.centroids_dtype
        similarity = torch.empty(0, dtype=dtype, device=self.device)
        rows = torch.empty(0, self.channels, dtype=dtype, device=self.device)
        for batch in self:
            positions = self._nonzero(batch)
            cosine = batch.assign(centroids).similarity.flatten()[positions]
            order = cosine.argsort(stable=True)[:n]
            similarity = torch.cat((similarity, cosine[order].to(dtype)))
            rows = torch.cat((rows, batch.gather(positions[order], dtype)))
            order = similarity.argsort(stable=True)[:n]
            similarity, rows = similarity[order], rows[order]
        if self.ranks.size > 1:
            candidates = self.ranks.gather((similarity.cpu(), rows.cpu()))
            similarity, rows = (torch.cat(column) for column in zip(*candidates, strict=True))
            rows = rows[similarity.argsort(stable=True)[:n]].to(self.device)
        return rows

    def _nonzero(self, batch: Batch) -> Tensor:
        """Return the flat positions of the nonzero points of a batch, [U] int64. Read the batch only if needed."""
        if self.n_nonzero < self.n_points:
            return batch.nonzero(self.probes)
        return torch.arange(len(batch), device=self.device)


def _read(data: Array | Stream, features: str, backend: str | None) -> Iterator[Batch]:
    """Yield the batches of the data, each checked separately."""
    if isinstance(data, (Tensor, np.ndarray)):
        yield Batch.from_array(data, features, backend)
        return
    for index, batch in enumerate(prefetch(data)):
        yield Batch.from_array(array_of(batch), features, backend, f"batch {index} of activations")


def _read_alike(
    data: Array | Stream, features: str, backend: str | None, channels: int, dtype: torch.dtype
) -> Iterator[Batch]:
    """Yield the batches of the data. Raise ValueError if one has another C or another dtype of centroids."""
    for batch in _read(data, features, backend):
        if (batch.channels, batch.dtype) != (channels, dtype):
            raise ValueError(
                f"{batch.name} must have C = {channels} and centroids of {dtype} like the first batch, "
                f"got C = {batch.channels} and {batch.activations.dtype}"
            )
        yield batch


def _double(total: Sums) -> Sums:
    return Sums(total.sums.double(), total.counts, total.objective)
