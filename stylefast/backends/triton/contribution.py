# SPDX-License-Identifier: Apache-2.0
"""Op `contribution`: M from labels.

For labels of another size than the layer, the layer is first pooled onto the label grid with the adjoint of the resize,
so that memory traffic does not grow with the number of clusters. `moments` then computes M.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ...core.dtypes import accumulator
from . import INTERPRETED
from .moments import Pooled, moments
from .tiles import device_of, sampled_mean, view

CELLS = 32 if INTERPRETED else 16  # cells per program, all in one row
ROWS = 8  # rows of 16-bit numbers that a program loads at a time; fewer in lower bands
COLUMNS = 128 if INTERPRETED else 32  # columns of positions that a program loads at a time
PROGRAMS = 5  # per processor at most; fewer programs read fewer bands twice


class Grid(NamedTuple):
    """Sizes of the layer and of the label grid."""

    height: Any
    width: Any
    rows: Any
    columns: Any
    step_y: Any  # rows / height, as torch computes it
    step_x: Any  # columns / width


@triton.jit
def weights(i, size, cell, cells, step, DTYPE: tl.constexpr, BILINEAR: tl.constexpr):
    """Return the weight of every cell at every position i, [positions, cells], as in torch.nn.functional.interpolate.

    A bilinear weight falls from 1 at the centre of its cell to 0 at the centres of the neighbours. It is an integer
    times 1 / (2 size). Positions outside the outermost centres count as if they lay on them.
    """
    if BILINEAR:
        place = tl.minimum(tl.maximum((2 * i + 1) * cells, size), (2 * cells - 1) * size)
        scale = 1 / (tl.full([1, 1], 2.0, DTYPE) * size)
        return tl.maximum(2 * size - tl.abs(place - (2 * cell + 1) * size), 0).to(DTYPE) * scale
    nearest = (i.to(tl.float32) * step).to(i.dtype)  # rounded as in torch
    return (tl.minimum(nearest, cells - 1) == cell).to(DTYPE)


@triton.jit
def band_start(band, size, cells, step, BILINEAR: tl.constexpr):
    """Return the first position that lies in this band or a later one.

    Band b are the positions between the centres of cells b and b + 1, or those that are nearest to cell b.
    """
    if BILINEAR:
        start = tl.maximum((2 * band + 1) * size - cells + 2 * cells - 1, 0) // (2 * cells)
    else:
        start = tl.maximum(band * size // cells - 1, 0)
        for _ in tl.static_range(3):  # the product is rounded to float32, so that positions can be one cell off
            start += tl.where((start.to(tl.float32) * step).to(tl.int64) < band, 1, 0)
    return tl.where(band <= 0, 0, tl.where(band >= cells, size, tl.minimum(start, size)))


@triton.jit
def widened(x, DTYPE: tl.constexpr):
    """Return x in DTYPE. bfloat16 is shifted, which takes fewer instructions than the conversion of the compiler."""
    if x.dtype == tl.bfloat16:
        return (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return x.to(DTYPE)


@triton.jit
def add_rows(sums, pointers, mask, stride, shift, distance, step, scale, ROWS: tl.constexpr, WHOLE_TILES: tl.constexpr):
    """Return the sums of a band with ROWS more rows; see `sum_band`.

    Args:
        sums: Sums of d and d^2 for cell row `band`, the same for the next cell row, and the weights of the latter.
        pointers: Positions of the first of these rows, [channels, columns].
        mask: Which of them lie in the layer. If WHOLE_TILES, all do, and registers need not be set to zero first.
        stride: Distance of two rows in elements.
        shift: See `moments`.
        distance: Distance of the first row from the centre of cell row `band`, in units of 1 / (2 height) cells.
        step: Distance of two rows in the same unit.
        scale: That unit, or 0 if there is no next cell row.
    """
    low_d, low_square, high_d, high_square, high_area = sums
    tiles = ()
    for i in tl.static_range(ROWS):
        row = pointers + i * stride
        tiles += (tl.load(row) if WHOLE_TILES else tl.load(row, mask=mask, other=0),)
    for i in tl.static_range(ROWS):
        high = tl.maximum(distance + i * step, 0).to(scale.dtype) * scale
        low = 1 - high
        d = widened(tiles[i], shift.dtype) - shift[:, None]
        d_square = d * d
        low_d, low_square = low_d + low[None, :] * d, low_square + low[None, :] * d_square
        high_d, high_square = high_d + high[None, :] * d, high_square + high[None, :] * d_square
        high_area += high
    return low_d, low_square, high_d, high_square, high_area


@triton.jit
def sum_band(
    a, grid, shift, n, o_c, o_w, band,
    BILINEAR: tl.constexpr, WHOLE_TILES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Return the weighted sums of d and d^2 over the rows of a band, for cell row `band`, and for the next one.

    Also return the sums of the weights of the two cell rows.
    """
    acc_dtype: tl.constexpr = shift.dtype
    first = band_start(band, grid.height, grid.rows, grid.step_y, BILINEAR)
    count = (band_start(band + 1, grid.height, grid.rows, grid.step_y, BILINEAR) - first).to(tl.int32)
    stride = tl.cast(grid.width, tl.int64) * a.stride_w if a.stride_h is None else tl.cast(a.stride_h, tl.int64)
    offsets = (o_c.to(tl.int64) * a.stride_c)[:, None] + (o_w.to(tl.int64) * a.stride_w)[None, :]
    pointers = a.data + n * a.stride_n + first * stride + offsets
    mask = (o_c < a.channels)[:, None] & (o_w < grid.width)[None, :]
    distance = ((2 * first + 1) * grid.rows - grid.height - 2 * band * grid.height).to(tl.int32)  # from cell row `band`
    scale = tl.full([1], 0.0, acc_dtype)
    if BILINEAR and band < grid.rows - 1:
        scale = 1 / (tl.full([1], 2.0, acc_dtype) * grid.height)
    zeros = tl.zeros([o_c.shape[0], o_w.shape[0]], acc_dtype)
    sums = (zeros, zeros, zeros, zeros, tl.zeros([1], acc_dtype))
    step = 2 * grid.rows
    groups = count // ROWS * ROWS
    for j in range(0, groups, ROWS):
        sums = add_rows(
            sums, pointers + j * stride, mask, stride, shift, distance + j * step, step, scale, ROWS, WHOLE_TILES
        )
    for j in range(groups, count):
        sums = add_rows(
            sums, pointers + j * stride, mask, stride, shift, distance + j * step, step, scale, 1, WHOLE_TILES
        )
    low_d, low_square, high_d, high_square, high_area = sums
    return low_d, low_square, high_d, high_square, count - high_area, high_area


