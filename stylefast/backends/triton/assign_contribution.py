# SPDX-License-Identifier: Apache-2.0
"""Op `assign_contribution`: labels, and then M from the labels. Activations are read twice.

One read would need two float32 sums per channel and cluster on the chip: 128 KB for 512 channels and 32 clusters. This
is half of the registers of a multiprocessor, and labelling needs the other half.
"""

from __future__ import annotations

from torch import Tensor

from . import assign
from .moments import moments


def launch(
    activations: Tensor, centroids: Tensor, features: str, standardize: bool, per_image: bool
) -> tuple[Tensor, Tensor]:
    labels, _ = assign.launch(activations, centroids, features)
    return labels, moments(activations, labels, len(centroids), standardize, per_image)
