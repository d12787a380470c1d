# SPDX-License-Identifier: Apache-2.0
"""One Lloyd iteration of spherical k-means, for any number of restarts, in one read of the activations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.dtypes import accumulator
from . import assign as assignment
from .op import BadCall, Cost, Op


class LloydStep(NamedTuple):
    """Labels [.., N, H, W] int32, sums [.., K, C], counts [.., K] int64, objective [..] float64; .. is B or nothing."""

    labels: Tensor
    sums: Tensor
    counts: Tensor
    objective: Tensor


def lloyd_step(
    activations: Tensor, centroids: Tensor, *, features: str = "raw", backend: str | None = None
) -> LloydStep:
    """Assigns every point and sums the unit-normalised points of every cluster: all that a Lloyd iteration needs.

    sums_k = sum_{i in k} x_i / |x_i|; counts_k = |k|; objective = mean_i <x_i / |x_i|, c_label(i)>

    The next centroids are sums_k / |sums_k|. Points with |x| zero or not finite add nothing to sums and counts.

    Args:
        activations: [N, C, H, W] float32, float64, float16 or bfloat16, any strides.
        centroids: [K, C], or [B, K, C] for B restarts that share the read.
        features: as in `stylefast.assign`.
        backend: as in `stylefast.assign`.

    Returns:
        labels [.., N, H, W] int32 as in `stylefast.assign`; sums [.., K, C] float32 (float64 for float64 activations);
        counts [.., K] int64; objective [..] float64, the mean over all N*H*W points (0 of no points, NaN if a point's
        norm is not finite).

    Raises:
        TypeError, ValueError: wrong type, dtype, rank, shape, device or features. RuntimeError: `backend` cannot run.

    Source: Dhillon and Modha, "Concept decompositions for large sparse text data using clustering", 2001.
    """
    assignment.check(activations, centroids, features, ranks=(2, 3))
    stacked = centroids.to(accumulator(activations.dtype)).reshape(-1, *centroids.shape[-2:])  # [B, K, C]
    step = LloydStep(*LLOYD_STEP(backend, activations, stacked, features))
    return step if centroids.dim() == 3 else LloydStep(*(x.squeeze(0) for x in step))


def from_labels(labels: Tensor, activations: Tensor, centroids: Tensor, features: str) -> tuple[Tensor, Tensor, Tensor]:
    """sums [B, K, C], counts [B, K], objective [B] of labels [B, N, H, W]."""
    x = assignment.points(activations, features)
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)  # [N, 1, H, W]
    counted = norm.isfinite() & (norm > 0)
    unit = torch.where(counted, x / norm, 0)  # [N, C, H, W]
    clusters = torch.arange(centroids.shape[1], device=x.device).view(1, -1, 1, 1)
    sums, counts, objective = [], [], []
    for label, centroid in zip(labels, centroids, strict=True):
        member = (label.unsqueeze(1) == clusters) & counted  # [N, K, H, W]
        sums.append(torch.einsum("nkhw,nchw->kc", member.to(x.dtype), unit))
        counts.append(member.sum((0, 2, 3)))
        (cosine,) = assignment.from_labels(label, activations, centroid, features)
        objective.append(cosine.double().sum() / max(1, cosine.numel()))
    return torch.stack(sums), torch.stack(counts), torch.stack(objective)


def reference(activations: Tensor, centroids: Tensor, features: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    labels = torch.stack([assignment.best_labels(activations, c, features) for c in centroids])  # [B, N, H, W]
    return labels, *from_labels(labels, activations, centroids, features)


def fake(activations: Tensor, centroids: Tensor, features: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, c, h, w = activations.shape
    b, k, _ = centroids.shape
    return (
        activations.new_empty((b, n, h, w), dtype=torch.int32),
        activations.new_empty((b, k, c), dtype=accumulator(activations.dtype)),
        activations.new_empty((b, k), dtype=torch.int64),
        activations.new_empty((b,), dtype=torch.float64),
    )


def cost(activations: Tensor, centroids: Tensor, features: str) -> Cost:
    """Reads the activations once (twice when they must be standardised) for all restarts; writes labels and sums."""
    reads = 2 if features == "standardized" else 1
    b, k, c = centroids.shape
    positions = activations.numel() // c
    products = 2 * activations.numel() * b * k
    additions = 2 * activations.numel() * (b + 1)  # normalise, |x|^2, and one sum a restart
    return Cost(reads * activations.nbytes + 2 * centroids.nbytes + 4 * b * positions, products + additions)


def samples() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, activations, centroids, features in assignment.activation_samples():
        yield name, {"activations": activations, "centroids": centroids[None], "features": features}
    x, centroids = assignment.clustered(3, 19, 6, 23, 15, torch.float32)
    yield "three-restarts", {"activations": x, "centroids": centroids.view(3, 5, 19), "features": "raw"}
    restarts = centroids.double()[:14].view(2, 7, 19)
    yield "two-restarts-squared", {"activations": x.double(), "centroids": restarts, "features": "squared"}


def errors() -> Iterator[BadCall]:
    yield from assignment.errors(r"\[K, C\] or \[B, K, C\]")
    yield BadCall((torch.ones(1, 2, 3, 3), torch.ones(0, 4, 2)), {}, ValueError, r"K >= 1 .* got \(0, 4, 2\)")


LLOYD_STEP = Op(
    name="lloyd_step",
    schema="(Tensor activations, Tensor centroids, str features) -> (Tensor, Tensor, Tensor, Tensor)",
    public=lloyd_step,
    reference=reference,
    from_labels=from_labels,
    fake=fake,
    cost=cost,
    samples=samples,
    errors=errors,
)
