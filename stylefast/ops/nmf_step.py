# SPDX-License-Identifier: Apache-2.0
"""Memberships of points in the components of a non-negative factorisation, and the sums that update the components."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.checks import check_activations, check_integer, check_tensor
from ..core.dtypes import DTYPES, accumulator, in_accumulator
from . import assign as assignment
from .op import BadCall, Cost, Op


class NMFStep(NamedTuple):
    """Result of `nmf_step`.

    Attributes:
        memberships: U, [N, K, H, W] float32 (float64 for float64 activations).
        products: `sum_i U_ik x_i`, [K, C] float64.
        gram: `sum_i U_ij U_ik`, [K, K] float64.
        energy: `sum_i |x_i|^2`, [] float64.
    """

    memberships: Tensor
    products: Tensor
    gram: Tensor
    energy: Tensor


def nmf_step(activations: Tensor, components: Tensor, sweeps: int, *, backend: str | None = None) -> NMFStep:
    """Factorise points with given components, and compute the sums from which the components are updated.

    The points x_i are the rectified C-vectors `max(a_i, 0)` of all positions. Coordinate descent minimises
    `|x_i - sum_k U_ik h_k|^2` over U_i >= 0. It needs the point only once, for `s = x_i H^T`. With `G = H H^T`::

        U_ik = s_k / sum_j G_kj                                    (start)
        U_ik <- max(0, U_ik + (s_k - sum_j G_kj U_ij) / G_kk)      (for k = 1 ... K, in each sweep)

    The membership of a component that is zero is zero.

    With these sums, the squared error of the points is `energy - 2 <products, H> + <gram, H H^T>`.

    Args:
        activations: Activations of shape [N, C, H, W]; float32, float64, float16 or bfloat16, any strides.
        components: Components H of shape [K, C], in any of these dtypes; finite, >= 0.
        sweeps: Number of sweeps of the coordinate descent, >= 1.
        backend: "cpu", "reference" or None.

    Returns:
        `NMFStep(memberships, products, gram, energy)`. NaN or +Inf in a point makes its memberships NaN.

    Raises:
        TypeError: If a tensor is not a dense tensor of one of these dtypes.
        ValueError: If a shape, the device of `components`, `sweeps` or the name of the backend is invalid.

    References:
        Cichocki and Phan, "Fast local algorithms for large scale nonnegative matrix and tensor factorizations", 2009.
    """
    check_activations(activations)
    check_tensor("components", components, "[K, C]", 2, like=activations)
    if components.shape[1] != activations.shape[1] or not len(components):
        raise ValueError(
            f"components must have shape [K, C] with K >= 1 and C = {activations.shape[1]} to match activations "
            f"[N, C, H, W], got {tuple(components.shape)}"
        )
    check_integer("sweeps", sweeps, 1)
    return NMFStep(*NMF_STEP(backend, activations, in_accumulator(components, activations.dtype), sweeps))


def reference(activations: Tensor, components: Tensor, sweeps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = activations.to(accumulator(activations.dtype)).clamp(min=0)  # keeps NaN
    x = torch.where(x.isfinite(), x, torch.nan)
    score = torch.einsum("nchw,kc->nkhw", x, components)
    gram = components @ components.T
    diagonal, total = gram.diagonal(), gram.sum(1)
    u = score / torch.where(total > 0, total, 1)[:, None, None]
    for _ in range(sweeps):
        for k in range(len(gram)):
            gain = score[:, k] - torch.einsum("k,nkhw->nhw", gram[k], u)
            u[:, k] = (u[:, k] + gain / torch.where(diagonal[k] > 0, diagonal[k], 1)).clamp(min=0)
    products = torch.einsum("nkhw,nchw->kc", u, x)
    return u.contiguous(), products.double(), torch.einsum("njhw,nkhw->jk", u, u).double(), x.double().square().sum()


def fake(activations: Tensor, components: Tensor, sweeps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, c, h, w = activations.shape
    k = len(components)
    u = activations.new_empty((n, k, h, w), dtype=components.dtype)
    sums = u.new_empty((k, c), dtype=torch.float64)
    return u, sums, sums.new_empty((k, k)), sums.new_empty(())


def cost(activations: Tensor, components: Tensor, sweeps: int) -> Cost:
    """Count one read of the activations and one write of U, two products with the activations, and the sweeps."""
    positions, k = activations.numel() // activations.shape[1], len(components)
    written = positions * k * components.itemsize
    return Cost(activations.nbytes + written, 4 * k * activations.numel() + 2 * k * k * (sweeps + 1) * positions)


def samples() -> Iterator[tuple[str, dict[str, Any]]]:
    for n, c, h, w, k in assignment.SIZES:
        yield f"f32-{n}x{c}x{h}x{w}-K{k}", _sample(n, c, h, w, k, torch.float32)
    for dtype in DTYPES[1:]:
        yield f"{dtype}"[6:], _sample(2, 37, 9, 14, 7, dtype)
    yield "threads", _sample(2, 40, 13, 21, 12, torch.float64)
    base = _sample(2, 18, 12, 20, 6, torch.float32)
    for layout, view in assignment.strided(base["activations"]):
        yield layout, {**base, "activations": view}


def _sample(n: int, c: int, h: int, w: int, k: int, dtype: torch.dtype) -> dict[str, Any]:
    activations, components = assignment.clustered(n, c, h, w, k, dtype)
    return {"activations": activations, "components": components.abs(), "sweeps": 3}


def errors() -> Iterator[BadCall]:
    x, components = torch.ones(2, 4, 3, 3), torch.ones(2, 4)
    yield BadCall((x[0], components, 1), {}, ValueError, r"activations must have shape \[N, C, H, W\]")
    yield BadCall((x, components[0], 1), {}, ValueError, r"components must have shape \[K, C\], got \(4,\)")
    yield BadCall((x, components[:, :3], 1), {}, ValueError, r"with K >= 1 and C = 4 .* got \(2, 3\)")
    yield BadCall((x, components[:0], 1), {}, ValueError, r"with K >= 1 and C = 4 .* got \(0, 4\)")
    yield BadCall((x, components.to("meta"), 1), {}, ValueError, "components must be on cpu")
    yield BadCall((x, components.int(), 1), {}, TypeError, "components must be float32, .* got torch.int32")
    yield BadCall((x, components, 0), {}, ValueError, "sweeps must be an integer >= 1, got 0")


NMF_STEP = Op(
    name="nmf_step",
    schema="(Tensor activations, Tensor components, int sweeps) -> (Tensor, Tensor, Tensor, Tensor)",
    public=nmf_step,
    reference=reference,
    fake=fake,
    cost=cost,
    samples=samples,
    errors=errors,
    backends=("cpu", "reference"),
)
