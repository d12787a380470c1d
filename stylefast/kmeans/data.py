# SPDX-License-Identifier: Apache-2.0
"""Data of spherical k-means: one batch of points, and all points of an array, a stream or several ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..core.checks import as_tensor
from ..core.dtypes import Array, accumulator
from ..distributed import Ranks
from ..ops import assign as assignment
from ..ops.lloyd_step import LloydStep, lloyd_step
from .prefetch import Stream, array_of, check_stream, prefetch

CHUNK = 1 << 22  # number of elements of activations that are standardised at a time


@dataclass(frozen=True)
class Batch:
    """One array of points: the C-vectors at all positions of activations.

    Args:
        activations: Activations of shape [N, C, H, W], or points [M, C] viewed as one image. They are not copied.
        features, backend: As in `stylefast.assign`.
        is_rows: Whether the user passed points [M, C], so that labels and messages are per row.
        name: Name of the array in messages.
    """

    activations: Tensor
    features: str
    backend: str | None
    is_rows: bool
    name: str

    @classmethod
    def from_array(cls, data: Array, features: str, backend: str | None, name: str = "activations") -> Batch:
        """View data [N, C, H, W] or [M, C] as a batch. Rows become positions of one image, or of no image if M = 0."""
        x = as_tensor(name, data, "[N, C, H, W] or [M, C]", 4, 2)
        if x.dim() == 4:
            return cls(x, features, backend, False, name)
        return cls(x.t()[None, :, :, None] if len(x) else x[:, :, None, None], features, backend, True, name)

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return self.activations.shape[1]

    def __len__(self) -> int:
        return self.activations.numel() // max(1, self.channels)

    def step(self, centroids: Tensor) -> LloydStep:
        """Run one Lloyd step with centroids [K, C] or [B, K, C]."""
        return lloyd_step(self.activations, centroids, features=self.features, backend=self.backend)

    def assign(self, centroids: Tensor) -> assignment.Assignment:
        """Return labels and similarity. Raise ValueError if the norm of a point is not finite."""
        result = assignment.assign(self.activations, centroids, features=self.features, backend=self.backend)
        if result.similarity.isnan().any():
            raise ValueError(self._not_finite_message(result.similarity))
        return result

    def nonzero(self, probes: Tensor) -> Tensor:
        """Return the flat positions of the nonzero points, [U] int64, ascending. Raise as `assign` does.

        Args:
            probes: Random vectors, [4, C]. Only a zero point has similarity 0 to all of them, and a point with NaN has
                similarity NaN, so one read of the data finds both.
        """
        return self.assign(torch.cat((probes, -probes))).similarity.flatten().nonzero().squeeze(1)

    def gather(self, positions: Tensor) -> Tensor:
        """Return the points at flat positions [m], scaled to unit norm: [m, C] float32 or float64."""
        if self.features == "standardized":
            n, c, h, w = self.activations.shape
            channels = max(1, CHUNK // max(1, n * h * w))
            x = self.activations.new_empty((len(positions), c), dtype=accumulator(self.activations.dtype))
            for piece, columns in zip(self.activations.split(channels, 1), x.split(channels, 1), strict=True):
                columns.copy_(_columns(assignment.points(piece, self.features), positions))
        else:
            x = assignment.points(_columns(self.activations, positions), self.features)
        return normalize(x, dim=1)

    def _not_finite_message(self, similarity: Tensor) -> str:
        if self.features == "standardized":  # one bad value makes a whole channel NaN: name only its point
            ones = self.activations.new_ones((1, self.channels))
            raw = assignment.assign(self.activations, ones, backend=self.backend).similarity
            similarity = raw if raw.isnan().any() else similarity
        bad = similarity.isnan().nonzero()
        n, h, w = bad[0].tolist()
        return (
            f"{self.name} must be finite, got {len(bad)} of {similarity.numel()} points with NaN, Inf or a norm that "
            f"overflows, the first at {f'row {h}' if self.is_rows else f'image {n}, position ({h}, {w})'}"
        )


class Sums(NamedTuple):
    """Result of a Lloyd step over all points.

    Attributes:
        sums: Sum of the unit-normalised points of every cluster, [B, K, C].
        counts: Number of points that were added to each sum, [B, K] int64.
        objective: Mean cosine of all points to the centroids of their labels, [B] float64.
    """

    sums: Tensor
    counts: Tensor
    objective: Tensor


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
        dtype: Dtype of the centroids.
        device: Device of the data of this rank; the CPU if the rank has no data.
        probes: Random vectors for `Batch.nonzero`, [4, C].
        n_local: Number of points of this rank.
        n_points: Number of points of all ranks.
        n_nonzero: Number of nonzero points of all ranks. Their indices, 0 to n_nonzero - 1, do not depend on how the
            points are divided into batches and among ranks.
        nonzero_offset: Index of the first nonzero point of this rank.
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

    @classmethod
    def scan(
        cls, data: Array | Stream, features: str, backend: str | None, ranks: Ranks, rng: torch.Generator
    ) -> Points:
        """Read the first batch and then all batches, count the points, and gather the counts of all ranks.

        Args:
            data, features, backend, ranks: As for the class.
            rng: Random generator of the probes.

        Raises:
            TypeError: If a batch has a wrong type or dtype.
            ValueError: If a batch has a wrong shape, or a point contains NaN or Inf.
        """
        if not isinstance(data, (Tensor, np.ndarray)):
            check_stream("activations", data)
        first = next(_read(data, features, backend), None)
        kinds = ranks.gather(None if first is None else (first.channels, accumulator(first.activations.dtype)))
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
            data, features, backend, ranks, channels, dtype, device, probes, n_local, n_points, n_nonzero, offset
        )

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
            total = (
                sums if total is None else Sums(*(a + b for a, b in zip(_double(total), _double(sums), strict=True)))
            )
        if total is None:
            b, k, _ = centroids.shape
            zeros = torch.zeros(b, k + 1, dtype=torch.float64, device=self.device)
            total = Sums(torch.zeros_like(centroids), zeros[:, 1:].long(), zeros[:, 0])
        if self.ranks.size > 1:
            total = Sums(*self.ranks.total(*_double(total)))
        return Sums(total.sums, total.counts, total.objective / max(1, self.n_points))

    def gather(self, indices: Tensor) -> Tensor:
        """Return the points with the given indices [m] among the nonzero points, scaled to unit norm: [m, C]."""
        rows = torch.zeros(len(indices), self.channels, dtype=self.dtype, device=self.device)
        offset = self.nonzero_offset
        for batch in self:
            positions = batch.nonzero(self.probes)
            matching = ((indices >= offset) & (indices < offset + len(positions))).nonzero().squeeze(1)
            if len(matching):
                rows[matching.to(self.device)] = batch.gather(positions[(indices[matching] - offset).to(self.device)])
            offset += len(positions)
        return self.ranks.total(rows)[0]  # each row is zero on all ranks except one

    def farthest(self, centroids: Tensor, n: int) -> Tensor:
        """Return the n points with the lowest cosine to their most similar centroid, at unit norm: [n, C].

        If there are fewer than n nonzero points, all are returned. On ties, the first points are taken.
        """
        similarity = torch.empty(0, dtype=self.dtype, device=self.device)
        rows = torch.empty(0, self.channels, dtype=self.dtype, device=self.device)
        for batch in self:
            positions = batch.nonzero(self.probes)
            cosine = batch.assign(centroids).similarity.flatten()[positions]
            order = cosine.argsort(stable=True)[:n]
            similarity = torch.cat((similarity, cosine[order].to(self.dtype)))
            rows = torch.cat((rows, batch.gather(positions[order])))
            order = similarity.argsort(stable=True)[:n]
            similarity, rows = similarity[order], rows[order]
        if self.ranks.size > 1:
            candidates = self.ranks.gather((similarity.cpu(), rows.cpu()))
            similarity, rows = (torch.cat(column) for column in zip(*candidates, strict=True))
            rows = rows[similarity.argsort(stable=True)[:n]].to(self.device)
        return rows


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
        if (batch.channels, accumulator(batch.activations.dtype)) != (channels, dtype):
            raise ValueError(
                f"{batch.name} must have C = {channels} and centroids of {dtype} like the first batch, "
                f"got C = {batch.channels} and {batch.activations.dtype}"
            )
        yield batch


def _double(total: Sums) -> Sums:
    return Sums(total.sums.double(), total.counts, total.objective)


def _columns(x: Tensor, positions: Tensor) -> Tensor:
    """Return x [N, C, H, W] at flat positions [m] of N x H x W: [m, C]."""
    _, _, h, w = x.shape
    return x.movedim(1, -1)[positions // (h * w), positions // w % h, positions % w]
