# SPDX-License-Identifier: Apache-2.0
"""Labels of one layer, and its contribution matrix M of memberships."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.dtypes import DTYPES, accumulator, in_accumulator
from . import assign as assignment
from . import soft_contribution
from .op import BadCall, Cost, Op


class LabelsAndContribution(NamedTuple):
    """Result of `assign_contribution`.

    Attributes:
        labels: Label of every point, [N, H, W] int32.
        contribution: M, [K, C] or, per image, [N, K, C]; float32 or float64.
    """

    labels: Tensor
    contribution: Tensor


def assign_soft_contribution(
    activations: Tensor,
    centroids: Tensor,
    memberships: Tensor,
    *,
    features: str = "raw",
    standardize: bool = True,
    per_image: bool = False,
    backend: str | None = None,
) -> LabelsAndContribution:
    """Assign every point, and measure the contribution of each channel to each cluster of the memberships.

    The result is the same as from the two ops in sequence, with a bilinear resize. On CPUs, the activations are read
    from memory once if an image fits into the caches::

        labels = assign(A, c).labels
        M = soft_contribution(A, U)

    Args:
        activations: Activations of shape [N, C, H, W], as in `stylefast.assign_contribution`.
        centroids: Centroids, as in `stylefast.assign_contribution`.
        memberships: Memberships U >= 0 of shape [N, K', h, w], as in `stylefast.contribution`. K' may differ from the
            number of centroids.
        features: Kind of points that are assigned, as in `stylefast.assign`.
        standardize: Whether M standardises the activations, as in `stylefast.contribution`.
        per_image: Whether to return one M per image, as in `stylefast.contribution`.
        backend: Name of a backend, as in `stylefast.assign`.

    Returns:
        `LabelsAndContribution(labels, contribution)`. Labels have shape [N, H, W], int32. M has shape [K', C], or
        [N, K', C] if `per_image` is set.

    Raises:
        TypeError: If a tensor is not a dense tensor of one of these dtypes.
        ValueError: If a shape, a device, a membership, `features` or the name of the backend is invalid.
        RuntimeError: If `backend` cannot run on this machine or on the device of the tensors.

    References:
        Collins et al., "Editing in Style: Uncovering the Local Semantics of GANs", CVPR 2020, section 3.2, equation 1.
    """
    assignment.check(activations, centroids, features)
    memberships = soft_contribution.checked(memberships, activations)
    centroids = in_accumulator(centroids, activations.dtype)
    return LabelsAndContribution(
        *ASSIGN_SOFT_CONTRIBUTION(
            backend, activations, centroids, memberships, features, bool(standardize), bool(per_image)
        )
    )


def from_labels(
    labels: Tensor,
    activations: Tensor,
    centroids: Tensor,
    memberships: Tensor,
    features: str,
    standardize: bool,
    per_image: bool,
) -> tuple[Tensor]:
    return (soft_contribution.reference(activations, memberships, standardize, "bilinear", per_image),)


def reference(
    activations: Tensor, centroids: Tensor, memberships: Tensor, features: str, standardize: bool, per_image: bool
) -> tuple[Tensor, Tensor]:
    labels = assignment.best_labels(activations, centroids, features)
    return labels, *from_labels(labels, activations, centroids, memberships, features, standardize, per_image)


def fake(
    activations: Tensor, centroids: Tensor, memberships: Tensor, features: str, standardize: bool, per_image: bool
) -> tuple[Tensor, Tensor]:
    labels, _ = assignment.fake(activations, centroids, features)
    return labels, soft_contribution.fake(activations, memberships, standardize, "bilinear", per_image)


def cost(
    activations: Tensor, centroids: Tensor, memberships: Tensor, features: str, standardize: bool, per_image: bool
) -> Cost:
    """Count the reads of `assign`, one read of the memberships, and one write of labels and M."""
    labelling = assignment.cost(activations, centroids, features)
    soft = soft_contribution.cost(activations, memberships, standardize, "bilinear", per_image)
    positions = activations.numel() // activations.shape[1]
    read = labelling.bytes - 4 * positions  # without the similarity
    return Cost(read + soft.bytes - activations.nbytes, labelling.flops + soft.flops)


def samples() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, activations, centroids, features in assignment.activation_samples():
        yield name, _sample(activations, centroids, len(centroids), activations.shape[2:], features)
    x, centroids = assignment.clustered(3, 19, 6, 23, 5, dtype=DTYPES[0])
    for standardize in (True, False):
        for k, grid in ((5, (6, 23)), (14, (3, 4)), (2, (9, 30))):
            options = {"standardize": standardize, "per_image": True}
            yield f"per-image-{standardize}-K{k}", {**_sample(x, centroids, k, grid, "raw"), **options}
    yield (
        "resized-channels_last",
        _sample(x.contiguous(memory_format=torch.channels_last), centroids, 7, (4, 5), "squared"),
    )
    yield "far-from-zero", _sample(x * 1e-3 + 1.0, centroids, 8, (6, 23), "standardized")


def _sample(x: Tensor, centroids: Tensor, k: int, grid: tuple[int, ...], features: str) -> dict[str, Any]:
    memberships = soft_contribution.random(len(x), k, grid[0], grid[1], accumulator(x.dtype))
    inputs = {"activations": x, "centroids": centroids, "memberships": memberships, "features": features}
    return {**inputs, "standardize": True, "per_image": False}


def errors() -> Iterator[BadCall]:
    for bad in assignment.errors():
        yield BadCall((*bad.args, torch.ones(2, 5, 3, 3)), bad.kwargs, bad.error, bad.match)
    yield from soft_contribution.membership_errors(torch.ones(2, 4, 3, 3), torch.ones(5, 4))


ASSIGN_SOFT_CONTRIBUTION = Op(
    name="assign_soft_contribution",
    schema=(
        "(Tensor activations, Tensor centroids, Tensor memberships, str features, bool standardize, bool per_image) -> "
        "(Tensor, Tensor)"
    ),
    public=assign_soft_contribution,
    reference=reference,
    from_labels=from_labels,
    fake=fake,
    cost=cost,
    samples=samples,
    errors=errors,
    backends=("cpu", "reference"),
)
