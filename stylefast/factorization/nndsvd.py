# SPDX-License-Identifier: Apache-2.0
"""Initial components from the singular vectors of the points."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Initial(NamedTuple):
    """Start of a factorisation.

    Attributes:
        components: Components of NNDSVD without zeros, [K, C] float64; ones if `in_range` is False or the points are 0.
        energy: Squared norm of all points.
        in_range: Whether the energy is finite, and the square of the largest value is a normal number or 0, in the
            dtype of the points.
    """

    components: Tensor
    energy: float
    in_range: bool


def initial_components(points: Callable[[], Iterable[Tensor]], n_components: int) -> Initial:
    """Compute the components of NNDSVD from which a factorisation starts.

    For the k-th singular value s and its singular vectors u, v, let + and - be their positive and negative parts. The
    component uses the pair with the larger product m of norms::

        h_k = sqrt(s m) v± / |v±|,    m = max(|u+| |v+|, |u-| |v-|)

    Zeros are replaced by `sqrt(mean / K)` with the mean of the points, so that scaled points have scaled components.
    The points are read twice: for their Gram matrix, whose eigenvectors are v, and for the norms of u+ and u-.

    Args:
        points: Function whose result yields all points, [n, C, P] >= 0.
        n_components: Number of components K, at most C.

    References:
        Boutsidis and Gallopoulos, "SVD based initialization: A head start for nonnegative matrix factorization", 2008.
    """
    gram, total, count = torch.zeros((), dtype=torch.float64, device="cpu"), 0.0, 0
    largest, smallest_normal = 0.0, 0.0
    for x in points():
        largest, smallest_normal = max(largest, x.max().item()), torch.finfo(x.dtype).tiny
        gram = torch.matmul(x, x.transpose(1, 2)).sum(0, dtype=torch.float64) + gram.to(x.device)
        total, count = total + x.sum(dtype=torch.float64).item(), count + x.numel()
    energy = float(gram.diagonal().sum())
    in_range = math.isfinite(energy) and (largest == 0 or largest * largest >= smallest_normal)
    if energy == 0 or not in_range:
        return Initial(torch.ones(n_components, len(gram), dtype=torch.float64, device=gram.device), energy, in_range)
    values, vectors = torch.linalg.eigh(gram)
    values, v = values.flip(0)[:n_components].clamp(min=0), vectors.T.flip(0)[:n_components]  # [K], [K, C]
    above, below = torch.zeros_like(values), torch.zeros_like(values)  # s^2 |u+|^2 and s^2 |u-|^2
    for x in points():
        projection = torch.matmul(v.to(x.dtype), x)  # [n, K, P]
        above += projection.clamp(min=0).square().sum((0, 2), dtype=torch.float64)
        below += projection.clamp(max=0).square().sum((0, 2), dtype=torch.float64)
    positive, negative = v.clamp(min=0), (-v).clamp(min=0)
    products = torch.stack((above.sqrt() * positive.norm(dim=1), below.sqrt() * negative.norm(dim=1)))  # s m
    chosen = torch.where((products[0] >= products[1])[:, None], positive, negative)
    components = products.amax(0).sqrt()[:, None] * torch.nn.functional.normalize(chosen, dim=1)
    components = torch.where(components > 0, components, math.sqrt(total / count / n_components))
    return Initial(components, energy, in_range)
