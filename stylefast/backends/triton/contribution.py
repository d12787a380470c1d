# SPDX-License-Identifier: Apache-2.0
"""M from labels: of the layer's own size, in the pass of assign_contribution; of another, by pooling the layer onto the
label grid with the adjoint of the resize, so that the number of clusters does not multiply its traffic."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...core.dtypes import accumulator
from .assign_contribution import Pooled, moments
from .tiles import device_of, load_tile, sampled_mean, view

CELLS = 16  # of a row, pooled by a program


@triton.jit
def weights(i, size, cell, cells, step, WIDE: tl.constexpr, BILINEAR: tl.constexpr):
    """How much of position i goes to a cell: [positions, cells], as torch.nn.functional.interpolate resizes.

    Positions and cells are integers and a bilinear weight is their quotient: nothing is rounded but the result.
    """
    if BILINEAR:
        above = tl.maximum((2 * i + 1) * cells - size, 0)  # of 2 size, from the centre of cell 0
        low = tl.minimum(above // (2 * size), cells - 1)
        high = tl.minimum(low + 1, cells - 1)
        weight = (above - low * 2 * size).to(WIDE) / (2.0 * size)
        return tl.where(low == cell, 1 - weight, 0.0) + tl.where(high == cell, weight, 0.0)
    nearest = (i.to(tl.float32) * step).to(tl.int64)  # torch's own rounding
    return (tl.minimum(nearest, cells - 1) == cell).to(WIDE)


@triton.jit
def pool_kernel(
    a, pooled, height, width, rows, columns, step_y, step_x,
    STANDARDIZE: tl.constexpr, BILINEAR: tl.constexpr, BC: tl.constexpr, BX: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    """One row of CELLS cells: the rows of positions are added up first, then their sum is pooled along the row."""
    blocks_x, blocks_c = tl.cdiv(columns, CELLS), tl.cdiv(a.channels, BC)
    pid = tl.program_id(0).to(tl.int64)
    i_x, y, unit = pid % blocks_x, pid // blocks_x % rows, pid // (blocks_x * rows)
    i_c, n = unit % blocks_c, unit // blocks_c
    o_x, o_c = i_x * CELLS + tl.arange(0, CELLS), i_c * BC + tl.arange(0, BC)
    wide: tl.constexpr = pooled.first.dtype.element_ty
    shift = tl.zeros([BC], wide)
    if STANDARDIZE:
        shift = sampled_mean(a, n, o_c)
    top = tl.maximum((y - 1) * height // rows - 1, 0)  # rows and columns that may have a weight
    bottom = tl.minimum((y + 2) * height // rows + 2, height)
    left = tl.maximum((i_x * CELLS - 1) * width // columns - 1, 0) // 16 * 16  # so that loads are of 16 bytes
    right = tl.minimum((i_x * CELLS + CELLS + 1) * width // columns + 2, width)
    first, second = tl.zeros([BC, CELLS], wide), tl.zeros([BC, CELLS], wide)
    area_x, area_y = tl.zeros([CELLS], wide), tl.zeros([1], wide)
    for start in range(left, right, BX):
        i = start + tl.arange(0, BX)
        m_x = (i < right)[None, :] & (o_c < a.channels)[:, None]
        sums, squares, area_y = tl.zeros([BC, BX], wide), tl.zeros([BC, BX], wide), tl.zeros([1], wide)
        for j in range(top, bottom):
            weight = weights(j + tl.zeros([1], tl.int64), height, y, rows, step_y, wide, BILINEAR)
            x = load_tile(a, n, i_c * BC, j * width + start, BC, BX)  # what is beyond the row is not used
            d = tl.where(m_x, x.to(wide) - shift[:, None], 0.0)
            sums += weight[None, :] * d
            squares += weight[None, :] * (d * d)
            area_y += weight
        along = weights(i[:, None], width, o_x[None, :], columns, step_x, wide, BILINEAR)  # [BX, CELLS]
        along = tl.where((i < right)[:, None], along, 0.0)
        area_x += tl.sum(along, 0)
        first = tl.dot(sums, along, first, input_precision="ieee", out_dtype=wide)
        second = tl.dot(squares, along, second, input_precision="ieee", out_dtype=wide)
    at = ((n * a.channels + o_c) * rows + y)[:, None] * columns + o_x[None, :]
    mask = (o_c < a.channels)[:, None] & (o_x < columns)[None, :]
    tl.store(pooled.first + at, first, mask=mask)
    tl.store(pooled.second + at, second, mask=mask)
    if n + i_c == 0:
        tl.store(pooled.area + y * columns + o_x, area_x * area_y, mask=o_x < columns)


def pool(x: Tensor, grid: tuple[int, int], standardize: bool, bilinear: bool) -> Pooled:
    """The layer on the label grid."""
    n, c, h, w = x.shape
    wide = accumulator(x.dtype)
    pooled = Pooled(*x.new_empty((2, n, c, *grid), dtype=wide), x.new_empty(grid, dtype=wide))
    channels = min(max(triton.next_power_of_2(c), 16), 32)
    programs = n * triton.cdiv(c, channels) * grid[0] * triton.cdiv(grid[1], CELLS)
    if programs > 0:
        pool_kernel[(programs,)](
            view(x), pooled, h, w, *grid, grid[0] / h, grid[1] / w,
            STANDARDIZE=standardize, BILINEAR=bilinear, BC=channels, BX=64, CELLS=CELLS,
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
    return moments(activations, labels, n_clusters, standardize, per_image, pooled=pooled)
