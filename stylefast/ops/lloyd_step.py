# SPDX-License-Identifier: Apache-2.0
"""One Lloyd iteration of spherical k-means for any number of restarts, from one read of the activations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.dtypes import accumulator, in_accumulator
from . import assign as assignment
from .op import BadCall, Cost, Op


class LloydStep(NamedTuple):
    """Result of `lloyd_step`. The leading dimension B exists only if `centroids` had shape [B, K, C].

    Attributes:
        labels: Label of every point, [B, N, H, W] int32.
        sums: Sum of the unit-normalised points of every cluster, [B, K, C] float32 or float64.
        counts: Number of points that were added to each sum, [B, K] int64.
        objective: Mean cosine of all points to the centroids of their labels, [B] float64.
    """

    labels: Tensor
    sums: Tensor
    counts: Tensor
    objective: Tensor


def lloyd_step(
    activations: Tensor, centroids: Tensor, *, features: str = "raw", backend: str | None = None
) -> LloydStep:
    """Assign every point and sum the unit-normalised points of every cluster, as a Lloyd iteration requires.

    For the points `x_i` and the centroids `c_k`, with labels as in `stylefast.assign`::

        sums_k = sum_{i in k} x_i / |x_i|
        counts_k = number of points in k
        objective = mean_i <x_i / |x_i|, c_label(i)>    (over all N · H · W points)

    The centroids of the next iteration are `sums_k / |sums_k|`. Points whose norm is zero or not finite are not added
    to sums and counts.

    Args:
        activations: Activations of shape [N, C, H, W]; float32, float64, float16 or bfloat16, any strides.
        centroids: Centroids of shape [K, C], or [B, K, C] for B restarts, which share one read of the activations.
        features: Kind of points, as in `stylefast.assign`.
        backend: Name of a backend, as in `stylefast.assign`.

    Returns:
        `LloydStep(labels, sums, counts, objective)`. If `centroids` has shape [K, C], the results have no dimension B.

        - Labels: [B, N, H, W], int32, as in `stylefast.assign`.
        - Sums: [B, K, C], float32 (float64 for float64 activations).
        - Counts: [B, K], int64.
        - Objective: [B], float64. It is 0 without points, and NaN if the norm of a point is not finite.

    Raises:
        TypeError: If `activations` or `centroids` is not a dense tensor of one of these dtypes.
        ValueError: If a shape, the device of `centroids`, `features` or the name of the backend is invalid.
        RuntimeError: If `backend` cannot run on this machine or on the device of the tensors.

    References:
        Dhillon and Modha, "Concept decompositions for large sparse text data using clustering", 2001.

    Example:
        >>> import torch
        >>> import stylefast
        >>> activations, centroids = torch.randn(2, 512, 16, 16), torch.randn(8, 512)
        >>> step = stylefast.lloyd_step(activations, centroids)
        >>> updated = torch.nn.functional.normalize(step.sums, dim=1)  # [K, C], the next centroids
        >>> updated.shape, int(step.counts.sum())
        (torch.Size([8, 512]), 512)
    """
    assignment.check(activations, centroids, features, ranks=(2, 3))
    centroids = in_accumulator(centroids, activations.dtype)
    if centroids.dim() == 3:
        return LloydStep(*LLOYD_STEP(backend, activations, centroids, features))
    labels, sums, counts, objective = LLOYD_STEP(backend, activations, centroids.unsqueeze(0), features)
    return LloydStep(labels.squeeze(0), sums.squeeze(0), counts.squeeze(0), objective.squeeze(0))


def from_labels(labels: Tensor, activations: Tensor, centroids: Tensor, features: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return sums [B, K, C], counts [B, K] and objective [B] of the labels [B, N, H, W]."""
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
    """Count one read of the activations for all restarts (two if standardised), and one write of labels and sums."""
    reads = 2 if features == "standardized" else 1
    b, k, c = centroids.shape
    positions = activations.numel() // c
    products = 2 * activations.numel() * b * k
    additions = 2 * activations.numel() * (b + 1)  # normalise, |x|^2, and one sum per restart
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
