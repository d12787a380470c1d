# SPDX-License-Identifier: Apache-2.0
"""Labels: scores of a tile of positions against blocks of centroids, and their argmax, on chip."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.dtypes import accumulator
from .tiles import added, load_tile, precision, product, statistics, tiles_for, transform, view


class Points(NamedTuple):
    """Which features are clustered: mean and rstd [N, C] or None; and centroids [pieces, rows, C], scale [rows]."""

    mean: Any
    rstd: Any
    centroids: Any
    scale: Any
    rows: Any
    clusters: Any


@triton.jit
def split_kernel(centroids, pieces, scale, rows, channels, PIECES: tl.constexpr, BC: tl.constexpr):
    """A row of centroids as a sum of 16-bit pieces, times a power of two that keeps them all in range."""
    row = tl.program_id(0).to(tl.int64)
    o_c = tl.arange(0, BC)
    c = tl.load(centroids + row * channels + o_c, mask=o_c < channels, other=0)
    narrow: tl.constexpr = pieces.dtype.element_ty
    largest = tl.max(tl.where(tl.abs(c) < float("inf"), tl.abs(c), 0.0), 0)
    exponent = largest.to(tl.int32, bitcast=True) >> 23
    exponent = tl.minimum(tl.maximum(exponent, 15), 253) if narrow == tl.float16 else 127 + 14
    c *= ((254 + 14 - exponent) << 23).to(tl.float32, bitcast=True)
    tl.store(scale + row, ((exponent - 14) << 23).to(tl.float32, bitcast=True))
    for piece in tl.static_range(PIECES):
        part = c.to(narrow)
        tl.store(pieces + (piece * rows + row) * channels + o_c, part, mask=o_c < channels)
        rest = c - part.to(tl.float32)
        c = tl.where(tl.abs(rest) < float("inf"), rest, 0.0)


@triton.jit
def nearest(
    a, points, first, n, p,
    FEATURES: tl.constexpr, PIECES: tl.constexpr, PRECISION: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Label (of equal scores the lowest), cosine and 1/|x| of BP positions from p on; 0 where |x| is 0 or not finite.

    The centroids are rows [first, first + clusters).
    """
    wide: tl.constexpr = tl.float64 if a.data.dtype.element_ty == tl.float64 else tl.float32
    best = tl.full([BP], float("-inf"), wide)
    label = tl.zeros([BP], tl.int32)
    square = tl.zeros([BP], wide)
    inside = tl.arange(0, BK)[None, :] * a.channels + tl.arange(0, BC)[:, None]  # offsets in a block of centroids
    for start_k in range(0, points.clusters, BK):
        o_k = start_k + tl.arange(0, BK)
        m_k = o_k < points.clusters
        score = tl.zeros([BP, BK], wide)
        squares = tl.zeros([BC, BP], wide)
        for start_c in range(0, a.channels, BC):
            o_c = start_c + tl.arange(0, BC)
            m_c = o_c < a.channels
            x = transform(load_tile(a, n, start_c, p, BC, BP), points, n, o_c, a.channels, FEATURES)  # [BC, BP]
            squares += x.to(wide) * x.to(wide)
            part = tl.zeros([BP, BK], wide)
            for piece in tl.static_range(PIECES):  # the smallest first
                row = tl.cast((PIECES - 1 - piece) * points.rows + first + start_k, tl.int64)
                y = points.centroids + row * a.channels + start_c + inside  # [BC, BK]
                y = tl.load(y, mask=m_c[:, None] & m_k[None, :], other=0)
                part = product(tl.trans(x), y, part, PRECISION)
            score = added(score, part)
        square = tl.sum(squares, 0)
        if points.scale is not None:
            score *= tl.load(points.scale + first + o_k, mask=m_k, other=0)[None, :]
        score = tl.where(m_k[None, :] & (score == score), score, float("-inf"))  # NaN never wins
        top = tl.max(score, 1)
        lowest = tl.min(tl.where(score == top[:, None], o_k[None, :], 2147483647), 1)
        label = tl.where(top > best, lowest, label)
        best = tl.maximum(top, best)
    finite = square < float("inf")
    counts = finite & (square > 0)
    root = tl.where(counts, square, 1.0)
    norm = tl.sqrt(root) if wide == tl.float64 else tl.sqrt_rn(root)
    cosine = best / norm if wide == tl.float64 else tl.div_rn(best, norm)
    unscored = tl.where(finite & ~counts, 0.0, float("nan"))
    cosine = tl.where(counts & (best > float("-inf")), cosine, unscored)
    return tl.where(counts, label, 0), cosine, tl.where(counts, 1 / norm, 0.0)


