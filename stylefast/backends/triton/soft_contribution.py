# SPDX-License-Identifier: Apache-2.0
"""Op `soft_contribution`: M from memberships.

A program owns BLOCK_C channels and BLOCK_K clusters of every `groups`-th image. For each image it

1. takes the mean of a sample of every channel as the shift, and reads the channels once for their mean and variance,
2. reads the channels again, from the L2 cache if they are still there, multiplies the energies (a - mean)^2 by the
   memberships on matrix units, and adds the result to M, in the order of the images.

The second read halves the products: with moments about the shift, the sums of a - shift would be products, too. On
NVIDIA GPUs, a product of float32 numbers is computed as three products of TF32 numbers.

For memberships of another size than the layer, the layer is first pooled onto their grid with the adjoint of the
resize, as in `contribution`. Both reads are then reads of the pooled layer.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.dtypes import accumulator
from . import INTERPRETED
from .contribution import pool
from .moments import load_moments, store_and_load_shift
from .tiles import added, device_of, power_of_two, precision, product, view

BLOCK_C = 128  # channels per program
TILE_BYTES = 128  # of a row of a tile: a cache line
THREADS = 256  # per program. One program runs per processor, so that what it reads twice can stay in the L2 cache.
STAGES = 3  # tiles in flight, and the one that is multiplied


@triton.jit
def mean_and_scale(a, pooled, shift, n, c, cells, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, STAGES: tl.constexpr):
    """Return `mean - shift` and `1 / (var + 1e-5)` of the channels of an image."""
    acc_dtype: tl.constexpr = tl.float64 if a.data.dtype.element_ty == tl.float64 else tl.float32
    sums = tl.zeros([BLOCK_C, BLOCK_P], acc_dtype)
    squares = sums
    for start in tl.range(0, cells, BLOCK_P, num_stages=STAGES, disable_licm=True):
        _, d, d_square = load_moments(a, pooled, shift, n, c, start, cells, BLOCK_C, BLOCK_P)
        inside = (start + tl.arange(0, BLOCK_P) < cells)[None, :]
        sums += tl.where(inside, d, 0.0)
        squares += tl.where(inside, d_square, 0.0)
    positions = tl.full([1], 1.0, acc_dtype) * a.plane
    offset = tl.sum(sums, 1) / positions
    variance = tl.sum(squares, 1) / positions - offset * offset
    return offset, 1 / (tl.where(variance < 0, 0.0, variance) + 1e-5)  # NaN stays NaN


@triton.jit
def load_energies(a, pooled, shift, offset, n, c, start, cells, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """Return (a - mean)^2, [channels, positions], or its sums in a pooled layer. The mean is shift + offset.

    Values outside the image or the channels are finite, and their memberships are zero.
    """
    _, d, d_square = load_moments(a, pooled, shift, n, c, start, cells, BLOCK_C, BLOCK_P)
    if offset is not None:
        if pooled is None:
            d -= offset[:, None]
            d_square = d * d
        else:
            o_p = start + tl.arange(0, BLOCK_P)
            area = tl.load(pooled.area + o_p, mask=o_p < cells, other=0)
            d_square += offset[:, None] * (offset[:, None] * area[None, :] - 2 * d)
            d_square = tl.where(d_square < 0, 0.0, d_square)
    return d_square


@triton.jit
def soft_kernel(
    a, shifts, pooled, memberships, m, cells, clusters,
    STANDARDIZE: tl.constexpr, PER_IMAGE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute M of BLOCK_C channels and BLOCK_K clusters over every `groups`-th image."""
    slices_c, slices_k = tl.cdiv(a.channels, BLOCK_C), tl.cdiv(clusters, BLOCK_K)
    members = slices_c * slices_k
    groups, group, member = tl.num_programs(0) // members, tl.program_id(0) // members, tl.program_id(0) % members
    c, k = member % slices_c * BLOCK_C, member // slices_c * BLOCK_K
    o_c, o_k = c + tl.arange(0, BLOCK_C), k + tl.arange(0, BLOCK_K)
    acc_dtype: tl.constexpr = m.dtype.element_ty
    for n in tl.range(group.to(tl.int64), a.images, groups, disable_licm=True):
        shift, offset = None, None
        scale = tl.full([BLOCK_C], 1.0, acc_dtype)
        if shifts is not None:
            shift = store_and_load_shift(a, shifts, n, o_c)
        if STANDARDIZE:
            offset, scale = mean_and_scale(a, pooled, shift, n, c, cells, BLOCK_C, BLOCK_P, STAGES)
        total = tl.zeros([BLOCK_C, BLOCK_K], acc_dtype)
        rows = memberships + (n * clusters + k) * cells
        for start in tl.range(0, cells, BLOCK_P, num_stages=STAGES, disable_licm=True):
            o_p = start + tl.arange(0, BLOCK_P)
            mask = (o_k < clusters)[None, :] & (o_p < cells)[:, None]
            u = tl.load(rows + (tl.arange(0, BLOCK_K).to(tl.int64) * cells)[None, :] + o_p[:, None], mask=mask, other=0)
            energies = load_energies(a, pooled, shift, offset, n, c, start, cells, BLOCK_C, BLOCK_P)
            total = added(total, product(energies, u, tl.zeros_like(total), PRECISION))
        total *= scale[:, None]
        corner = ((n if PER_IMAGE else group.to(tl.int64)) * clusters + k) * a.channels + c
        pointers = m + corner + (tl.arange(0, BLOCK_K)[None, :] * a.channels + tl.arange(0, BLOCK_C)[:, None])
        mask = (o_k < clusters)[None, :] & (o_c < a.channels)[:, None]
        if PER_IMAGE:
            total = total / (tl.full([1], 1.0, acc_dtype) * a.plane)
        else:
            total += tl.load(pointers, mask=mask, other=0)
        tl.store(pointers, total, mask=mask)
        if not PER_IMAGE:
            tl.debug_barrier()  # another thread may load these elements for the next image


