# SPDX-License-Identifier: Apache-2.0
"""The points of spherical k-means, and the choice of some of them: as first centroids, and for empty clusters."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from .ops import assign as assignment
from .ops.lloyd_step import LloydStep, lloyd_step
from .ops.op import accumulator, check_choice, check_tensor

Array: TypeAlias = Tensor | np.ndarray

INIT = ("k-means++", "random")
SAMPLE = 4096  # points, or 64 a cluster, that seeds are chosen from
SEEDINGS, STEPS = 16, 5  # of a restart on the sample, of which one goes on
CHUNK = 1 << 22  # elements of the piece of the activations that is standardised at a time


@dataclass(frozen=True)
class Points:
    """The C-vectors of `activations` [N, C, H, W]: read whole by the ops, gathered only a few at a time.

    `rows` says that the caller gave points [M, C], so that labels and messages are of rows.
    """

    activations: Tensor
    features: str
    backend: str | None
    rows: bool

    @classmethod
    def of(cls, data: Array, features: str, backend: str | None) -> Points:
        """Views data [N, C, H, W] or [M, C]; rows become the positions of one image, or of none."""
        x = _tensor("activations", data, "[N, C, H, W] or [M, C]", 4, 2)
        if x.dim() == 4:
            return cls(x, features, backend, False)
        return cls(x.t()[None, :, :, None] if len(x) else x[:, :, None, None], features, backend, True)

    def step(self, centroids: Tensor) -> LloydStep:
        return lloyd_step(self.activations, centroids, features=self.features, backend=self.backend)

    def assign(self, centroids: Tensor) -> assignment.Assignment:
        """Labels and similarity; raises ValueError if the norm of a point is not finite."""
        found = assignment.assign(self.activations, centroids, features=self.features, backend=self.backend)
        if found.similarity.isnan().any():
            raise ValueError(self._not_finite(found.similarity))
        return found

    def nonzero(self, rng: torch.Generator) -> Tensor:
        """Flat positions, ascending, of the points that are not zero: [U] int64. Raises as `assign` does."""
        # Only zero has similarity 0 to four random lines, and no point has NaN: one read tells both.
        lines = torch.randn(4, self.activations.shape[1], generator=rng).to(self.activations.device)
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
            ones = self.activations.new_ones((1, self.activations.shape[1]))
            raw = assignment.assign(self.activations, ones, backend=self.backend).similarity
            similarity = raw if raw.isnan().any() else similarity
        bad = similarity.isnan().nonzero()
        n, h, w = bad[0].tolist()
        return (
            f"activations must be finite, got {len(bad)} of {similarity.numel()} points with NaN, Inf or a norm that "
            f"overflows, the first at {f'row {h}' if self.rows else f'image {n}, position ({h}, {w})'}"
        )


def seeds(
    points: Points, nonzero: Tensor, init: str | Tensor, n_clusters: int, n_init: int, rng: torch.Generator
) -> Tensor:
    """First centroids [B, K, C] of unit norm: given ones, or of a random sample of the points that are not zero."""
    if isinstance(init, Tensor):
        x = points.activations
        if init.shape[-1] != x.shape[1] or init.device != x.device:
            raise ValueError(
                f"init must have shape [K, C] or [B, K, C] with C = {x.shape[1]} on {x.device} like the activations, "
                f"got {tuple(init.shape)} on {init.device}"
            )
        given = torch.nn.functional.normalize(init.double(), dim=-1).to(accumulator(x.dtype))
        return given.reshape(-1, *init.shape[-2:])
    size = min(len(nonzero), max(SAMPLE, 64 * n_clusters))
    drawn = torch.randperm(len(nonzero), generator=rng)[:size].sort().values  # ascending: the gather is in order
    sample = points.gather(nonzero[drawn.to(nonzero.device)])  # [m, C]
    if init == "k-means++":
        if SEEDINGS * STEPS * size > 2 * len(nonzero):
            return sample[_k_means_plus_plus(sample, n_clusters, n_init, rng)]
        return _refined(Points.of(sample, "raw", points.backend), sample, n_clusters, n_init, rng)
    chosen = torch.stack([torch.randperm(size, generator=rng)[:n_clusters] for _ in range(n_init)])
    return sample[chosen.to(sample.device)]


def directions(sums: Tensor, centroids: Tensor) -> Tensor:
    """sums / |sums|, and where a sum is zero the centroid that was there, in the centroids' dtype."""
    norm = torch.linalg.vector_norm(sums, dim=-1, keepdim=True)
    return torch.where(norm > 0, (sums / norm).to(centroids.dtype), centroids)


