# SPDX-License-Identifier: Apache-2.0
"""Op `assign_soft_contribution`: labels, and then M from memberships. Each of both reads the activations.

One read would need the statistics of an image before its first tile, or two float32 sums per channel and cluster on the
chip, as in `assign_contribution`.
"""

from __future__ import annotations

from torch import Tensor

from . import assign, soft_contribution


def launch(
    activations: Tensor, centroids: Tensor, memberships: Tensor, features: str, standardize: bool, per_image: bool
) -> tuple[Tensor, Tensor]:
    labels, _ = assign.launch(activations, centroids, features)
    return labels, soft_contribution.launch(activations, memberships, standardize, "bilinear", per_image)