def launch(activations: Tensor, memberships: Tensor, standardize: bool, resize: str, per_image: bool) -> Tensor:
    x, memberships = activations, memberships.contiguous()
    (n, c, h, w), (clusters, *grid) = x.shape, memberships.shape[1:]
    dtype, cells = accumulator(x.dtype), grid[0] * grid[1]
    pooled = None
    if grid != [h, w]:
        pooled = pool(x, (grid[0], grid[1]), standardize, resize == "bilinear")
    block_k = power_of_two(clusters, 16, 64)
    channels, warps = BLOCK_C, THREADS // device_of(x).lanes
    warp_groups = device_of(x).shared >= 200_000  # Hopper and later: operands of products lie in shared memory
    positions = TILE_BYTES // (x.element_size() if warp_groups and pooled is None else dtype.itemsize)
    if INTERPRETED:  # fewer, larger programs
        channels, positions, warps = power_of_two(c, 16, 256), 256, 1
    members = triton.cdiv(c, channels) * triton.cdiv(clusters, block_k)
    groups = n if per_image else min(n, triton.cdiv(device_of(x).processors, members))
    m = (x.new_empty if per_image else x.new_zeros)((groups, clusters, c), dtype=dtype)
    shifts = x.new_empty((n, c), dtype=dtype) if standardize and pooled is None else None
    if groups > 0:
        soft_kernel[(groups * members,)](
            view(x), shifts, pooled, memberships, m, cells, clusters, STANDARDIZE=standardize, PER_IMAGE=per_image,
            PRECISION=precision(x), BLOCK_P=positions, BLOCK_C=channels, BLOCK_K=block_k, STAGES=STAGES,
            num_warps=warps,
        )  # fmt: skip
    return m if per_image else (m.sum(0, dtype=torch.float64) / max(1, n * h * w)).to(dtype)
