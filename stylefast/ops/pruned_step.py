# SPDX-License-Identifier: Apache-2.0
"""Lloyd iteration that scores only the points whose label can change since the previous iteration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import assign as assignment
from . import lloyd_step as step
from .op import BadCall, Cost, Op


class PrunedStep(NamedTuple):
    """Result of `pruned_step`.

    Attributes:
        labels, counts: As in `stylefast.LloydStep`.
        bounds: Lower bounds on the cosine of every point to the centroid of its label, and upper bounds on its cosines
            to all other centroids, [2, B, N, H, W].
        sums: Sum of the unit-normalised points of every cluster, [B, K, C] float64. The points are rounded, so that
            the sum is exact and does not depend on the order of additions and subtractions.
        objective: As in `stylefast.LloydStep`, computed as `sum_k <sums_k, c_k>`.
    """

    labels: Tensor
    bounds: Tensor
    sums: Tensor
    counts: Tensor
    objective: Tensor


def pruned_step(
    activations: Tensor,
    centroids: Tensor,
    former: tuple[PrunedStep, Tensor] | None = None,
    *,
    features: str = "raw",
    backend: str | None = None,
) -> PrunedStep:
    """Run `stylefast.lloyd_step` on finite points in float32, and give the same bits with and without a former step.

    After centroids moved, the bounds of a point with label j are::

        lower - |c_j - former c_j|,    upper + max_{k != j} |c_k - former c_k|

    The point keeps its label without being scored against all centroids if the lower bound, or else its cosine to c_j,
    is above the upper bound by more than the rounding errors. Labels are those of `stylefast.lloyd_step`.

    Args:
        activations: Finite activations of shape [N, C, H, W] and any dtype except float64, with the same values in
            every step.
        centroids: Centroids of unit norm, [B, K, C].
        former: A former step with the same B and K, and its centroids [B, K, C]. The centroids may have moved in any
            way. Without it, all points are scored.
        features: As in `stylefast.assign`.
        backend: "cpu", "reference" or None.

    Raises:
        TypeError, ValueError: As in `stylefast.lloyd_step`.

    References:
        Schubert, Lang and Feher, "Accelerating spherical k-means", 2021.
    """
    assignment.check(activations, centroids, features, ranks=(3, 3))
    if activations.dtype == torch.float64:
        raise TypeError("activations must be float32, float16 or bfloat16, got torch.float64")
    centroids = centroids.float()
    if former is None:
        return PrunedStep(*PRUNED_STEP(backend, activations, centroids, features, *[None] * 5))
    step, former_centroids = former
    state = (x.contiguous() for x in (*step[:4], movements(centroids, former_centroids)))
    return PrunedStep(*PRUNED_STEP(backend, activations, centroids, features, *state))


def movements(centroids: Tensor, former: Tensor) -> Tensor:
    """Return the movement `|c_k - former c_k|`, and the largest movement of the other centroids, [2, B, K].

    They are rounded up by more than the error of adding them to a bound.
    """
    moved = torch.linalg.vector_norm(centroids.double() - former.double(), dim=2)  # [B, K]
    first, second = torch.nn.functional.pad(moved, (0, 1)).topk(2, dim=1).values.split(1, dim=1)  # [B, 1]
    others = torch.where(moved == first, second, first)
    return (torch.stack((moved, others)) + 4 * torch.finfo(centroids.dtype).eps).to(centroids.dtype)


def reference(
    activations: Tensor, centroids: Tensor, features: str, *former: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    labels = torch.stack([assignment.best_labels(activations, c, features) for c in centroids])  # [B, N, H, W]
    return labels, *from_labels(labels, activations, centroids, features)


def from_labels(
    labels: Tensor, activations: Tensor, centroids: Tensor, features: str, *former: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the exact bounds, sums, counts and objective of the labels [B, N, H, W]."""
    sums, counts, _ = step.from_labels(labels, activations, centroids, features)
    norm = torch.linalg.vector_norm(assignment.points(activations, features), dim=1)  # [N, H, W]
    bounds = []
    for label, centroid in zip(labels, centroids, strict=True):
        score, label = assignment.scores(activations, centroid, features), label.long().unsqueeze(1)
        own, others = score.gather(1, label).squeeze(1), score.scatter(1, label, -torch.inf).amax(1)
        bounds.append(torch.where(norm > 0, torch.stack((own, others)) / norm, 0))
    objective = (sums.double() * centroids).sum((1, 2)) / max(1, norm.numel())
    return torch.stack(bounds, 1), sums.double(), counts, objective


def fake(activations: Tensor, centroids: Tensor, features: str, *former: Tensor | None) -> tuple[Tensor, ...]:
    labels, sums, counts, objective = step.fake(activations, centroids, features)
    bounds = labels.new_empty((2, *labels.shape), dtype=centroids.dtype)
    return labels, bounds, torch.empty_like(sums, dtype=torch.float64), counts, objective


def cost(activations: Tensor, centroids: Tensor, features: str, *former: Tensor | None) -> Cost:
    """Count the work of `lloyd_step`, and one write of the bounds. With bounds, the data decide how much is saved."""
    whole = step.cost(activations, centroids, features)
    positions = activations.numel() // activations.shape[1]
    return Cost(whole.bytes + 2 * centroids.itemsize * len(centroids) * positions, whole.flops)


def samples() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, inputs in step.samples():
        if inputs["activations"].dtype != torch.float64:
            yield name, {**inputs, **dict.fromkeys(("labels", "bounds", "sums", "counts", "movement"))}


def errors() -> Iterator[BadCall]:
    x, centroids = torch.ones(1, 2, 3, 3), torch.ones(1, 4, 2)
    yield BadCall((x, centroids[0]), {}, ValueError, r"centroids must have shape \[K, C\] or")
    yield BadCall((x, centroids), {"features": "cosine"}, ValueError, "features must be one of 'raw'")
    yield BadCall((x.double(), centroids), {}, TypeError, "activations must be float32, .* got torch.float64")


PRUNED_STEP = Op(
    name="pruned_step",
    schema=(
        "(Tensor activations, Tensor centroids, str features, Tensor? labels, Tensor? bounds, Tensor? sums, "
        "Tensor? counts, Tensor? movement) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    public=pruned_step,
    reference=reference,
    from_labels=from_labels,
    fake=fake,
    cost=cost,
    samples=samples,
    errors=errors,
    backends=("cpu", "reference"),
)
