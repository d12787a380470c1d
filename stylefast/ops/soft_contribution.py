# SPDX-License-Identifier: Apache-2.0
"""Contribution matrix M of memberships: `contribution` with a weight per cluster and position instead of a label."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.checks import check_activations, check_choice, check_tensor
from ..core.dtypes import DTYPES, accumulator, in_accumulator
from ..core.private_torch import has_memory
from . import assign as assignment
from .op import BadCall, Cost, Op

RESIZES = ("bilinear", "nearest")


def soft_contribution(
    activations: Tensor,
    memberships: Tensor,
    *,
    standardize: bool = True,
    resize: str = "bilinear",
    per_image: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Measure how much each channel of a layer contributes to each cluster, for clusters that share positions.

    This is `stylefast.contribution` for memberships U [N, K, h, w]::

        M[k, c] = 1 / (N H W) · sum_{n, h, w} A'[n, c, h, w]^2 · resize(U)[n, k, h, w]

    Args:
        activations: Activations, as in `stylefast.contribution`.
        memberships: Memberships U >= 0 of shape [N, K, h, w], for any h and w; float32, float64, float16 or bfloat16,
            any strides. The op computes with them in float32 (float64 for float64 activations).
        standardize: Whether to standardise the activations, as in `stylefast.contribution`.
        resize: Interpolation of the memberships: "bilinear" or "nearest".
        per_image: Whether to return one M per image, as in `stylefast.contribution`.
        backend: Name of a backend, as in `stylefast.assign`.

    Returns:
        M of shape [K, C], or [N, K, C] if `per_image` is set; float32 (float64 for float64 activations). NaN, Inf and
        values whose squares are too large have the effects that `stylefast.contribution` describes.

    Raises:
        TypeError: If `activations` or `memberships` is not a dense tensor of one of these dtypes.
        ValueError: If a shape, the device of `memberships`, a membership, `resize` or the name of the backend is
            invalid.
        RuntimeError: If `backend` cannot run on this machine or on the device of the tensors.

    References:
        Collins et al., "Editing in Style: Uncovering the Local Semantics of GANs", CVPR 2020, equation 1.
    """
    check_activations(activations)
    check_choice("resize", resize, RESIZES)
    memberships = checked(memberships, activations)
    return SOFT_CONTRIBUTION(backend, activations, memberships, bool(standardize), resize, bool(per_image))


def checked(memberships: Tensor, activations: Tensor) -> Tensor:
    """Return memberships as the kernels read them: contiguous, in the dtype that the op computes in.

    Values that are not in the memory of the CPU are not checked.

    Raises:
        TypeError: If they are not a dense floating-point tensor.
        ValueError: If their shape or device is wrong, or if a value is negative, infinite or NaN.
    """
    check_tensor("memberships", memberships, "[N, K, h, w]", 4, like=activations)
    n = activations.shape[0]
    if memberships.shape[0] != n or 0 in memberships.shape[1:]:
        shape = tuple(memberships.shape)
        raise ValueError(f"memberships must have shape [N, K, h, w] with N = {n} and K, h, w >= 1, got {shape}")
    memberships = in_accumulator(memberships, activations.dtype).contiguous()
    if memberships.is_cpu and has_memory(memberships) and memberships.numel():
        low, high = (limit.item() for limit in memberships.aminmax())
        if not (low >= 0 and high < math.inf):
            raise ValueError(f"memberships must be finite and >= 0, got values from {low:g} to {high:g}")
    return memberships


def resized(memberships: Tensor, size: tuple[int, int], resize: str) -> Tensor:
    """Return memberships [N, K, h, w] resized to [N, K, H, W], in any dtype.

    The nearest cell is chosen in float32 for every dtype, because torch's choice depends on the dtype.
    """
    if resize == "bilinear":
        return F.interpolate(memberships, size=size, mode=resize)
    h, w = memberships.shape[2:]
    rows, columns = (torch.arange(cells, dtype=torch.float32, device=memberships.device) for cells in (h, w))
    row = F.interpolate(rows[None, None], size=size[0], mode=resize).long().flatten()  # [H]
    column = F.interpolate(columns[None, None], size=size[1], mode=resize).long().flatten()  # [W]
    return memberships[:, :, row][..., column]


def reference(activations: Tensor, memberships: Tensor, standardize: bool, resize: str, per_image: bool) -> Tensor:
    n, _, h, w = activations.shape
    x = assignment.points(activations, "standardized" if standardize else "raw")
    u = resized(memberships, (h, w), resize)  # [N, K, H, W]
    m = torch.einsum("nchw,nkhw->nkc", x.square(), u) / (h * w)
    return m if per_image else m.sum(0) / max(1, n)


def fake(activations: Tensor, memberships: Tensor, standardize: bool, resize: str, per_image: bool) -> Tensor:
    n, c, _, _ = activations.shape
    k = memberships.shape[1]
    shape = (n, k, c) if per_image else (k, c)
    return activations.new_empty(shape, dtype=accumulator(activations.dtype))


def cost(activations: Tensor, memberships: Tensor, standardize: bool, resize: str, per_image: bool) -> Cost:
    """Count one read of the activations and of the memberships, and one write of M.

    The product with the memberships runs over the smaller one of the layer and the grid of the memberships. Before it,
    a smaller grid takes two operations more per neighbouring cell and activation.
    """
    n, c, h, w = activations.shape
    k, cells = memberships.shape[1], memberships.shape[2] * memberships.shape[3]
    pooled = cells < h * w
    written = (n if per_image else 1) * k * c * memberships.itemsize
    flops = (2 + 2 * (1 + (pooled and resize == "bilinear"))) * activations.numel()
    return Cost(activations.nbytes + memberships.nbytes + written, flops + 2 * n * c * k * min(cells, h * w))


