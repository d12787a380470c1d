# SPDX-License-Identifier: Apache-2.0
"""Labels and contribution matrix of one layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..core.dtypes import DTYPES, in_accumulator
from . import assign as assignment
from . import assign_soft_contribution as soft
from . import contribution
from .assign_soft_contribution import LabelsAndContribution
from .op import BadCall, Cost, Op


def assign_contribution(
    activations: Tensor,
    centroids: Tensor,
    *,
    memberships: Tensor | None = None,
    features: str = "raw",
    standardize: bool = True,
    per_image: bool = False,
    backend: str | None = None,
) -> LabelsAndContribution:
    """Assign every point and measure the contribution of each channel to each cluster, in one fused op.

    The result is the same as from the two ops in sequence. On CPUs, the activations are read once::

        labels = assign(A, c).labels
        M = contribution(A, labels, K)

    With memberships U, M is that of U instead of the labels: `M = contribution(A, U, K')`. The activations are then
    read once from memory if an image fits into the caches.

    Args:
        activations: Activations of shape [N, C, H, W]; float32, float64, float16 or bfloat16, any strides.
        centroids: Centroids of shape [K, C], in any of these dtypes.
        memberships: Memberships U >= 0 of shape [N, K', h, w], as in `stylefast.contribution`. K' may differ from K. A
            bilinear resize gives them the size of the activations.
        features: Kind of points that are assigned, as in `stylefast.assign`. M does not depend on it except through
            the labels.
        standardize: Whether M standardises the activations, as in `stylefast.contribution`.
        per_image: Whether to return one M per image, as in `stylefast.contribution`.
        backend: Name of a backend, as in `stylefast.assign`.

    Returns:
        `LabelsAndContribution(labels, contribution)`. Labels have shape [N, H, W], int32. M has shape [K, C], or
        [N, K, C] if `per_image` is set, and is float32 (float64 for float64 activations). With memberships, K' takes
        the place of K. NaN, Inf and values whose squares are too large have the effects on M that
        `stylefast.contribution` describes.

    Raises:
        TypeError: If `activations`, `centroids` or `memberships` is not a dense tensor of one of these dtypes.
        ValueError: If a shape, a device, a membership, `features` or the name of the backend is invalid.
        RuntimeError: If `backend` cannot run on this machine or on the device of the tensors.

    References:
        Collins et al., "Editing in Style: Uncovering the Local Semantics of GANs", CVPR 2020, section 3.2, equation 1.

    Example:
        >>> import torch
        >>> import stylefast
        >>> activations, centroids = torch.randn(2, 512, 16, 16), torch.randn(8, 512)
        >>> labels, m = stylefast.assign_contribution(activations, centroids)
        >>> labels.shape, m.shape
        (torch.Size([2, 16, 16]), torch.Size([8, 512]))
    """
    if memberships is not None:
        options = {"features": features, "standardize": standardize, "per_image": per_image, "backend": backend}
        return soft.assign_soft_contribution(activations, centroids, memberships, **options)
    assignment.check(activations, centroids, features)
    centroids = in_accumulator(centroids, activations.dtype)
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
    """Count one read of the activations (two if the points are standardised), and one write of labels and M."""
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
    for bad in soft.errors():
        *args, memberships = bad.args
        yield BadCall(tuple(args), {**bad.kwargs, "memberships": memberships}, bad.error, bad.match)


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
