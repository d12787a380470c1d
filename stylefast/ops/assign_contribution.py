# SPDX-License-Identifier: Apache-2.0
"""Labels and contribution matrix of one layer in one read of its activations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from ..core.dtypes import DTYPES, accumulator
from . import assign as assignment
from . import contribution
from .op import BadCall, Cost, Op


class LabelsAndContribution(NamedTuple):
    """Labels [N, H, W] int32 and M [K, C] or [N, K, C]."""

    labels: Tensor
    contribution: Tensor


def assign_contribution(
    activations: Tensor,
    centroids: Tensor,
    *,
    features: str = "raw",
    standardize: bool = True,
    per_image: bool = False,
    backend: str | None = None,
) -> LabelsAndContribution:
    """Assigns every point and measures each channel's contribution to each cluster, reading the activations once.

    labels = assign(A, c).labels; M = contribution(A, labels, K): the two ops in sequence, fused.

    Args:
        activations: [N, C, H, W] float32, float64, float16 or bfloat16, any strides.
        centroids: [K, C].
        features: what is clustered, as in `stylefast.assign`. M is of the activations in any case.
        standardize: as in `stylefast.contribution`.
        per_image: as in `stylefast.contribution`.
        backend: as in `stylefast.assign`.

    Returns:
        labels [N, H, W] int32; M [K, C], or [N, K, C] if per_image: float32 (float64 for float64 activations).

    Raises:
        TypeError, ValueError: wrong type, dtype, rank, shape, device or features. RuntimeError: `backend` cannot run.

    Source: "Editing in Style" (Collins et al., CVPR 2020), section 3.2 and equation 1.
    """
    assignment.check(activations, centroids, features)
    centroids = centroids.to(accumulator(activations.dtype))
    return LabelsAndContribution(
        *ASSIGN_CONTRIBUTION(backend, activations, centroids, features, bool(standardize), bool(per_image))
    )


def from_labels(
    labels: Tensor, activations: Tensor, centroids: Tensor, features: str, standardize: bool, per_image: bool
) -> tuple[Tensor]:
    return (contribution.reference(activations, labels, len(centroids), standardize, "nearest", per_image),)


def reference(
    activations: Tensor, centroids: Tensor, features: str, standardize: bool, per_image: bool
) -> tuple[Tensor, Tensor]:
    labels = assignment.best_labels(activations, centroids, features)
    return labels, *from_labels(labels, activations, centroids, features, standardize, per_image)


def fake(
    activations: Tensor, centroids: Tensor, features: str, standardize: bool, per_image: bool
) -> tuple[Tensor, Tensor]:
    labels, _ = assignment.fake(activations, centroids, features)
    return labels, contribution.fake(activations, labels, len(centroids), standardize, "nearest", per_image)


def cost(activations: Tensor, centroids: Tensor, features: str, standardize: bool, per_image: bool) -> Cost:
    """Reads the activations once (twice when the clustered features must be standardised); writes labels and M."""
    labelling = assignment.cost(activations, centroids, features)
    rows = len(activations) if per_image else 1
    return Cost(labelling.bytes + rows * centroids.nbytes, labelling.flops + 4 * activations.numel())


def samples() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, activations, centroids, features in assignment.activation_samples():
        inputs = {"activations": activations, "centroids": centroids, "features": features}
        yield name, {**inputs, "standardize": True, "per_image": False}
    x, centroids = assignment.clustered(3, 19, 6, 23, 5, dtype=DTYPES[0])
    for standardize in (True, False):
        inputs = {"activations": x, "centroids": centroids, "features": "raw"}
        yield f"per-image-{standardize}", {**inputs, "standardize": standardize, "per_image": True}
    inputs = {"activations": x * 1e-3 + 1.0, "centroids": centroids, "features": "standardized"}
    yield "far-from-zero", {**inputs, "standardize": True, "per_image": False}


def errors() -> Iterator[BadCall]:
    yield from assignment.errors()


ASSIGN_CONTRIBUTION = Op(
    name="assign_contribution",
    schema=(
        "(Tensor activations, Tensor centroids, str features, bool standardize, bool per_image) -> (Tensor, Tensor)"
    ),
    public=assign_contribution,
    reference=reference,
    from_labels=from_labels,
    fake=fake,
    cost=cost,
    samples=samples,
    errors=errors,
)
