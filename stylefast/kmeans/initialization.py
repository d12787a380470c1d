# SPDX-License-Identifier: Apache-2.0
"""Initial centroids of spherical k-means: centroids given by the user, or points of a random sample."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..core.checks import as_tensor, check_choice, to_tensor
from ..core.dtypes import Array
from ..distributed import ALONE
from .batch import Batch
from .data import Points
from .lloyd import BatchedLloyd, directions
from .pruning import with_pruning

INIT = ("k-means++", "random")
SAMPLE = 4096  # number of points in the sample; with more than 64 clusters, 64 per cluster
INITIALIZATIONS = 16  # k-means++ initialisations per restart
PROMISING = 4  # number of them that are refined; the best one is kept
STEPS = 5  # Lloyd steps on the sample before the refined initialisations are compared
ENLARGEMENT = 4  # size of the sample on which restarts converge, relative to the sample for the initialisations
SAMPLE_TOL, SAMPLE_MAX_ITER = 1e-4, 12  # end of the iterations on the larger sample
CONVERGING, REFINING = 24, 40  # least numbers of points per point of the sample for these two methods
CACHED = 1 << 18  # number of cosines that k-means++ on a CPU compares at a time (1 MB)
MAX_PERMUTED = 1 << 24  # largest number of points whose indices are permuted to draw the sample (128 MB)


def initial_centroids(points: Points, init: str | Tensor, n_clusters: int, n_init: int, rng: torch.Generator) -> Tensor:
    """Return initial centroids [B, K, C] of unit norm: given by the user, or from a sample of the nonzero points.

    Raise ValueError if there are fewer nonzero points than clusters, or given centroids do not match the points.
    """
    if points.n_nonzero < n_clusters:
        raise ValueError(
            f"n_clusters must be at most the number of nonzero points, got K = {n_clusters} for "
            f"{points.n_nonzero} of {points.n_points} points"
        )
    if isinstance(init, Tensor):
        if init.shape[-1] != points.channels or init.device != points.device:
            raise ValueError(
                f"init must have shape [K, C] or [B, K, C] with C = {points.channels} on {points.device} like the "
                f"activations, got {tuple(init.shape)} on {init.device}"
            )
        return unit_centroids(init, points.centroids_dtype)
    size = min(points.n_nonzero, max(SAMPLE, 64 * n_clusters))
    n_per_sampled = points.n_nonzero // size if init == "k-means++" else 0
    # On fewer than C points per cluster, restarts converge to centroids that fit the sample and not the data.
    converges = n_per_sampled >= CONVERGING and ENLARGEMENT * size >= n_clusters * points.channels
    refines = n_per_sampled >= REFINING
    n_drawn = ENLARGEMENT * size if converges else size
    indices = _distinct_indices(points.n_nonzero, n_drawn, rng).sort().values  # ascending, the order of reading
    sample = points.gather(indices)  # [m, C]
    small = sample[::ENLARGEMENT] if converges else sample
    if refines:
        restarts = _refined_centroids(small, points.backend, n_clusters, n_init, rng)
    else:
        restarts = centroids_of_sample(small, init, n_clusters, n_init, rng)
    return _converged_centroids(sample, points.backend, restarts, rng) if converges else restarts


def unit_centroids(init: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the user's centroids, [K, C] or [B, K, C], at unit norm with shape [B, K, C]."""
    return normalize(init.double(), dim=-1).to(dtype).reshape(-1, *init.shape[-2:])


def centroids_of_sample(
    sample: Tensor, init: str, n_clusters: int, n_init: int, rng: torch.Generator, weights: Tensor | None = None
) -> Tensor:
    """Choose initial centroids among the points of a sample.

    Args:
        sample: Points of unit norm, [m, C].
        init: "k-means++" or "random".
        n_clusters: Number of clusters K.
        n_init: Number of restarts.
        rng: Random generator on the CPU.
        weights: Weights of the points, [m] float64. Points are drawn with probability proportional to their weights.
            The default is equal weights.

    Returns:
        Initial centroids, [n_init, K, C].
    """
    if init == "k-means++":
        return sample[_k_means_plus_plus(sample, n_clusters, n_init, rng, weights)[0]]
    if weights is not None:
        return sample[torch.multinomial(weights.expand(n_init, -1), n_clusters, generator=rng)]
    indices = torch.stack(
        [torch.randperm(len(sample), generator=rng, device="cpu")[:n_clusters] for _ in range(n_init)]
    )
    return sample[indices.to(sample.device)]


def _distinct_indices(n: int, size: int, rng: torch.Generator) -> Tensor:
    """Return random distinct indices below n, [size] int64."""
    if n <= MAX_PERMUTED:
        return torch.randperm(n, generator=rng, device="cpu")[:size]
    seed = int(torch.randint(1 << 62, (), generator=rng, device="cpu"))
    return torch.tensor(random.Random(seed).sample(range(n), size), device="cpu")


def _refined_centroids(
    sample: Tensor, backend: str | None, n_clusters: int, n_init: int, rng: torch.Generator
) -> Tensor:
    """Return initial centroids [n_init, K, C] that are refined on the sample [m, C].

    Each restart draws INITIALIZATIONS k-means++ initialisations, runs the PROMISING best of them for STEPS Lloyd steps
    on the sample, and keeps the best.

    References:
        Bradley and Fayyad, "Refining initial points for k-means clustering", 1998.
    """
    indices, objective = _k_means_plus_plus(sample, n_clusters, INITIALIZATIONS * n_init, rng)
    centroids = _best(sample[indices], objective, n_init, PROMISING)
    batch = Batch.from_array(sample, "raw", backend)
    for _ in range(STEPS):
        centroids = directions(batch.step(centroids).sums, centroids)
    return _best(centroids, batch.step(centroids).objective, n_init, 1)