def farthest(points: Points, nonzero: Tensor, centroids: Tensor, n: int) -> Tensor:
    """The n points (all, if there are fewer) least similar to the centroid most similar to them: [n, C], unit norm."""
    similarity = points.assign(centroids).similarity.flatten()[nonzero]
    return points.gather(nonzero[similarity.topk(min(n, len(nonzero)), largest=False).indices])


def _refined(points: Points, sample: Tensor, n_clusters: int, n_init: int, rng: torch.Generator) -> Tensor:
    """For every restart the best of SEEDINGS seedings after STEPS of Lloyd on the sample [m, C]: [n_init, K, C].

    All of them together cost at most two steps on all points, and save some. Source: Bradley and Fayyad, "Refining
    initial points for k-means clustering", 1998.
    """
    centroids = sample[_k_means_plus_plus(sample, n_clusters, SEEDINGS * n_init, rng)]
    for _ in range(STEPS):
        centroids = directions(points.step(centroids).sums, centroids)
    best = points.step(centroids).objective.view(n_init, SEEDINGS).argmax(1)
    return centroids.unflatten(0, (n_init, SEEDINGS))[torch.arange(n_init, device=best.device), best]


def _k_means_plus_plus(sample: Tensor, n_clusters: int, n_init: int, rng: torch.Generator) -> Tensor:
    """Greedy k-means++ among unit points [m, C], all restarts at once: indices [n_init, K].

    Candidates are drawn with weight 1 - max cosine to the points chosen before; of 2 + log K candidates the one with
    the best objective is chosen. Source: Arthur and Vassilvitskii, "k-means++", 2007, with the greedy choice of its
    last section.
    """
    n_candidates, runs = 2 + int(math.log(n_clusters)), torch.arange(n_init, device=sample.device)
    chosen = torch.randint(len(sample), (n_init,), generator=rng).to(sample.device)
    indices, similarity = [chosen], sample[chosen] @ sample.T  # [n_init, m]
    for _ in range(1, n_clusters):
        weight = (1 - similarity).clamp(min=0).double().cumsum(1)
        draw = torch.rand(n_init, n_candidates, generator=rng, dtype=torch.float64).to(weight.device) * weight[:, -1:]
        candidates = torch.searchsorted(weight, draw, right=True).clamp(max=len(sample) - 1)
        cosine = (sample[candidates.flatten()] @ sample.T).view(n_init, n_candidates, -1)
        closer = torch.maximum(similarity[:, None], cosine)  # [n_init, n_candidates, m]
        best = closer.sum(2).argmax(1)
        indices.append(candidates[runs, best])
        similarity = closer[runs, best]
    return torch.stack(indices, dim=1)


def check_init(init: str | Array, n_clusters: int) -> str | Tensor:
    """`init` as a known name, or as a tensor whose vectors have a direction."""
    if isinstance(init, str):
        check_choice("init", init, INIT)
        return init
    given = _tensor("init", init, "[K, C] or [B, K, C]", 2, 3)
    if given.shape[-2] != n_clusters or 0 in given.shape:
        raise ValueError(
            f"init must have shape [K, C] or [B, K, C] with K = {n_clusters} and B, C >= 1, got {tuple(given.shape)}"
        )
    norm = torch.linalg.vector_norm(given.double(), dim=-1)
    wrong = (~norm.isfinite() | (norm == 0)).nonzero()
    if len(wrong):
        raise ValueError(f"init must hold finite vectors other than zero, got another at {tuple(wrong[0].tolist())}")
    return given


def _tensor(name: str, value: Array, letters: str, *ranks: int) -> Tensor:
    if isinstance(value, np.ndarray):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # and nothing writes
            value = torch.from_numpy(value)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor or a NumPy array, got {type(value).__name__}")
    check_tensor(name, value, letters, *ranks)
    return value.detach()


def _columns(x: Tensor, positions: Tensor) -> Tensor:
    """x [N, C, H, W] at flat positions [m] of N x H x W: [m, C]."""
    _, _, h, w = x.shape
    return x.movedim(1, -1)[positions // (h * w), positions // w % h, positions % w]
