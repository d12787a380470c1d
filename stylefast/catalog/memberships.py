# SPDX-License-Identifier: Apache-2.0
"""Memberships of the points of a layer in the components of a factorisation, whose sum is 1 at every position."""

from __future__ import annotations

from torch import Tensor

from ..core.dtypes import in_accumulator
from ..factorization.nmf import memberships


def normalized_memberships(activations: Tensor, components: Tensor, *, backend: str | None = None) -> Tensor:
    """Return the fraction of each position that belongs to each component::

        U[n, k, h, w] = V[n, k, h, w] / sum_j V[n, j, h, w]    (0 if the sum is 0)

    V are the memberships that `NMF.transform` computes.

    Args:
        activations: Activations of the layer, [N, C, h, w].
        components: Components of unit norm, [K, C].
        backend: Name of a backend, as in `stylefast.assign`.

    Returns:
        U, [N, K, h, w] float32.

    Raises:
        ValueError: If an activation is NaN or Inf.
    """
    u = memberships(activations, in_accumulator(components, activations.dtype), backend=backend)
    total = u.sum(1, keepdim=True)
    return (u / total.masked_fill(total == 0, 1)).float()
