# SPDX-License-Identifier: Apache-2.0
"""Op `contribution`: M from labels.

For labels of another size than the layer, the layer is first pooled onto the label grid with the adjoint of the resize,
so that memory traffic does not grow with the number of clusters. `moments` then computes M.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...core.dtypes import accumulator
from .moments import Pooled, moments
from .tiles import device_of, load_tile, sampled_mean, view

CELLS = 16  # cells per program, all in one row


@triton.jit
def weights(i, size, cell, cells, step, DTYPE: tl.constexpr, BILINEAR: tl.constexpr):
    """Return the weight of every cell at every position i, [positions, cells], as in torch.nn.functional.interpolate.

    A bilinear weight is a quotient of integers, so only the result is rounded.
    """
    if BILINEAR:
        distance = tl.maximum((2 * i + 1) * cells - size, 0)  # from the centre of cell 0, in units of 1 / (2 size)
        low = tl.minimum(distance // (2 * size), cells - 1)
        high = tl.minimum(low + 1, cells - 1)
        weight = (distance - low * 2 * size).to(DTYPE) / (2.0 * size)
        return tl.where(low == cell, 1 - weight, 0.0) + tl.where(high == cell, weight, 0.0)
    nearest = (i.to(tl.float32) * step).to(tl.int64)  # rounded as in torch
    return (tl.minimum(nearest, cells - 1) == cell).to(DTYPE)


@triton.jit
def pool_kernel(
    a, pooled, height, width, rows, columns, step_y, step_x,
    STANDARDIZE: tl.constexpr, BILINEAR: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_CELLS: tl.constexpr,
):  # fmt: skip
    """Pool BLOCK_C channels of one image onto BLOCK_CELLS cells of one row of the label grid.

    The rows of positions are summed first, and then pooled along x.
    """
    blocks_x, blocks_c = tl.cdiv(columns, BLOCK_CELLS), tl.cdiv(a.channels, BLOCK_C)
    pid = tl.program_id(0).to(tl.int64)
    i_x, y, unit = pid % blocks_x, pid // blocks_x % rows, pid // (blocks_x * rows)
    i_c, n = unit % blocks_c, unit // blocks_c
    o_x, o_c = i_x * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS), i_c * BLOCK_C + tl.arange(0, BLOCK_C)
    acc_dtype: tl.constexpr = pooled.sums.dtype.element_ty
    shift = tl.zeros([BLOCK_C], acc_dtype)
    if STANDARDIZE:
        shift = sampled_mean(a, n, o_c)
    top = tl.maximum((y - 1) * height // rows - 1, 0)  # outside these ranges of rows and columns, weights are 0
    bottom = tl.minimum((y + 2) * height // rows + 2, height)
    left = tl.maximum((i_x * BLOCK_CELLS - 1) * width // columns - 1, 0) // 16 * 16  # for loads of 16 bytes
    right = tl.minimum((i_x * BLOCK_CELLS + BLOCK_CELLS + 1) * width // columns + 2, width)
    sums, squares = tl.zeros([BLOCK_C, BLOCK_CELLS], acc_dtype), tl.zeros([BLOCK_C, BLOCK_CELLS], acc_dtype)
    area_x, area_y = tl.zeros([BLOCK_CELLS], acc_dtype), tl.zeros([1], acc_dtype)
    for start in range(left, right, BLOCK_W):
        i = start + tl.arange(0, BLOCK_W)
        m_x = (i < right)[None, :] & (o_c < a.channels)[:, None]
        row_sums, row_squares = tl.zeros([BLOCK_C, BLOCK_W], acc_dtype), tl.zeros([BLOCK_C, BLOCK_W], acc_dtype)
        area_y = tl.zeros([1], acc_dtype)
        for j in range(top, bottom):
            weight = weights(j + tl.zeros([1], tl.int64), height, y, rows, step_y, acc_dtype, BILINEAR)
            x = load_tile(a, n, i_c * BLOCK_C, j * width + start, BLOCK_C, BLOCK_W)
            d = tl.where(m_x, x.to(acc_dtype) - shift[:, None], 0.0)  # zero past the end of the row
            row_sums += weight[None, :] * d
            row_squares += weight[None, :] * (d * d)
            area_y += weight
        weights_x = weights(i[:, None], width, o_x[None, :], columns, step_x, acc_dtype, BILINEAR)
        weights_x = tl.where((i < right)[:, None], weights_x, 0.0)  # [BLOCK_W, BLOCK_CELLS]
        area_x += tl.sum(weights_x, 0)
        sums = tl.dot(row_sums, weights_x, sums, input_precision="ieee", out_dtype=acc_dtype)
        squares = tl.dot(row_squares, weights_x, squares, input_precision="ieee", out_dtype=acc_dtype)
    offsets = ((n * a.channels + o_c) * rows + y)[:, None] * columns + o_x[None, :]
    mask = (o_c < a.channels)[:, None] & (o_x < columns)[None, :]
    tl.store(pooled.sums + offsets, sums, mask=mask)
    tl.store(pooled.squares + offsets, squares, mask=mask)
    if n + i_c == 0:
        tl.store(pooled.area + y * columns + o_x, area_x * area_y, mask=o_x < columns)


def pool(x: Tensor, grid: tuple[int, int], standardize: bool, bilinear: bool) -> Pooled:
    """Return the layer pooled onto the label grid."""
    n, c, h, w = x.shape
    dtype = accumulator(x.dtype)
    pooled = Pooled(*x.new_empty((2, n, c, *grid), dtype=dtype), x.new_empty(grid, dtype=dtype))
    channels = min(max(triton.next_power_of_2(c), 16), 32)
    programs = n * triton.cdiv(c, channels) * grid[0] * triton.cdiv(grid[1], CELLS)
    if programs > 0:
        pool_kernel[(programs,)](
            view(x), pooled, h, w, *grid, grid[0] / h, grid[1] / w,
            STANDARDIZE=standardize, BILINEAR=bilinear, BLOCK_C=channels, BLOCK_W=64, BLOCK_CELLS=CELLS,
            num_warps=256 // device_of(x).lanes,
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
