# SPDX-License-Identifier: Apache-2.0
"""M from labels on the grid of the activations, or from activations that are pooled onto the grid of the labels.

A program owns BLOCK_C channels and BLOCK_K clusters of every `groups`-th image. For each image it

1. takes the mean of a sample of every channel as the shift,
2. reads the image once, tile by tile, while the next tiles are being loaded, and sums d = a - shift and d^2 by label,
3. computes the energy of the image from these moments and adds it to M, in the order of the images.

The sums by label are products with the one-hot labels on matrix units, in 16 bits. Zeros and ones are exact. d and d^2
are split into three bfloat16 pieces, so that only the addition rounds; `sum_bfloat16` needs no d. NaN and Inf spread to
all clusters of their channel, as in the reference. With offset = mean - shift::

    sum (a - mean)^2 = squares - 2 offset sums + offset^2 area

This loses no digits while `|offset|` is at most about the standard deviation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.dtypes import accumulator
from . import INTERPRETED
from .tiles import added, device_of, load_tile, power_of_two, precision, product, sampled_mean, view

BLOCK_C = 64  # channels per program: one group of four warps computes products of 64 rows on Hopper
TILE_BYTES = 128  # of a row of a tile: a cache line
PROGRAMS = 2  # per processor
STAGES = 3  # tiles in flight, and the one that is summed


class Pooled(NamedTuple):
    """A layer pooled onto the label grid of h x w cells."""

    sums: Any  # [N, C, h, w]: weighted sums of a - shift
    squares: Any  # [N, C, h, w]: weighted sums of (a - shift)^2
    area: Any  # [h, w]: sum of a cell's weights over all positions


@triton.jit
def standardized_energy(sums, squares, plane_sum, plane_square, area, positions):
    """Return `sum U (a - mean)^2 / (var + 1e-5)`, [channels, clusters], from moments per cluster and of the plane.

    U is the weight of a cluster at a position. `area`, its sum, broadcasts to [channels, clusters].
    """
    offset = plane_sum / positions
    variance = plane_square / positions - offset * offset
    scale = 1 / (tl.where(variance < 0, 0.0, variance) + 1e-5)  # NaN stays NaN
    energy = squares - 2 * offset[:, None] * sums + (offset * offset)[:, None] * area
    return tl.where(energy < 0, 0.0, energy) * scale[:, None]


@triton.jit
def sum_by_label(x, one_hot, SPLIT: tl.constexpr, PRECISION: tl.constexpr):
    """Return the sum of the positions of each label: x [channels, positions] times one_hot [positions, clusters].

    If SPLIT, float32 x is the sum of three bfloat16 pieces of 8 bits each, so that all products are exact.
    Otherwise x is multiplied in its own type.
    """
    acc_dtype: tl.constexpr = tl.float64 if x.dtype == tl.float64 else tl.float32
    total = tl.zeros([x.shape[0], one_hot.shape[1]], acc_dtype)
    if not SPLIT:
        total = product(x, tl.where(one_hot, 1.0, 0.0).to(x.dtype), total, PRECISION)
    else:
        high, rest = split(x)
        middle, low = split(rest)
        one_hot = tl.where(one_hot, 1.0, 0.0).to(tl.bfloat16)
        # The smallest first, because matrix units truncate their sums.
        total = product(split(low)[0], one_hot, total, PRECISION)
        total = product(middle, one_hot, total, PRECISION)
        total = product(high, one_hot, total, PRECISION)
    return total


@triton.jit
def split(x):
    """Return the upper 8 bits of float32 x as bfloat16, and the rest as float32."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True), x - (bits & -65536).to(tl.float32, bitcast=True)