def samples() -> Iterator[tuple[str, dict[str, Any]]]:
    for n, c, h, w, k in assignment.SIZES:
        yield f"same-{n}x{c}x{h}x{w}-K{k}", sample(n, c, h, w, k, (h, w))
    for grid in ((4, 4), (9, 14), (5, 3), (1, 1), (18, 28), (27, 7), (2, 40), (16, 16)):
        for resize in RESIZES:
            yield f"{resize}-{grid[0]}x{grid[1]}-to-9x14", sample(2, 18, 9, 14, 6, grid, resize=resize)
    yield "bilinear-8x8-to-64x64", sample(1, 20, 64, 64, 5, (8, 8))
    yield "bilinear-4x6-to-33x259", sample(1, 3, 33, 259, 5, (4, 6))
    for dtype in DTYPES[1:]:
        yield f"{dtype}"[6:], sample(2, 18, 9, 14, 6, (4, 4), dtype=dtype)
        yield f"same-{dtype}".replace("torch.", ""), sample(2, 35, 9, 14, 25, (9, 14), dtype=dtype)
    for dtype in (torch.float64, torch.bfloat16):  # enough work for two threads
        yield f"threads-{dtype}".replace("torch.", ""), sample(2, 20, 30, 31, 6, (7, 8), dtype=dtype)
        yield f"threads-same-{dtype}".replace("torch.", ""), sample(2, 40, 21, 31, 13, (21, 31), dtype=dtype)
    for standardize in (True, False):
        yield f"per-image-{standardize}", sample(3, 18, 9, 14, 6, (9, 14), standardize=standardize, per_image=True)
        yield f"resized-{standardize}", sample(3, 18, 9, 14, 6, (4, 5), standardize=standardize, per_image=True)
    base = sample(2, 18, 12, 20, 6, (5, 6))
    for layout, view in assignment.strided(base["activations"]):
        yield layout, {**base, "activations": view}
        yield f"{layout}-same", {**sample(2, 18, 12, 20, 6, (12, 20)), "activations": view.bfloat16()}
    offset = base["activations"] * 1e-3 + 1.0  # |mean| is about 1000 times std
    offset[:, 2] = 5.0
    for name, grid in (("far-from-zero", (5, 6)), ("same-far-from-zero", (12, 20))):
        yield name, {**sample(2, 18, 12, 20, 6, grid), "activations": offset}


def sample(
    n: int, c: int, h: int, w: int, k: int, grid: tuple[int, int], *, dtype: torch.dtype = torch.float32, **options: Any
) -> dict[str, Any]:
    """Return arguments of the op: activations, and random memberships, of which some are zero."""
    activations, _ = assignment.clustered(n, c, h, w, k, dtype)
    defaults = {"standardize": True, "resize": "bilinear", "per_image": False}
    return {
        "activations": activations,
        "memberships": random(n, k, *grid, dtype=accumulator(dtype)),
        **defaults,
    } | options


def random(n: int, k: int, h: int, w: int, dtype: torch.dtype) -> Tensor:
    """Return random memberships [N, K, h, w], of which a third is zero."""
    rng = torch.Generator().manual_seed(1)
    u = torch.rand(n, k, h, w, generator=rng, dtype=torch.float64, device="cpu")
    return (u * 1.5 - 0.5).clamp_(min=0).to(dtype)


def errors() -> Iterator[BadCall]:
    x = torch.ones(2, 4, 3, 3)
    yield BadCall((x[0], x), {}, ValueError, r"activations must have shape \[N, C, H, W\]")
    yield from membership_errors(x)
    yield BadCall((x, x), {"resize": "bicubic"}, ValueError, "resize must be one of 'bilinear', 'nearest'")


def membership_errors(x: Tensor, *between: Tensor) -> Iterator[BadCall]:
    """Yield calls with bad memberships. Arguments `between` come between the activations and the memberships."""
    u = torch.ones(2, 5, 3, 3)
    nan = u.clone()
    nan[1, 2, 0, 1] = torch.nan
    shape = r"memberships must have shape \[N, K, h, w\]"
    for memberships, error, message in (
        (u.int(), TypeError, "memberships must be float32, .* got torch.int32"),
        (u.to_sparse(), TypeError, "memberships must be a dense"),
        (u[0], ValueError, shape + r", got \(5, 3, 3\)"),
        (u[:1], ValueError, shape + r" with N = 2 .* got \(1, 5, 3, 3\)"),
        (u[:, :0], ValueError, shape + r" with .* got \(2, 0, 3, 3\)"),
        (u.to("meta"), ValueError, "memberships must be on cpu"),
        (u - 2, ValueError, "memberships must be finite and >= 0, got values from -1 to -1"),
        (u / 0, ValueError, "memberships must be finite and >= 0, got values from inf to inf"),
        (nan, ValueError, "memberships must be finite and >= 0, got values from nan to nan"),
    ):
        yield BadCall((x, *between, memberships), {}, error, message)


SOFT_CONTRIBUTION = Op(
    name="soft_contribution",
    schema="(Tensor activations, Tensor memberships, bool standardize, str resize, bool per_image) -> Tensor",
    public=soft_contribution,
    reference=reference,
    fake=fake,
    cost=cost,
    samples=samples,
    errors=errors,
    backends=("cpu", "triton", "cuda", "reference"),
)
