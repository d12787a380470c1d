# SPDX-License-Identifier: Apache-2.0
"""The first centroids of spherical k-means: given ones, or points of a random sample."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from ..core.checks import as_tensor, check_choice
from .data import Batch, Points
from .lloyd import directions
from .prefetch import Array

INIT = ("k-means++", "random")
SAMPLE = 4096  # points, or 64 a cluster, that seeds are chosen from
SEEDINGS, STEPS = 16, 5  # of a restart on the sample, of which one goes on
PERMUTED = 1 << 24  # points that are permuted to draw a sample: 128 MB; of more the places are drawn one by one


def seeds(points: Points, init: str | Tensor, n_clusters: int, n_init: int, rng: torch.Generator) -> Tensor:
    """First centroids [B, K, C] of unit norm: given ones, or of a random sample of the points that are not zero."""
    if isinstance(init, Tensor):
        if init.shape[-1] != points.channels or init.device != points.device:
            raise ValueError(
                f"init must have shape [K, C] or [B, K, C] with C = {points.channels} on {points.device} like the "
                f"activations, got {tuple(init.shape)} on {init.device}"
            )
        given = torch.nn.functional.normalize(init.double(), dim=-1).to(points.dtype)
        return given.reshape(-1, *init.shape[-2:])
    size = min(points.n_nonzero, max(SAMPLE, 64 * n_clusters))
    sample = points.gather(_draw(points.n_nonzero, size, rng).sort().values)  # [m, C]; ascending: read in order
    if init == "k-means++" and SEEDINGS * STEPS * size <= 2 * points.n_nonzero:
        return _refined(sample, points.backend, n_clusters, n_init, rng)
    return chosen(sample, init, n_clusters, n_init, rng)


def chosen(
    sample: Tensor, init: str, n_clusters: int, n_init: int, rng: torch.Generator, weights: Tensor | None = None
) -> Tensor:
    """First centroids [n_init, K, C] among unit points [m, C], with chances as their weights [m] float64."""
    if init == "k-means++":
        return sample[_k_means_plus_plus(sample, n_clusters, n_init, rng, weights)]
    if weights is not None:
        return sample[torch.multinomial(weights.expand(n_init, -1), n_clusters, generator=rng)]
    places = torch.stack([torch.randperm(len(sample), generator=rng)[:n_clusters] for _ in range(n_init)])
    return sample[places.to(sample.device)]


def _draw(n: int, size: int, rng: torch.Generator) -> Tensor:
    """Different numbers below n: [size] int64."""
    if n <= PERMUTED:
        return torch.randperm(n, generator=rng)[:size]
    seed = int(torch.randint(1 << 62, (), generator=rng))
    return torch.tensor(random.Random(seed).sample(range(n), size))


def _refined(sample: Tensor, backend: str | None, n_clusters: int, n_init: int, rng: torch.Generator) -> Tensor:
    """For every restart the best of SEEDINGS seedings after STEPS of Lloyd on the sample [m, C]: [n_init, K, C].

    All of them together cost at most two steps on all points, and save some. Source: Bradley and Fayyad, "Refining
    initial points for k-means clustering", 1998.
    """
    batch = Batch.of(sample, "raw", backend)
    centroids = sample[_k_means_plus_plus(sample, n_clusters, SEEDINGS * n_init, rng)]
    for _ in range(STEPS):
        centroids = directions(batch.step(centroids).sums, centroids)
    best = batch.step(centroids).objective.view(n_init, SEEDINGS).argmax(1)
    return centroids.unflatten(0, (n_init, SEEDINGS))[torch.arange(n_init, device=best.device), best]


def _k_means_plus_plus(
    sample: Tensor, n_clusters: int, n_init: int, rng: torch.Generator, weights: Tensor | None = None
) -> Tensor:
    """Greedy k-means++ among unit points [m, C] of weights [m], all restarts at once: indices [n_init, K].

    Candidates are drawn with weight 1 - max cosine to the points chosen before; of 2 + log K candidates the one with
    the best objective is chosen. Source: Arthur and Vassilvitskii, "k-means++", 2007, with the greedy choice of its
    last section.
    """
    n_candidates, runs = 2 + int(math.log(n_clusters)), torch.arange(n_init, device=sample.device)
    if weights is None:
        first = torch.randint(len(sample), (n_init,), generator=rng).to(sample.device)
    else:
        running = weights.cumsum(0)
        draw = torch.rand(n_init, generator=rng, dtype=torch.float64).to(running.device) * running[-1]
        first = torch.searchsorted(running, draw, right=True).clamp(max=len(sample) - 1)
    indices, similarity = [first], sample[first] @ sample.T  # [n_init, m]
    for _ in range(1, n_clusters):
        weight = (1 - similarity).clamp(min=0).double()
        weight = (weight if weights is None else weight * weights).cumsum(1)
        draw = torch.rand(n_init, n_candidates, generator=rng, dtype=torch.float64).to(weight.device) * weight[:, -1:]
        candidates = torch.searchsorted(weight, draw, right=True).clamp(max=len(sample) - 1)
        cosine = (sample[candidates.flatten()] @ sample.T).view(n_init, n_candidates, -1)
        closer = torch.maximum(similarity[:, None], cosine)  # [n_init, n_candidates, m]
        best = (closer.sum(2) if weights is None else closer.double() @ weights).argmax(1)
        indices.append(candidates[runs, best])
        similarity = closer[runs, best]
    return torch.stack(indices, dim=1)


def check_init(init: str | Array, n_clusters: int) -> str | Tensor:
    """`init` as a known name, or as a tensor whose vectors have a direction."""
    if isinstance(init, str):
        check_choice("init", init, INIT)
        return init
    given = as_tensor("init", init, "[K, C] or [B, K, C]", 2, 3)
    if given.shape[-2] != n_clusters or 0 in given.shape:
        raise ValueError(
            f"init must have shape [K, C] or [B, K, C] with K = {n_clusters} and B, C >= 1, got {tuple(given.shape)}"
        )
    norm = torch.linalg.vector_norm(given.double(), dim=-1)
    wrong = (~norm.isfinite() | (norm == 0)).nonzero()
    if len(wrong):
        raise ValueError(f"init must hold finite vectors other than zero, got another at {tuple(wrong[0].tolist())}")
    return given