@triton.jit
def pool_kernel(
    a, pooled, grid, run,
    STANDARDIZE: tl.constexpr, BILINEAR: tl.constexpr, INDEX: tl.constexpr, WHOLE_TILES: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_CELLS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Pool BLOCK_C channels of one image onto BLOCK_CELLS cells of each of `run` rows of the label grid.

    The program walks the rows of positions once, band by band. It sums the rows of a band for the cell rows above and
    below it, and then pools these sums along x. The sums for the cell row below are carried to the next band.
    """
    blocks_x, blocks_c, runs = tl.cdiv(grid.columns, BLOCK_CELLS), tl.cdiv(a.channels, BLOCK_C), tl.cdiv(grid.rows, run)
    pid = tl.program_id(0).to(tl.int64)
    i_x, i_run, unit = pid % blocks_x, pid // blocks_x % runs, pid // (blocks_x * runs)
    i_c, n = unit % blocks_c, unit // blocks_c
    o_x, o_c = i_x * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS), i_c * BLOCK_C + tl.arange(0, BLOCK_C)
    acc_dtype: tl.constexpr = pooled.sums.dtype.element_ty
    shift = tl.zeros([BLOCK_C], acc_dtype)
    if STANDARDIZE:
        shift = sampled_mean(a, n, o_c)
    left = tl.maximum((i_x * BLOCK_CELLS - 1) * grid.width // grid.columns - 1, 0) // BLOCK_W * BLOCK_W
    right = tl.minimum((i_x * BLOCK_CELLS + BLOCK_CELLS + 1) * grid.width // grid.columns + 2, grid.width)
    next_sums = tl.zeros([BLOCK_C, BLOCK_CELLS], acc_dtype)
    next_squares, next_area = next_sums, tl.zeros([1], acc_dtype)
    for band in range(i_run * run - 1, tl.minimum(i_run * run + run, grid.rows)):
        sums, squares, area_y = next_sums, next_squares, next_area
        next_sums = tl.zeros([BLOCK_C, BLOCK_CELLS], acc_dtype)
        next_squares, area_x = next_sums, tl.zeros([BLOCK_CELLS], acc_dtype)
        low_area, next_area = next_area, next_area
        for start in range(left, right, BLOCK_W):
            low_d, low_square, high_d, high_square, low_area, next_area = sum_band(
                a, grid, shift, n, o_c, start + tl.arange(0, BLOCK_W), band, BILINEAR, WHOLE_TILES, ROWS
            )
            i = (start + tl.arange(0, BLOCK_W)).to(INDEX)
            wx = weights(
                i[:, None], tl.cast(grid.width, INDEX), o_x.to(INDEX)[None, :], tl.cast(grid.columns, INDEX),
                grid.step_x, acc_dtype, BILINEAR,
            )  # fmt: skip
            if not WHOLE_TILES:
                wx = tl.where((i < grid.width)[:, None], wx, 0.0)
            area_x += tl.sum(wx, 0)  # wx: [BLOCK_W, BLOCK_CELLS]
            sums = tl.dot(low_d, wx, sums, input_precision="ieee", out_dtype=acc_dtype)
            squares = tl.dot(low_square, wx, squares, input_precision="ieee", out_dtype=acc_dtype)
            if BILINEAR:
                next_sums = tl.dot(high_d, wx, next_sums, input_precision="ieee", out_dtype=acc_dtype)
                next_squares = tl.dot(high_square, wx, next_squares, input_precision="ieee", out_dtype=acc_dtype)
        if band >= i_run * run:
            offsets = ((n * a.channels + o_c) * grid.rows + band)[:, None] * grid.columns + o_x[None, :]
            mask = (o_c < a.channels)[:, None] & (o_x < grid.columns)[None, :]
            tl.store(pooled.sums + offsets, sums, mask=mask)
            tl.store(pooled.squares + offsets, squares, mask=mask)
            if n + i_c == 0:
                area = area_x * (area_y + low_area)
                tl.store(pooled.area + band * grid.columns + o_x, area, mask=o_x < grid.columns)


def pool(x: Tensor, grid: tuple[int, int], standardize: bool, bilinear: bool) -> Pooled:
    """Return the layer pooled onto the label grid."""
    n, c, h, w = x.shape
    dtype = accumulator(x.dtype)
    pooled = Pooled(*x.new_empty((2, n, c, *grid), dtype=dtype), x.new_empty(grid, dtype=dtype))
    channels = min(max(triton.next_power_of_2(c), 16), 32)
    columns = n * triton.cdiv(c, channels) * triton.cdiv(grid[1], CELLS)
    if columns > 0:
        run = triton.cdiv(grid[0], max(1, PROGRAMS * device_of(x).processors // columns))
        rows = min(2 * ROWS // x.element_size(), triton.next_power_of_2(max(1, h // grid[0]) + 1) // 2)
        pool_kernel[(columns * triton.cdiv(grid[0], run),)](
            view(x), pooled, Grid(h, w, *grid, grid[0] / h, grid[1] / w), run,
            STANDARDIZE=standardize, BILINEAR=bilinear, INDEX=tl.int32 if 4 * w * grid[1] < 1 << 31 else tl.int64,
            WHOLE_TILES=c % channels == 0 and w % COLUMNS == 0, BLOCK_C=channels, BLOCK_W=COLUMNS, BLOCK_CELLS=CELLS,
            ROWS=rows, num_warps=128 // device_of(x).lanes,
        )  # fmt: skip
    return pooled


def launch(
    activations: Tensor, labels: Tensor, n_clusters: int, standardize: bool, resize: str, per_image: bool
) -> Tensor:
    labels, grid = labels.contiguous(), (labels.shape[1], labels.shape[2])
    pooled = None
    if grid != tuple(activations.shape[2:]):
        pooled = pool(activations, grid, standardize, resize == "bilinear")
    return moments(activations, labels, n_clusters, standardize, per_image, pooled)