@triton.jit
def assign_kernel(
    a, points, labels, similarity, weights,
    FEATURES: tl.constexpr, PIECES: tl.constexpr, PRECISION: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One tile of one image for one restart. Restarts of a tile follow each other and find it in cache."""
    restarts = points.rows // points.clusters
    tile, b = tl.program_id(0) // restarts, tl.program_id(0) % restarts
    blocks = tl.cdiv(a.plane, BP)
    n = (tile // blocks).to(tl.int64)
    p = (tile % blocks).to(tl.int64) * BP
    label, cosine, weight = nearest(a, points, b * points.clusters, n, p, FEATURES, PIECES, PRECISION, BP, BC, BK)
    o_p = p + tl.arange(0, BP)
    at = (b * a.images + n) * a.plane + o_p
    tl.store(labels + at, label, mask=o_p < a.plane)
    tl.store(similarity + at, cosine, mask=o_p < a.plane)
    if weights is not None:
        tl.store(weights + at, weight, mask=o_p < a.plane)


def prepare(x: Tensor, centroids: Tensor, features: str) -> tuple[Points, dict[str, Any]]:
    """What `nearest` needs for points of x and centroids [.., K, C]; 16-bit points meet centroids in 16-bit pieces."""
    rows, clusters = centroids.reshape(-1, centroids.shape[-1]).contiguous(), centroids.shape[-2]
    count, scale = 1, None
    if features == "raw" and x.element_size() == 2:
        count = 2 if x.dtype == torch.float16 else 3  # 22 or 24 bits of a float32's 24
        pieces, scale = x.new_empty((count, *rows.shape)), rows.new_empty(len(rows))
        block = triton.next_power_of_2(rows.shape[1])
        split_kernel[(len(rows),)](rows, pieces, scale, *rows.shape, PIECES=count, BC=block)
        rows = pieces
    points = Points(*statistics(x, features), rows, scale, rows.shape[-2], clusters)
    return points, {"FEATURES": features, "PIECES": count, "PRECISION": precision(x)}


def label_all(x: Tensor, centroids: Tensor, features: str, weigh: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """labels, cosines and, if asked for, 1/|x|: [B, N, H, W] each, for centroids [B, K, C]."""
    n, _, h, w = x.shape
    shape, wide = (len(centroids), n, h, w), accumulator(x.dtype)
    labels, cosines = x.new_empty(shape, dtype=torch.int32), x.new_empty(shape, dtype=wide)
    weights = x.new_empty(shape, dtype=wide) if weigh else None
    if labels.numel() > 0:
        points, options = prepare(x, centroids, features)
        t = tiles_for(x, centroids.shape[1])
        grid = (len(centroids) * n * triton.cdiv(h * w, t.positions),)
        sizes = {"BP": t.positions, "BC": t.channels, "BK": t.clusters}
        warps = 4 if t.clusters <= 64 else t.warps  # more would share a block of the scores, each computing all of it
        assign_kernel[grid](view(x), points, labels, cosines, weights, **options, **sizes, num_warps=warps)
    return labels, cosines, weights


def launch(activations: Tensor, centroids: Tensor, features: str) -> tuple[Tensor, Tensor]:
    labels, cosines, _ = label_all(activations, centroids[None], features, weigh=False)
    return labels[0], cosines[0]
