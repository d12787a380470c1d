# SPDX-License-Identifier: Apache-2.0
"""Labels for any dtype and any number of channels and clusters.

A program owns a tile of positions. It reads centroids and channels block by block: for each block of centroids it
adds scores over the channels in registers, then updates the best score and label of every position.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.dtypes import accumulator
from .tiles import added, load_tile, precision, product, statistics, tiles_for, transform, view


class Points(NamedTuple):
    """The points to label and the centroids to choose from, as an argument of kernels."""

    mean: Any  # [N, C] for standardised features, else None
    rstd: Any  # [N, C] for standardised features, else None
    centroids: Any  # [rows, C], or [pieces, rows, C]
    scale: Any  # [rows] if there are pieces, else None
    rows: Any  # centroids of all restarts
    clusters: Any  # K of a restart


@triton.jit
def split_kernel(centroids, pieces, scale, rows, channels, PIECES: tl.constexpr, BLOCK_C: tl.constexpr):
    """Multiply a row of centroids by a power of two, and split it into 16-bit pieces whose sum is the row.

    The power of two brings the largest finite number to [2^14, 2^15); `scale` receives its inverse. The exponent is
    clamped so that both factors are normal numbers. bfloat16 has the range of float32 and needs no power of two.
    """
    row = tl.program_id(0).to(tl.int64)
    o_c = tl.arange(0, BLOCK_C)
    c = tl.load(centroids + row * channels + o_c, mask=o_c < channels, other=0)
    piece_dtype: tl.constexpr = pieces.dtype.element_ty
    largest = tl.max(tl.where(tl.abs(c) < float("inf"), tl.abs(c), 0.0), 0)
    exponent = largest.to(tl.int32, bitcast=True) >> 23
    exponent = tl.minimum(tl.maximum(exponent, 15), 253) if piece_dtype == tl.float16 else 127 + 14
    c *= ((254 + 14 - exponent) << 23).to(tl.float32, bitcast=True)
    tl.store(scale + row, ((exponent - 14) << 23).to(tl.float32, bitcast=True))
    for piece in tl.static_range(PIECES):
        part = c.to(piece_dtype)
        tl.store(pieces + (piece * rows + row) * channels + o_c, part, mask=o_c < channels)
        rest = c - part.to(tl.float32)
        c = tl.where(tl.abs(rest) < float("inf"), rest, 0.0)


@triton.jit
def nearest(
    a, points, first, n, p,
    FEATURES: tl.constexpr, PIECES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Return label, cosine and `1 / |x|` of BLOCK_P positions of image n, beginning at position p.

    The centroids are rows [first, first + clusters). The lowest label wins ties. Label, cosine and `1 / |x|` are 0 if
    `|x|` is 0. If `|x|` is not finite, the cosine is NaN instead. If no score is above -Inf, the cosine is NaN, too.
    """
    acc_dtype: tl.constexpr = tl.float64 if a.data.dtype.element_ty == tl.float64 else tl.float32
    best = tl.full([BLOCK_P], float("-inf"), acc_dtype)
    label = tl.zeros([BLOCK_P], tl.int32)
    square = tl.zeros([BLOCK_P], acc_dtype)
    # Offsets in a block of centroids.
    o_block = tl.arange(0, BLOCK_K)[None, :] * a.channels + tl.arange(0, BLOCK_C)[:, None]
    for start_k in range(0, points.clusters, BLOCK_K):
        o_k = start_k + tl.arange(0, BLOCK_K)
        m_k = o_k < points.clusters
        score = tl.zeros([BLOCK_P, BLOCK_K], acc_dtype)
        squares = tl.zeros([BLOCK_C, BLOCK_P], acc_dtype)
        for start_c in range(0, a.channels, BLOCK_C):
            o_c = start_c + tl.arange(0, BLOCK_C)
            m_c = o_c < a.channels
            x = load_tile(a, n, start_c, p, BLOCK_C, BLOCK_P)  # [BLOCK_C, BLOCK_P]
            x = transform(x, points, n, o_c, a.channels, FEATURES)
            squares += x.to(acc_dtype) * x.to(acc_dtype)
            part = tl.zeros([BLOCK_P, BLOCK_K], acc_dtype)
            for piece in tl.static_range(PIECES):  # the smallest piece first
                row = tl.cast((PIECES - 1 - piece) * points.rows + first + start_k, tl.int64)
                pointers = points.centroids + row * a.channels + start_c + o_block  # [BLOCK_C, BLOCK_K]
                y = tl.load(pointers, mask=m_c[:, None] & m_k[None, :], other=0)
                part = product(tl.trans(x), y, part, PRECISION)
            score = added(score, part)
        square = tl.sum(squares, 0)
        if points.scale is not None:
            score *= tl.load(points.scale + first + o_k, mask=m_k, other=0)[None, :]
        score = tl.where(m_k[None, :] & (score == score), score, float("-inf"))  # NaN never wins
        block_best = tl.max(score, 1)
        block_label = tl.min(tl.where(score == block_best[:, None], o_k[None, :], 2147483647), 1)  # lowest of the ties
        label = tl.where(block_best > best, block_label, label)
        best = tl.maximum(block_best, best)
    finite = square < float("inf")
    counted = finite & (square > 0)
    square = tl.where(counted, square, 1.0)
    norm = tl.sqrt(square) if acc_dtype == tl.float64 else tl.sqrt_rn(square)
    cosine = best / norm if acc_dtype == tl.float64 else tl.div_rn(best, norm)
    unscored = tl.where(finite & ~counted, 0.0, float("nan"))
    cosine = tl.where(counted & (best > float("-inf")), cosine, unscored)
    return tl.where(counted, label, 0), cosine, tl.where(counted, 1 / norm, 0.0)