def _best(centroids: Tensor, objective: Tensor, n_init: int, n: int) -> Tensor:
    """Return the n centroids with the highest objective of each of n_init groups of [B, K, C]: [n_init * n, K, C]."""
    best = objective.view(n_init, -1).topk(n, 1).indices
    return centroids.unflatten(0, (n_init, -1))[torch.arange(n_init, device=best.device)[:, None], best].flatten(0, 1)


def _converged_centroids(sample: Tensor, backend: str | None, restarts: Tensor, rng: torch.Generator) -> Tensor:
    """Return the restarts [B, K, C] after they converged on the sample [m, C]."""
    points, state = Points.scan(sample, "raw", backend, ALONE, rng), BatchedLloyd(restarts)
    pruned = with_pruning(points, restarts.shape[1], len(restarts))
    while state.active:
        state.advance(pruned, SAMPLE_TOL, SAMPLE_MAX_ITER)
    sums, former = (
        torch.stack([to_tensor(name, getattr(run, name)) for run in state.runs]) for name in ("sums", "centroids")
    )
    return directions(sums, former)


def _k_means_plus_plus(
    sample: Tensor, n_clusters: int, n_init: int, rng: torch.Generator, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Choose points by greedy k-means++ for all restarts at once.

    The sample has unit points [m, C] and weights [m]. Each step draws 2 + log K candidates with probability
    proportional to 1 - max cosine to the points chosen before, and chooses the candidate with the best objective.

    Returns:
        Indices of the points, [n_init, K], and the mean cosine of the sample to the nearest of them, [n_init].

    References:
        Arthur and Vassilvitskii, "k-means++: The advantages of careful seeding", 2007, with the greedy choice of its
        last section.
    """
    n_candidates = 2 + int(math.log(n_clusters))
    cosines = sample @ sample.T if len(sample) <= min(SAMPLE, n_clusters * n_init * n_candidates) else None
    if weights is None:
        first = torch.randint(len(sample), (n_init,), generator=rng, device="cpu").to(sample.device)
    else:
        cumulative = weights.cumsum(0)
        draw = (
            torch.rand(n_init, generator=rng, dtype=torch.float64, device="cpu").to(cumulative.device) * cumulative[-1]
        )
        first = torch.searchsorted(cumulative, draw, right=True).clamp(max=len(sample) - 1)
    draws = torch.rand(n_clusters - 1, n_init, n_candidates, generator=rng, dtype=torch.float64, device="cpu").to(
        sample.device
    )
    n_together = max(1, CACHED // (n_candidates * len(sample))) if sample.device.type == "cpu" else n_init
    parts = [
        _greedy_choice(sample, cosines, weights, *part)
        for part in zip(first.split(n_together), draws.split(n_together, 1), strict=True)
    ]
    indices, objective = (torch.cat(x) for x in zip(*parts, strict=True))
    return indices, objective


def _greedy_choice(
    sample: Tensor, cosines: Tensor | None, weights: Tensor | None, first: Tensor, draws: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the result of `_k_means_plus_plus` for first points [B] and random numbers [K - 1, B, n_candidates]."""
    restarts, shape = torch.arange(len(first), device=sample.device), (*draws.shape[1:], len(sample))
    indices, similarity = [first], _rows(sample, cosines, first)  # [B, m]
    for draw in draws:
        weight = (1 - similarity).clamp(min=0).double()
        cumulative = (weight if weights is None else weight * weights).cumsum(1)
        candidates = torch.searchsorted(cumulative, draw * cumulative[:, -1:], right=True).clamp(max=len(sample) - 1)
        cosine = _rows(sample, cosines, candidates.flatten()).view(shape)
        closer = torch.maximum(similarity[:, None], cosine)  # [B, n_candidates, m]
        best = (closer.sum(2) if weights is None else closer.double() @ weights).argmax(1)
        indices.append(candidates[restarts, best])
        similarity = closer[restarts, best]
    return torch.stack(indices, dim=1), similarity.mean(1)


def _rows(sample: Tensor, cosines: Tensor | None, indices: Tensor) -> Tensor:
    """Return rows of `sample @ sample.T`, which is `cosines` unless that is too large."""
    return sample[indices] @ sample.T if cosines is None else cosines[indices]


def check_init(init: str | Array, n_clusters: int) -> str | Tensor:
    """Return `init` as a known name or a tensor of finite nonzero vectors. Raise TypeError or ValueError otherwise."""
    if isinstance(init, str):
        check_choice("init", init, INIT)
        return init
    centroids = as_tensor("init", init, "[K, C] or [B, K, C]", 2, 3)
    if centroids.shape[-2] != n_clusters or 0 in centroids.shape:
        raise ValueError(
            f"init must have shape [K, C] or [B, K, C] with K = {n_clusters} and B, C >= 1, "
            f"got {tuple(centroids.shape)}"
        )
    norm = torch.linalg.vector_norm(centroids.double(), dim=-1)
    wrong = (~norm.isfinite() | (norm == 0)).nonzero()
    if len(wrong):
        raise ValueError(f"init must hold finite nonzero vectors, got another at {tuple(wrong[0].tolist())}")
    return centroids
