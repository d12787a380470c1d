# SPDX-License-Identifier: Apache-2.0
"""Code that all kernels share: views of activations, loads of tiles, exact products, and sizes of blocks."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.dtypes import accumulator
from . import INTERPRETED

SIDE = 256  # largest number of channels or positions of a tile
SPLITS = 2  # most programs that label the same tile for different sums; with more, a second read of A is cheaper


class View(NamedTuple):
    """Activations [N, C, H, W] with their strides in elements, as an argument of kernels."""

    data: Any
    images: Any  # N
    channels: Any  # C
    plane: Any  # H W
    width: Any  # W, or H W if the view has one row per plane
    stride_n: Any
    stride_c: Any
    stride_h: Any  # None if the view has one row per plane
    stride_w: Any


def view(x: Tensor) -> View:
    """Return the view of x, with one row per plane if rows follow each other and a tile spans less than 2^31 elements.

    With one row per plane, positions need no division, offsets inside a tile have 32 bits, and loads have 16 bytes.
    """
    n, c, h, w = x.shape
    joined = x.stride(2) == w * x.stride(3) or h == 1
    if joined and SIDE * (x.stride(1) + x.stride(3)) < 1 << 31:
        return View(x, n, c, h * w, h * w, x.stride(0), x.stride(1), None, x.stride(3))
    return View(x, n, c, h * w, w, *x.stride())


class Tiles(NamedTuple):
    """Sizes of the blocks of a program."""

    positions: int  # of a tile
    channels: int  # of a block of scores
    clusters: int  # of a block of scores
    sum_channels: int  # of a block of sums
    sum_clusters: int  # of a block of sums
    sum_blocks: int  # blocks of sums that a program holds
    warps: int

    def slices(self, channels: int, clusters: int) -> int:
        """Return the number of programs that together hold the sums of all channels and clusters."""
        return triton.cdiv(channels, self.sum_blocks * self.sum_channels) * triton.cdiv(clusters, self.sum_clusters)

    def constants(self) -> dict[str, int]:
        """Return the sizes by the names that the kernels with sums give them."""
        names = ("BLOCK_P", "BLOCK_C", "BLOCK_K", "SUM_C", "SUM_K", "SUM_BLOCKS", "num_warps")
        return dict(zip(names, self, strict=True))

    def sum_constants(self) -> dict[str, int]:
        """Return the sizes of a kernel that does not compute scores."""
        return {name: size for name, size in self.constants().items() if name not in ("BLOCK_C", "BLOCK_K")}


def tiles(channels: int, clusters: int, itemsize: int, device: Device, registers: int = 1) -> Tiles:
    """Return the sizes of blocks.

    A row of a tile of 16-bit numbers is a cache line of 128 bytes. Sums stay in registers. Their number leaves room for
    the tile that is added, so that no register is spilled. There is room for more sums on GPUs with warp groups, whose
    matrix units read operands from shared memory, and on AMD GPUs, which have more registers.

    Args:
        channels: Number of channels C.
        clusters: Number of clusters K.
        itemsize: Bytes per element of the activations.
        device: Limits of the GPU.
        registers: Registers to reserve per sum of one channel over one cluster.
    """
    if INTERPRETED:  # fewer, larger programs
        side, half = (power_of_two(size, 16, SIDE) for size in (channels, triton.cdiv(channels, 2)))
        rows = power_of_two(clusters, 16, 64)
        return Tiles(SIDE, side, rows, half, rows, 2, 1)
    warp_groups = device.shared >= 200_000  # Hopper and later
    positions = 64 if itemsize <= 4 else 16
    score_channels = power_of_two(channels, 16, 64 if itemsize <= 2 and clusters <= 64 else 32)
    score_clusters = power_of_two(clusters, 16, 128 if warp_groups else 64)
    max_channels = (512 if warp_groups or device.lanes == 64 else 256) * 4 // max(4, itemsize) // registers
    has_room = device.shared >= 128 * positions * 16 and itemsize * registers <= 4
    sum_channels = power_of_two(channels, 16, min(max_channels, 128 if has_room else 64))
    sum_clusters = power_of_two(clusters, 16, 32)
    blocks = min(triton.cdiv(channels, sum_channels), max_channels // sum_channels)
    return Tiles(positions, score_channels, score_clusters, sum_channels, sum_clusters, blocks, 256 // device.lanes)


def power_of_two(size: int, minimum: int, maximum: int) -> int:
    return min(max(triton.next_power_of_2(size), minimum), maximum)


def tiles_for(x: Tensor, clusters: int, registers: int = 1) -> Tiles:
    return tiles(x.shape[1], clusters, x.element_size(), device_of(x), registers)


class Device(NamedTuple):
    """Limits of a GPU."""

    shared: int  # bytes of shared memory per program
    processors: int  # multiprocessors
    lanes: int  # threads per warp


def device_of(x: Tensor) -> Device:
    return device(x.device.index)


@cache
def device(index: int | None) -> Device:
    if INTERPRETED:
        return Device(1 << 20, 1, 32)
    driver = triton.runtime.driver.active
    properties = driver.utils.get_device_properties(index)
    shared, processors = properties["max_shared_mem"], properties["multiprocessor_count"]
    return Device(shared, processors, driver.get_current_target().warp_size)


def precision(x: Tensor) -> str:
    """Return how products are computed: "tf32x3", "ieee" or "widened".

    NVIDIA GPUs use "tf32x3" except for float64: a float32 product is computed as three products of TF32, never as one.
    Other GPUs and float64 use "ieee". The interpreter uses "widened", because it cannot multiply bfloat16: operands are
    converted to the type of the sums first, in which products of 16-bit numbers are exact.
    """
    if INTERPRETED:
        return "widened"
    nvidia = triton.runtime.driver.active.get_current_target().backend == "cuda"
    return "tf32x3" if nvidia and x.dtype != torch.float64 else "ieee"


@triton.jit
def load_tile(a, n, c, p, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, WHOLE: tl.constexpr = False):
    """Return a tile [BLOCK_C, BLOCK_P] of image n that begins at channel c and position p, in the activations' type.

    Elements outside the image are zero. If WHOLE, no element is outside, and the load needs no mask. With one row per
    plane, all tiles have the same offsets from their corner.
    """
    o_c, o_p = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_P)
    if a.stride_h is not None:
        return load_positions(a, n, c + o_c, p + o_p)
    corner = n * a.stride_n + tl.cast(c, tl.int64) * a.stride_c + tl.cast(p, tl.int64) * a.stride_w
    offsets = (o_c * a.stride_c)[:, None] + (o_p * a.stride_w)[None, :]
    if WHOLE:
        return tl.load(a.data + corner + offsets)
    mask = (o_c < a.channels - c)[:, None] & (o_p < a.plane - p)[None, :]
    return tl.load(a.data + corner + offsets, mask=mask, other=0)


@triton.jit
def load_positions(a, n, o_c, o_p):
    """Return channels o_c of positions o_p of image n, [channels, positions], in their own type, and zero outside."""
    o_plane = o_p * a.stride_w
    if a.stride_h is not None:
        row, column = (o_p // a.width).to(tl.int64), (o_p % a.width).to(tl.int64)
        o_plane = row * a.stride_h + column * a.stride_w
    offsets = n * a.stride_n + (o_c.to(tl.int64) * a.stride_c)[:, None] + o_plane[None, :]
    return tl.load(a.data + offsets, mask=(o_c < a.channels)[:, None] & (o_p < a.plane)[None, :], other=0)


@triton.jit
def transform(x, points, n, o_c, channels, FEATURES: tl.constexpr):
    """Return the features of a tile [channels, positions]: raw ones in the type of x, others in the type of sums."""
    acc_dtype: tl.constexpr = tl.float64 if x.dtype == tl.float64 else tl.float32
    if FEATURES == "squared":
        x = x.to(acc_dtype) * x.to(acc_dtype)
    elif FEATURES == "standardized":
        row = n * channels + o_c
        mean = tl.load(points.mean + row, mask=o_c < channels, other=0)
        rstd = tl.load(points.rstd + row, mask=o_c < channels, other=0)
        x = (x.to(acc_dtype) - mean[:, None]) * rstd[:, None]
    return x


@triton.jit
def product(x, y, total, PRECISION: tl.constexpr):
    """Return `x y + total` in the type of total.

    16-bit x and y are multiplied directly. PRECISION applies to float32 x and y; see `precision`.
    """
    if PRECISION == "widened":
        return tl.dot(x.to(total.dtype), y.to(total.dtype), total, input_precision="ieee", out_dtype=total.dtype)
    return tl.dot(x, y, total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def added(total, part):
    """Return `total + part`, computed by a separate addition.

    Matrix units truncate their sums, so they only sum within a tile.
    """
    return tl.fma(part, tl.full(part.shape, 1.0, part.dtype), total)


@triton.jit
def sampled_mean(a, n, o_c):
    """Return the mean over a sample of the plane, [channels]. It is exact if all values are equal.

    The sample is four runs of 16 positions, or all positions of a smaller plane.
    """
    i = tl.arange(0, 64).to(tl.int64)
    count = tl.minimum(a.plane, 64)
    o_p = tl.where(a.plane < 64, i, i // 16 * (a.plane // 4) + i % 16)
    acc_dtype: tl.constexpr = tl.float64 if a.data.dtype.element_ty == tl.float64 else tl.float32
    x = load_positions(a, n, o_c, o_p).to(acc_dtype)
    first = tl.sum(tl.where((i == 0)[None, :], x, 0.0), 1)
    return first + tl.sum(tl.where((i < count)[None, :], x - first[:, None], 0.0), 1) / count.to(acc_dtype)


@triton.jit
def statistics_kernel(a, mean, rstd, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Write mean and 1 / sqrt(var + 1e-5) of BLOCK_C channels of an image, from moments about a sampled mean."""
    blocks = tl.cdiv(a.channels, BLOCK_C)
    n = (tl.program_id(0) // blocks).to(tl.int64)
    c = tl.program_id(0) % blocks * BLOCK_C
    o_c = c + tl.arange(0, BLOCK_C)
    shift = sampled_mean(a, n, o_c)
    sums, squares = tl.zeros_like(shift), tl.zeros_like(shift)
    for start in range(0, a.plane, BLOCK_P):
        o_p = start + tl.arange(0, BLOCK_P).to(tl.int64)
        x = load_tile(a, n, c, start, BLOCK_C, BLOCK_P).to(shift.dtype)
        d = tl.where((o_p < a.plane)[None, :], x - shift[:, None], 0.0)
        sums += tl.sum(d, 1)
        squares += tl.sum(d * d, 1)
    size = tl.full([1], 1.0, shift.dtype) * a.plane
    offset = sums / size
    variance = squares / size - offset * offset
    variance = tl.where(variance < 0, 0.0, variance)  # NaN stays NaN
    row = n * a.channels + o_c
    tl.store(mean + row, shift + offset, mask=o_c < a.channels)
    tl.store(rstd + row, 1 / tl.sqrt(variance + 1e-5), mask=o_c < a.channels)


def statistics(x: Tensor, features: str) -> tuple[Tensor | None, Tensor | None]:
    """Return the mean and 1 / std of every plane, [N, C] each, for standardised features, else None for both."""
    if features != "standardized":
        return None, None
    mean, rstd = x.new_empty((2, *x.shape[:2]), dtype=accumulator(x.dtype))
    channels = 16
    grid = (x.shape[0] * triton.cdiv(x.shape[1], channels),)
    statistics_kernel[grid](view(x), mean, rstd, BLOCK_P=256, BLOCK_C=channels)
    return mean, rstd