@triton.jit
def load_moments(a, pooled, shift, n, c, start, cells, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """Return a - shift and its square, [channels, positions], or their sums in a pooled layer, [channels, cells].

    Values outside the image or the channels are finite. No label selects them.
    """
    if pooled is None:
        x = load_tile(a, n, c, start, BLOCK_C, BLOCK_P)
        d = x.to(tl.float64 if x.dtype == tl.float64 else tl.float32)
        if shift is not None:
            d -= shift[:, None]
        d_square = d * d
    else:
        o_c, o_p = c + tl.arange(0, BLOCK_C), start + tl.arange(0, BLOCK_P)
        offsets = (n * a.channels + o_c)[:, None] * cells + o_p[None, :]
        mask = (o_c < a.channels)[:, None] & (o_p < cells)[None, :]
        d = tl.load(pooled.sums + offsets, mask=mask, other=0)
        x = d
        d_square = tl.load(pooled.squares + offsets, mask=mask, other=0)
    return x, d, d_square


@triton.jit
def ones_of(SHAPE: tl.constexpr, DTYPE: tl.constexpr):
    """Return ones. The interpreter of Triton 3.6 has no constants in bfloat16."""
    return tl.full(SHAPE, 1.0, tl.float32).to(DTYPE)


@triton.jit
def sum_bfloat16(x, shift, one_hot, PRECISION: tl.constexpr):
    """Return the sums of d = x - shift and d^2 by label, and the number of positions, for bfloat16 x.

    They come from the sums of x and x^2, which takes fewer instructions: x^2 has 16 bits and is the sum of two bfloat16
    pieces. Where all x are close to the shift, so that digits cancel, x and x^2 have few different exponents and their
    sums over a tile fit into 24 bits: they are exact. The sum of x^2 starts with the terms to add, so that it stays
    small.
    """
    one_hot = tl.where(one_hot, 1.0, 0.0).to(x.dtype)
    sums = tl.zeros([x.shape[0], one_hot.shape[1]], tl.float32)
    squares, area = sums, sums
    if shift is not None:
        area = product(ones_of(x.shape, x.dtype), one_hot, area, PRECISION)
        sum_x = product(x, one_hot, sums, PRECISION)
        sums = sum_x - shift[:, None] * area
        squares = -shift[:, None] * (sum_x + sums)
    if PRECISION == "tf32x3":  # an NVIDIA GPU: an instruction computes two products
        high = x * x
        low = tl.fma(x, x, -high)
    else:
        high, rest = split(x.to(tl.float32) * x.to(tl.float32))
        low = split(rest)[0]
    squares = product(high, one_hot, squares, PRECISION)
    return sums, product(low, one_hot, squares, PRECISION), area


@triton.jit
def sum_tile(
    a, pooled, shift, one_hot, n, c, start, cells,
    STANDARDIZE: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Return the sums of d, d^2 and the weights of a tile by label, [channels, clusters] each."""
    x, d, d_square = load_moments(a, pooled, shift, n, c, start, cells, BLOCK_C, BLOCK_P)
    if x.dtype == tl.bfloat16:
        sums, squares, area = sum_bfloat16(x, shift, one_hot, PRECISION)
    else:
        squares = sum_by_label(d_square, one_hot, SPLIT, PRECISION)
        sums, area = tl.zeros_like(squares), tl.zeros_like(squares)
        if STANDARDIZE:
            if x.dtype == tl.float16:
                rows = tl.where(one_hot, 1.0, 0.0).to(x.dtype)
                sums = product(x, rows, sums, PRECISION)
                minus = tl.broadcast_to((-shift).to(x.dtype)[:, None], x.shape)
                sums = product(minus, rows, sums, PRECISION)
            else:
                sums = sum_by_label(d, one_hot, SPLIT, PRECISION)
            if pooled is None:  # counts are exact
                ones = ones_of(x.shape, tl.bfloat16 if SPLIT and x.dtype == tl.float32 else x.dtype)
                area = product(ones, tl.where(one_hot, 1.0, 0.0).to(ones.dtype), area, PRECISION)
            else:
                o_p = start + tl.arange(0, BLOCK_P)
                weight = tl.load(pooled.area + o_p, mask=o_p < cells, other=0)
                area = sum_by_label(tl.broadcast_to(weight[None, :], x.shape), one_hot, SPLIT, PRECISION)
    return sums, squares, area


@triton.jit
def sum_other_labels(
    a, pooled, labels, shift, n, c, k, cells, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr
):  # fmt: skip
    """Return the moments of all positions whose label is not in [k, k + BLOCK_K), [channels] each."""
    acc_dtype: tl.constexpr = tl.float64 if a.data.dtype.element_ty == tl.float64 else tl.float32
    sums = tl.zeros([BLOCK_C], acc_dtype)
    squares = sums
    for start in tl.range(0, cells, BLOCK_P, disable_licm=True):
        o_p = start + tl.arange(0, BLOCK_P)
        label = tl.load(labels + n * cells + o_p, mask=o_p < cells, other=k)
        other = ((label < k) | (label >= k + BLOCK_K))[None, :]
        _, d, d_square = load_moments(a, pooled, shift, n, c, start, cells, BLOCK_C, BLOCK_P)
        sums += tl.sum(tl.where(other, d, 0.0), 1)
        squares += tl.sum(tl.where(other, d_square, 0.0), 1)
    return sums, squares


@triton.jit
def store_and_load_shift(a, shifts, n, o_c):
    """Return the sampled mean of each channel, rounded to the activations' type.

    It is stored and loaded again because a loaded value can have any layout. With the result of a reduction, Triton
    would compute d in the layout of the reduction, and pass it to the matrix units through shared memory.
    """
    pointers, mask = shifts + n * a.channels + o_c, o_c < a.channels
    tl.store(pointers, sampled_mean(a, n, o_c), mask=mask)
    tl.debug_barrier()  # a thread reads what other threads wrote
    return tl.load(pointers, mask=mask, other=0).to(a.data.dtype.element_ty).to(shifts.dtype.element_ty)


@triton.jit
def moments_kernel(
    a, shifts, pooled, labels, m, cells, clusters,
    STANDARDIZE: tl.constexpr, PER_IMAGE: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
    WHOLE_TILES: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute M of BLOCK_C channels and BLOCK_K clusters over every `groups`-th image."""
    slices_c, slices_k = tl.cdiv(a.channels, BLOCK_C), tl.cdiv(clusters, BLOCK_K)
    members = slices_c * slices_k
    groups, group, member = tl.num_programs(0) // members, tl.program_id(0) // members, tl.program_id(0) % members
    c, k = member % slices_c * BLOCK_C, member // slices_c * BLOCK_K
    o_c, o_k = c + tl.arange(0, BLOCK_C), k + tl.arange(0, BLOCK_K)
    acc_dtype: tl.constexpr = m.dtype.element_ty
    positions = tl.full([1], 1.0, acc_dtype) * a.plane
    for n in tl.range(group.to(tl.int64), a.images, groups, disable_licm=True):
        shift = None
        if shifts is not None:
            shift = store_and_load_shift(a, shifts, n, o_c)
        squares = tl.zeros([BLOCK_C, BLOCK_K], acc_dtype)
        sums, area = squares, squares
        for start in tl.range(0, cells, BLOCK_P, num_stages=STAGES, disable_licm=True):
            o_p = start + tl.arange(0, BLOCK_P)
            if WHOLE_TILES:
                label = tl.load(labels + n * cells + o_p)
            else:
                label = tl.load(labels + n * cells + o_p, mask=o_p < cells, other=-1)
            one_hot = label[:, None] == o_k[None, :]
            tile_sums, tile_squares, tile_area = sum_tile(
                a, pooled, shift, one_hot, n, c, start, cells, STANDARDIZE, SPLIT, PRECISION, BLOCK_C, BLOCK_P
            )
            squares = added(squares, tile_squares)
            if STANDARDIZE:
                sums, area = added(sums, tile_sums), added(area, tile_area)
        if STANDARDIZE:
            plane_sum, plane_square = tl.sum(sums, 1), tl.sum(squares, 1)
            if pooled is not None or tl.max(tl.sum(area, 1), 0) < cells:
                o_sum, o_square = sum_other_labels(a, pooled, labels, shift, n, c, k, cells, BLOCK_C, BLOCK_P, BLOCK_K)
                plane_sum += o_sum
                plane_square += o_square
            squares = standardized_energy(sums, squares, plane_sum, plane_square, area, positions)
        # Offsets inside a block have 32 bits, to need fewer registers.
        corner = ((n if PER_IMAGE else group.to(tl.int64)) * clusters + k) * a.channels + c
        pointers = m + corner + (tl.arange(0, BLOCK_K)[None, :] * a.channels + tl.arange(0, BLOCK_C)[:, None])
        mask = (o_k < clusters)[None, :] & (o_c < a.channels)[:, None]
        if PER_IMAGE:
            squares = squares / positions
        else:
            squares += tl.load(pointers, mask=mask, other=0)
        tl.store(pointers, squares, mask=mask)
        if not PER_IMAGE:
            tl.debug_barrier()  # another thread may load these elements for the next image


def moments(
    x: Tensor, labels: Tensor, clusters: int, standardize: bool, per_image: bool, pooled: Pooled | None = None
) -> Tensor:
    """Return M, [N, K, C] if `per_image`, else [K, C].

    Args:
        x: Activations [N, C, H, W].
        labels: Labels [N, h, w], contiguous, on the grid of x or of `pooled`.
        clusters: Number of clusters K.
        standardize: Whether to standardise the activations.
        per_image: Whether to return one M per image.
        pooled: The activations pooled onto the grid of the labels, if it is not the grid of x.
    """
    (n, c, h, w), dtype = x.shape, accumulator(x.dtype)
    cells = labels.shape[1] * labels.shape[2]
    max_block_k = 64 if x.dtype in (torch.bfloat16, torch.float32) else 32  # more do not fit into the registers
    block_k = min(max(triton.next_power_of_2(clusters), 16), max_block_k)
    positions = TILE_BYTES // (x.element_size() if pooled is None else 2 * dtype.itemsize)
    channels, warps = BLOCK_C, 256 // device_of(x).lanes // 2
    if INTERPRETED:  # fewer, larger programs
        channels, positions, warps = power_of_two(c, 16, 256), 256, 1
    members = triton.cdiv(c, channels) * triton.cdiv(clusters, block_k)
    groups = n if per_image else min(n, triton.cdiv(PROGRAMS * device_of(x).processors, members))
    m = (x.new_empty if per_image else x.new_zeros)((groups, clusters, c), dtype=dtype)
    shifts = x.new_empty((n, c), dtype=dtype) if standardize and pooled is None else None
    if groups > 0:
        moments_kernel[(groups * members,)](
            view(x), shifts, pooled, labels, m, cells, clusters, STANDARDIZE=standardize, PER_IMAGE=per_image,
            SPLIT=dtype == torch.float32, PRECISION=precision(x), WHOLE_TILES=cells % positions == 0,
            BLOCK_P=positions, BLOCK_C=channels, BLOCK_K=block_k, STAGES=STAGES, num_warps=warps,
        )  # fmt: skip
    return m if per_image else (m.sum(0, dtype=torch.float64) / max(1, n * h * w)).to(dtype)