@triton.jit
def streamed_kernel(
    a, points, labels, similarity, weights,
    FEATURES: tl.constexpr, PIECES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Label one tile of one image for one restart.

    The programs for the restarts of a tile are consecutive, so that the tile stays in the cache.
    """
    restarts = points.rows // points.clusters
    tile, b = tl.program_id(0) // restarts, tl.program_id(0) % restarts
    blocks = tl.cdiv(a.plane, BLOCK_P)
    n = (tile // blocks).to(tl.int64)
    p = (tile % blocks).to(tl.int64) * BLOCK_P
    first = b * points.clusters
    label, cosine, weight = nearest(a, points, first, n, p, FEATURES, PIECES, PRECISION, BLOCK_P, BLOCK_C, BLOCK_K)
    o_p = p + tl.arange(0, BLOCK_P)
    position = (b * a.images + n) * a.plane + o_p
    tl.store(labels + position, label, mask=o_p < a.plane)
    tl.store(similarity + position, cosine, mask=o_p < a.plane)
    if weights is not None:
        tl.store(weights + position, weight, mask=o_p < a.plane)


def prepare(x: Tensor, centroids: Tensor, features: str) -> tuple[Points, dict[str, Any]]:
    """Return the points and the compile-time constants of `nearest` for activations x and centroids [.., K, C].

    For raw 16-bit features, the centroids are split into 16-bit pieces.
    """
    rows, clusters = centroids.reshape(-1, centroids.shape[-1]).contiguous(), centroids.shape[-2]
    n_pieces, scale = 1, None
    if features == "raw" and x.element_size() == 2:
        n_pieces = 2 if x.dtype == torch.float16 else 3  # they hold 22 or all 24 bits of a float32
        pieces, scale = x.new_empty((n_pieces, *rows.shape)), rows.new_empty(len(rows))
        block = triton.next_power_of_2(rows.shape[1])
        split_kernel[(len(rows),)](rows, pieces, scale, *rows.shape, PIECES=n_pieces, BLOCK_C=block)
        rows = pieces
    points = Points(*statistics(x, features), rows, scale, rows.shape[-2], clusters)
    return points, {"FEATURES": features, "PIECES": n_pieces, "PRECISION": precision(x)}


def label_all(x: Tensor, centroids: Tensor, features: str, with_weights: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return labels, cosines and, if `with_weights`, `1 / |x|`, [B, N, H, W] each, for centroids [B, K, C]."""
    n, _, h, w = x.shape
    shape, dtype = (len(centroids), n, h, w), accumulator(x.dtype)
    labels, cosines = x.new_empty(shape, dtype=torch.int32), x.new_empty(shape, dtype=dtype)
    weights = x.new_empty(shape, dtype=dtype) if with_weights else None
    if labels.numel() > 0:
        points, constants = prepare(x, centroids, features)
        sizes = tiles_for(x, centroids.shape[1])
        grid = (len(centroids) * n * triton.cdiv(h * w, sizes.positions),)
        blocks = {"BLOCK_P": sizes.positions, "BLOCK_C": sizes.channels, "BLOCK_K": sizes.clusters}
        warps = 4 if sizes.clusters <= 64 else sizes.warps  # further warps would repeat work
        streamed_kernel[grid](view(x), points, labels, cosines, weights, **constants, **blocks, num_warps=warps)
    return labels, cosines, weights
