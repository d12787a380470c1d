# SPDX-License-Identifier: Apache-2.0
"""One batch of points: its Lloyd step, its labels, its cosine distances, and some of its points at unit norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.checks import as_tensor
from ..core.dtypes import Array, accumulator
from ..ops import assign as assignment
from ..ops.lloyd_step import lloyd_step

CHUNK = 1 << 22  # number of elements of activations that are standardised or converted at a time
NARROW = 1e-3  # distances 1 - cos below this have too few digits in float32, whose cosines have an error of 1e-7


class Sums(NamedTuple):
    """Result of a Lloyd step over points.

    Attributes:
        sums: Sum of the unit-normalised points of every cluster, [B, K, C].
        counts: Number of points that were added to each sum, [B, K] int64.
        objective: Mean cosine of all points to the centroids of their labels, [B] float64.
    """

    sums: Tensor
    counts: Tensor
    objective: Tensor

    def plus(self, other: Sums) -> Sums:
        """Return the elementwise sum."""
        return Sums(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Batch:
    """One array of points: the C-vectors at all positions of activations.

    With float64 centroids, all methods compute in float64 and convert the activations in pieces.

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

    @property
    def dtype(self) -> torch.dtype:
        """Dtype in which the ops compute on the activations."""
        return accumulator(self.activations.dtype)

    def __len__(self) -> int:
        return self.activations.numel() // max(1, self.channels)

    def step(self, centroids: Tensor) -> Sums:
        """Run one Lloyd step with restarts [B, K, C]."""
        total: Sums | None = None
        for piece in self._pieces(centroids.dtype):
            step = lloyd_step(piece, centroids, features=self.features, backend=self.backend)
            if piece is self.activations:
                return Sums(*step[1:])
            fraction = piece.numel() / max(1, self.activations.numel())
            part = Sums(step.sums, step.counts, step.objective * fraction)
            total = part if total is None else total.plus(part)
        assert total is not None  # there is always a piece, which may be empty
        return total

    def assign(self, centroids: Tensor) -> assignment.Assignment:
        """Return labels and similarity. Raise ValueError if the norm of a point is not finite."""
        labels, similarity = zip(
            *(
                assignment.assign(piece, centroids, features=self.features, backend=self.backend)
                for piece in self._pieces(centroids.dtype)
            ),
            strict=True,
        )
        result = assignment.Assignment(self._joined(labels), self._joined(similarity))
        if result.similarity.isnan().any():
            raise ValueError(self._not_finite_message(result.similarity))
        return result

    def distances(self, centroids: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the labels, [N, H, W] int32, and the cosine distances to the centroids of the labels, [N, H, W].

        The distance of a point is `1 - cos`, float64; 1 for a zero point. If the mean distance is small, distances are
        computed in float64 as `|x / |x| - c / |c||^2 / 2`, which does not cancel and is never negative.

        Args:
            centroids: Centroids of unit norm, [K, C].
            weights: Weights of the points in the mean distance, [N, H, W] float64. The default is equal weights.
        """
        labels, similarity = self.assign(centroids)
        distances = 1 - similarity.double()
        mean = distances.mean() if weights is None else (distances * weights).sum() / weights.sum()
        if not mean < NARROW:  # not for NaN, the mean of no distances
            return labels, distances
        pieces, unit, label = [], unit_vectors(centroids.double()), labels.flatten().long()
        for piece in self._converted():
            x = assignment.points(piece, self.features).movedim(1, -1).flatten(0, -2)  # [m, C]
            pieces.append((unit_vectors(x) - unit[label[: len(x)]]).square().sum(1) / 2)
            label = label[len(x) :]
        return labels, self._joined(pieces).where(similarity != 0, 1)

    def nonzero(self, probes: Tensor) -> Tensor:
        """Return the flat positions of the nonzero points, [U] int64, ascending. Raise as `assign` does.

        Args:
            probes: Random vectors, [4, C]. Only a zero point has similarity 0 to all of them, and a point with NaN has
                similarity NaN, so one read of the data finds both.
        """
        return self.assign(torch.cat((probes, -probes))).similarity.flatten().nonzero().squeeze(1)

    def gather(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the points at flat positions [m], scaled to unit norm: [m, C] float32 or float64."""
        if self.features == "standardized":
            n, c, h, w = self.activations.shape
            channels = max(1, CHUNK // max(1, n * h * w))
            x = self.activations.new_empty((len(positions), c), dtype=dtype)
            for piece, columns in zip(self.activations.split(channels, 1), x.split(channels, 1), strict=True):
                columns.copy_(_columns(assignment.points(piece.to(dtype), self.features), positions))
        else:
            x = assignment.points(_columns(self.activations, positions).to(dtype), self.features)
        return unit_vectors(x)

    def _pieces(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """Yield the activations, in pieces in float64 if centroids have that dtype and activations do not."""
        return self._converted() if dtype == torch.float64 != self.dtype else iter((self.activations,))

    def _converted(self) -> Iterator[Tensor]:
        """Yield the activations in float64, in pieces in the order of the positions."""
        _, c, h, w = self.activations.shape
        for images in self.activations.split(max(1, CHUNK // max(1, c * h * w))):
            n_rows = h if self.features == "standardized" else max(1, CHUNK // max(1, len(images) * c * w))
            for piece in images.split(n_rows, 2):
                yield piece.double()

    def _joined(self, pieces: Sequence[Tensor]) -> Tensor:
        """Return the values of all pieces as one tensor [N, H, W]."""
        n, _, h, w = self.activations.shape
        return (pieces[0] if len(pieces) == 1 else torch.cat([piece.flatten() for piece in pieces])).view(n, h, w)

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


def unit_vectors(x: Tensor) -> Tensor:
    """Return the vectors [..., C] scaled to unit norm, and zeros for zeros."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / norm.where(norm > 0, 1)


def _columns(x: Tensor, positions: Tensor) -> Tensor:
    """Return x [N, C, H, W] at flat positions [m] of N x H x W: [m, C]."""
    _, _, h, w = x.shape
    return x.movedim(1, -1)[positions // (h * w), positions // w % h, positions % w]
