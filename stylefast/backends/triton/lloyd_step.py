# SPDX-License-Identifier: Apache-2.0
"""One Lloyd iteration: a tile is labelled, then, while it is in cache, its unit vectors are summed by label."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...ops.op import accumulator
from .assign import label_all, nearest, prepare
from .tiles import added, load_tile, processors, sum_by_label, tiles_for, transform, view

SPLITS = 2  # programs that may label the same tile for different sums; beyond them it is cheaper to read A again


@triton.jit
def lloyd_kernel(
    a, points, labels, cosines, weights, sums, counts,
    FUSED: tl.constexpr, FEATURES: tl.constexpr, PIECES: tl.constexpr, PRECISION: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, SC: tl.constexpr, SK: tl.constexpr,
):  # fmt: skip
    """Sums of SC channels x SK clusters of one restart over every `groups`-th tile; a group runs together."""
    slices_c, slices_k = tl.cdiv(a.channels, SC), tl.cdiv(points.clusters, SK)
    restarts = points.rows // points.clusters
    members = slices_c * slices_k * restarts
    groups, group, member = tl.num_programs(0) // members, tl.program_id(0) // members, tl.program_id(0) % members
    b, i_c, i_k = member // (slices_c * slices_k), member % slices_c, member // slices_c % slices_k
    o_c, o_k = i_c * SC + tl.arange(0, SC), i_k * SK + tl.arange(0, SK)
    wide: tl.constexpr = sums.dtype.element_ty
    total = tl.zeros([SC, SK], wide)
    count = tl.zeros([SK], tl.int64)
    blocks = tl.cdiv(a.plane, BP)
    for tile in range(group.to(tl.int64), a.images * blocks, groups):
        n = tile // blocks
        o_p = tile % blocks * BP + tl.arange(0, BP)
        m_p = o_p < a.plane
        at = (b * a.images + n) * a.plane + o_p
        if FUSED:
            label, cosine, weight = nearest(a, points, b * points.clusters, n, o_p, FEATURES, PIECES, PRECISION, BC, BK)
            if member % (slices_c * slices_k) == 0:
                tl.store(labels + at, label, mask=m_p)
                tl.store(cosines + at, cosine, mask=m_p)
        else:
            label = tl.load(labels + at, mask=m_p, other=0)
            weight = tl.load(weights + at, mask=m_p, other=0)
        x = transform(load_tile(a, n, o_c, o_p), points, n, o_c, a.channels, FEATURES)
        x = tl.where((weight > 0)[None, :], x * weight[None, :], 0.0)
        hot = (label[:, None] == o_k[None, :]) & (m_p & (weight > 0))[:, None]
        total = added(total, sum_by_label(x, hot, PRECISION))
        count += tl.sum(hot.to(tl.int32), 0)
    row = (group * restarts + b).to(tl.int64) * points.clusters + o_k
    m_k = o_k < points.clusters
    at = row[None, :] * a.channels + o_c[:, None]
    tl.store(sums + at, total, mask=(o_c < a.channels)[:, None] & m_k[None, :])
    if i_c == 0:
        tl.store(counts + row, count, mask=m_k)


def launch(activations: Tensor, centroids: Tensor, features: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (n, c, h, w), (b, k, _), wide = activations.shape, centroids.shape, accumulator(activations.dtype)
    t = tiles_for(activations, k)
    slices = triton.cdiv(c, t.sum_channels) * triton.cdiv(k, t.sum_clusters)
    fused = slices <= SPLITS
    if fused:
        labels = activations.new_empty((b, n, h, w), dtype=torch.int32)
        cosines, weights = activations.new_empty((b, n, h, w), dtype=wide), None
    else:
        labels, cosines, weights = label_all(activations, centroids, features, weigh=True)
        t = tiles_for(activations, k, moments=2)  # fewer sums a program: nothing is labelled twice
        slices = triton.cdiv(c, t.sum_channels) * triton.cdiv(k, t.sum_clusters)
    blocks = n * triton.cdiv(h * w, t.positions)
    groups = min(blocks, triton.cdiv(2 * processors(activations), slices * b))
    sums = activations.new_empty((groups, b, k, c), dtype=wide)
    counts = activations.new_empty((groups, b, k), dtype=torch.int64)
    if groups > 0:
        points, options = prepare(activations, centroids, features)
        sizes = {"BP": t.positions, "BC": t.channels, "BK": t.clusters, "SC": t.sum_channels, "SK": t.sum_clusters}
        lloyd_kernel[(groups * slices * b,)](
            view(activations), points, labels, cosines, weights, sums, counts,
            FUSED=fused, **options, **sizes, num_warps=t.warps,
        )  # fmt: skip
    objective = cosines.flatten(1).sum(1, dtype=torch.float64) / max(1, n * h * w)
    return labels, sums.sum(0, dtype=torch.float64).to(wide), counts.sum(0), objective
