# SPDX-License-Identifier: Apache-2.0
"""One Lloyd iteration: a tile is labelled, then, while it is in cache, its unit vectors are summed by label.

A comes from memory once: a tile of 512 channels is 64 KB (float32: 128), and those of 132 programs 8 or 17 MB of 50 MB
of L2 (A100: 7 or 14 of 40; MI300X: 20 or 39 of 256). Where sums need more registers than SPLITS programs have, it would
be labelled too often: then all is labelled first, and A is read twice.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.dtypes import accumulator
from .assign import label_all, nearest, prepare
from .tiles import SPLITS, added, device_of, load_tile, sum_by_label, tiles_for, transform, view


@triton.jit
def lloyd_kernel(
    a, points, labels, cosines, weights, sums, counts,
    FUSED: tl.constexpr, FEATURES: tl.constexpr, PIECES: tl.constexpr, PRECISION: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, SC: tl.constexpr, SK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Sums of BLOCKS x SC channels x SK clusters of one restart over every `groups`-th tile; a group runs together."""
    slices_c, slices_k = tl.cdiv(a.channels, BLOCKS * SC), tl.cdiv(points.clusters, SK)
    restarts = points.rows // points.clusters
    members = slices_c * slices_k * restarts
    groups, group, member = tl.num_programs(0) // members, tl.program_id(0) // members, tl.program_id(0) % members
    b, i_c, i_k = member // (slices_c * slices_k), member % slices_c, member // slices_c % slices_k
    c = i_c * BLOCKS * SC
    o_c, o_k = c + tl.arange(0, SC), i_k * SK + tl.arange(0, SK)
    wide: tl.constexpr = sums.dtype.element_ty
    totals = ()
    for _ in tl.static_range(BLOCKS):
        totals += (tl.zeros([SC, SK], wide),)
    count = tl.zeros([SK], tl.int32)
    blocks = tl.cdiv(a.plane, BP)
    for tile in tl.range(group.to(tl.int64), a.images * blocks, groups, disable_licm=True):
        n = tile // blocks
        p = tile % blocks * BP
        o_p = p + tl.arange(0, BP)
        m_p = o_p < a.plane
        at = (b * a.images + n) * a.plane + o_p
        if FUSED:
            first = b * points.clusters
            label, cosine, weight = nearest(a, points, first, n, p, FEATURES, PIECES, PRECISION, BP, BC, BK)
            if member % (slices_c * slices_k) == 0:
                tl.store(labels + at, label, mask=m_p)
                tl.store(cosines + at, cosine, mask=m_p)
        else:
            label = tl.load(labels + at, mask=m_p, other=0)
            weight = tl.load(weights + at, mask=m_p, other=0)
        hot = (label[:, None] == o_k[None, :]) & (m_p & (weight > 0))[:, None]
        count += tl.sum(hot.to(tl.int32), 0)
        sums_now = ()
        for i in tl.static_range(BLOCKS):
            x = load_tile(a, n, c + i * SC, p, SC, BP)
            x = transform(x, points, n, o_c + i * SC, a.channels, FEATURES)
            x = tl.where((weight > 0)[None, :], x * weight[None, :], 0.0)
            sums_now += (added(totals[i], sum_by_label(x, hot, PRECISION)),)
        totals = sums_now
    row = (group * restarts + b).to(tl.int64) * points.clusters + o_k
    m_k = o_k < points.clusters
    for i in tl.static_range(BLOCKS):
        o = o_c + i * SC
        at = row[None, :] * a.channels + o[:, None]
        tl.store(sums + at, totals[i], mask=(o < a.channels)[:, None] & m_k[None, :])
    if i_c == 0:
        tl.store(counts + row, count, mask=m_k)


def launch(activations: Tensor, centroids: Tensor, features: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (n, c, h, w), (b, k, _), wide = activations.shape, centroids.shape, accumulator(activations.dtype)
    t = tiles_for(activations, k)
    slices = t.slices(c, k)
    fused = slices <= SPLITS
    if fused:
        labels = activations.new_empty((b, n, h, w), dtype=torch.int32)
        cosines, weights = activations.new_empty((b, n, h, w), dtype=wide), None
    else:
        labels, cosines, weights = label_all(activations, centroids, features, weigh=True)
        t = tiles_for(activations, k, 2)
        slices = t.slices(c, k)
    blocks = n * triton.cdiv(h * w, t.positions)
    groups = min(blocks, triton.cdiv(2 * device_of(activations).processors, slices * b))
    sums = activations.new_empty((groups, b, k, c), dtype=wide)
    counts = activations.new_empty((groups, b, k), dtype=torch.int64)
    if groups > 0:
        points, options = prepare(activations, centroids, features)
        lloyd_kernel[(groups * slices * b,)](
            view(activations), points, labels, cosines, weights, sums, counts,
            FUSED=fused, **options, **t.of_sums, num_stages=3 if fused else 1,
        )  # fmt: skip
    objective = cosines.flatten(1).sum(1, dtype=torch.float64) / max(1, n * h * w)
    return labels, sums.sum(0, dtype=torch.float64).to(wide), counts.sum(0), objective
