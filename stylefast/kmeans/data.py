# SPDX-License-Identifier: Apache-2.0
"""The points of spherical k-means: the C-vectors of a stream of batches, over all ranks that share it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.checks import as_tensor
from ..core.dtypes import accumulator
from ..distributed import Ranks
from ..ops import assign as assignment
from ..ops.lloyd_step import LloydStep, lloyd_step
from .prefetch import Array, Stream, array_of, check_stream, prefetch

CHUNK = 1 << 22  # elements of the piece of the activations that is standardised at a time


@dataclass(frozen=True)
class Batch:
    """The C-vectors of `activations` [N, C, H, W]: read whole by the ops, gathered only a few at a time.

    `rows` says that the caller gave points [M, C], so that labels and messages are of rows.
    """

    activations: Tensor
    features: str
    backend: str | None
    rows: bool
    name: str

    @classmethod
    def of(cls, data: Array, features: str, backend: str | None, name: str = "activations") -> Batch:
        """Views data [N, C, H, W] or [M, C]; rows become the positions of one image, or of none."""
        x = as_tensor(name, data, "[N, C, H, W] or [M, C]", 4, 2)
        if x.dim() == 4:
            return cls(x, features, backend, False, name)
        return cls(x.t()[None, :, :, None] if len(x) else x[:, :, None, None], features, backend, True, name)

    @property
    def channels(self) -> int:
        """C."""
        return self.activations.shape[1]

    def __len__(self) -> int:
        return self.activations.numel() // max(1, self.channels)

    def step(self, centroids: Tensor) -> LloydStep:
        return lloyd_step(self.activations, centroids, features=self.features, backend=self.backend)

    def assign(self, centroids: Tensor) -> assignment.Assignment:
        """Labels and similarity; raises ValueError if the norm of a point is not finite."""
        found = assignment.assign(self.activations, centroids, features=self.features, backend=self.backend)
        if found.similarity.isnan().any():
            raise ValueError(self._not_finite(found.similarity))
        return found

    def nonzero(self, lines: Tensor) -> Tensor:
        """Flat positions, ascending, of the points that are not zero: [U] int64. Raises as `assign` does.

        lines: [4, C] random ones. Only zero has similarity 0 to all of them, and no point has NaN: one read tells both.
        """
        return self.assign(torch.cat((lines, -lines))).similarity.flatten().nonzero().squeeze(1)

    def gather(self, positions: Tensor) -> Tensor:
        """The points at flat positions [m], at unit norm: [m, C] float32 or float64."""
        if self.features == "standardized":
            n, c, h, w = self.activations.shape
            channels = max(1, CHUNK // max(1, n * h * w))
            x = self.activations.new_empty((len(positions), c), dtype=accumulator(self.activations.dtype))
            for piece, columns in zip(self.activations.split(channels, 1), x.split(channels, 1), strict=True):
                columns.copy_(_columns(assignment.points(piece, self.features), positions))
        else:
            x = assignment.points(_columns(self.activations, positions), self.features)
        return torch.nn.functional.normalize(x, dim=1)

    def _not_finite(self, similarity: Tensor) -> str:
        if self.features == "standardized":  # a bad value spoils its channel everywhere: name only its own point
            ones = self.activations.new_ones((1, self.channels))
            raw = assignment.assign(self.activations, ones, backend=self.backend).similarity
            similarity = raw if raw.isnan().any() else similarity
        bad = similarity.isnan().nonzero()
        n, h, w = bad[0].tolist()
        return (
            f"{self.name} must be finite, got {len(bad)} of {similarity.numel()} points with NaN, Inf or a norm that "
            f"overflows, the first at {f'row {h}' if self.rows else f'image {n}, position ({h}, {w})'}"
        )


class Sums(NamedTuple):
    """What a Lloyd iteration needs of all points: sums [B, K, C], counts [B, K] int64, objective [B] float64."""

    sums: Tensor
    counts: Tensor
    objective: Tensor


class Points:
    """All points of a stream, or of the streams of all ranks, rank 0's first; nothing of them is kept.

    Each method but the constructor reads the whole stream once, and every rank must call it.

    Args:
        data: an array [N, C, H, W] or [M, C], or an iterable of such batches that can be read again; a batch may be a
            tuple or list that begins with the array, as those of a DataLoader are.
        features, backend: as in `stylefast.assign`.
        ranks: those that share the data.

    Attributes:
        backend: as given.
        channels: C; 0 if no rank has a batch.
        dtype: of the centroids.
        total: number of points.
        n_nonzero: number of those that are not zero. Their places, 0 to n_nonzero - 1, do not depend on how the points
            are cut into batches and shared among ranks.

    Raises:
        TypeError, ValueError: wrong type, dtype, rank or shape of a batch; NaN or Inf in a point.
    """

    def __init__(
        self, data: Array | Stream, features: str, backend: str | None, ranks: Ranks, rng: torch.Generator
    ) -> None:
        self.in_memory = isinstance(data, (Tensor, np.ndarray))
        self._data: Any = data if self.in_memory else check_stream("activations", data)
        self._features, self.backend, self._ranks = features, backend, ranks
        self.channels, self.dtype, self.device = 0, torch.float32, torch.device("cpu")
        first = next(self._read(), None)
        known = ranks.gather(None if first is None else (first.channels, accumulator(first.activations.dtype)))
        self.channels, self.dtype = next((each for each in known if each is not None), (0, torch.float32))
        if first is not None:
            self.device = first.activations.device
        self._lines = torch.randn(4, self.channels, generator=rng).to(self.device)
        self._mine: int | None = None
        counts = [(len(batch), len(batch.nonzero(self._lines))) for batch in self]
        self._mine, nonzero = (sum(column) for column in zip((0, 0), *counts, strict=True))
        each = ranks.gather((self._mine, nonzero))
        self.total, self.n_nonzero = (sum(column) for column in zip(*each, strict=True))
        self._begin = sum(u for _, u in each[: ranks.rank])

    def __iter__(self) -> Iterator[Batch]:
        found = 0
        for batch in self._read():
            found += len(batch)
            if (batch.channels, accumulator(batch.activations.dtype)) != (self.channels, self.dtype):
                raise ValueError(
                    f"{batch.name} must have C = {self.channels} and centroids of {self.dtype} like the first batch, "
                    f"got C = {batch.channels} and {batch.activations.dtype}"
                )
            yield batch
        if self._mine not in (None, found):
            raise ValueError(
                f"activations must be the same whenever they are read, got {self._mine} points first and then {found}"
            )

    def only(self) -> Batch:
        """The batch of data that are one array."""
        (batch,) = self
        return batch

    def step(self, centroids: Tensor) -> Sums:
        """One Lloyd step of restarts [B, K, C]. One batch alone gives the bits of `stylefast.lloyd_step`."""
        found: Sums | None = None
        for batch in self:
            step = batch.step(centroids)
            more = Sums(step.sums, step.counts, step.objective * len(batch))
            found = more if found is None else Sums(*(a + b for a, b in zip(_wide(found), _wide(more), strict=True)))
        if found is None:
            b, k, _ = centroids.shape
            zeros = torch.zeros(b, k + 1, dtype=torch.float64, device=self.device)
            found = Sums(torch.zeros_like(centroids), zeros[:, 1:].long(), zeros[:, 0])
        if self._ranks.size > 1:
            found = Sums(*self._ranks.total(*_wide(found)))
        return Sums(found.sums, found.counts, found.objective / max(1, self.total))

    def gather(self, places: Tensor) -> Tensor:
        """The points at some places [m] among those that are not zero, at unit norm: [m, C]."""
        found = torch.zeros(len(places), self.channels, dtype=self.dtype, device=self.device)
        begin = self._begin
        for batch in self:
            positions = batch.nonzero(self._lines)
            here = ((places >= begin) & (places < begin + len(positions))).nonzero().squeeze(1)
            if len(here):
                found[here.to(self.device)] = batch.gather(positions[(places[here] - begin).to(self.device)])
            begin += len(positions)
        return self._ranks.total(found)[0]  # the others' rows are zero

    def farthest(self, centroids: Tensor, n: int) -> Tensor:
        """The n points (all, if there are fewer) least similar to the centroid most similar to them: [n, C].

        Of points that are equally similar the first ones.
        """
        similarity, found = torch.empty(0, dtype=self.dtype), torch.empty(0, self.channels, dtype=self.dtype)
        similarity, found = similarity.to(self.device), found.to(self.device)
        for batch in self:
            positions = batch.nonzero(self._lines)
            cosine = batch.assign(centroids).similarity.flatten()[positions]
            least = cosine.argsort(stable=True)[:n]
            similarity = torch.cat((similarity, cosine[least].to(self.dtype)))
            found = torch.cat((found, batch.gather(positions[least])))
            order = similarity.argsort(stable=True)[:n]
            similarity, found = similarity[order], found[order]
        if self._ranks.size > 1:
            each = self._ranks.gather((similarity.cpu(), found.cpu()))
            similarity, found = (torch.cat(column) for column in zip(*each, strict=True))
            found = found[similarity.argsort(stable=True)[:n]].to(self.device)
        return found

    def _read(self) -> Iterator[Batch]:
        if self.in_memory:
            yield Batch.of(self._data, self._features, self.backend)
            return
        for index, batch in enumerate(prefetch(self._data)):
            yield Batch.of(array_of(batch), self._features, self.backend, f"batch {index} of activations")


def _wide(found: Sums) -> Sums:
    return Sums(found.sums.double(), found.counts, found.objective)


def _columns(x: Tensor, positions: Tensor) -> Tensor:
    """x [N, C, H, W] at flat positions [m] of N x H x W: [m, C]."""
    _, _, h, w = x.shape
    return x.movedim(1, -1)[positions // (h * w), positions // w % h, positions % w]
