# SPDX-License-Identifier: Apache-2.0
"""Op `lloyd_step`: a tile is labelled, and its unit vectors are summed by label while it is in the cache.

Activations are read from memory once, because the tiles of all running programs fit into the last-level cache. A tile
of 512 channels has 64 KB (float32: 128 KB). With one program per multiprocessor, the tiles take 8 MB (float32: 17 MB)
of the 50 MB of an H100, 7 MB (14 MB) of the 40 MB of an A100, and 20 MB (39 MB) of the 256 MB of an MI300X.

If SPLITS programs do not have enough registers for the sums, every tile would be labelled too often. Then all positions
are labelled first, and the activations are read a second time for the sums.
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
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
    SUM_C: tl.constexpr, SUM_K: tl.constexpr, SUM_BLOCKS: tl.constexpr,
):  # fmt: skip
    """Sum SUM_BLOCKS x SUM_C channels x SUM_K clusters of one restart over every `groups`-th tile.

    The programs of a group process the same tiles for different channels, clusters and restarts. They run at the same
    time, so that they find each tile in the cache. Per tile, a program computes the labels with `nearest` if FUSED,
    else reads them, and adds the unit vectors of its channels and clusters in registers, as products with the one-hot
    labels. Every group has its own sums, which `launch` adds.
    """
    slices_c, slices_k = tl.cdiv(a.channels, SUM_BLOCKS * SUM_C), tl.cdiv(points.clusters, SUM_K)
    restarts = points.rows // points.clusters
    members = slices_c * slices_k * restarts
    groups, group, member = tl.num_programs(0) // members, tl.program_id(0) // members, tl.program_id(0) % members
    b, i_c, i_k = member // (slices_c * slices_k), member % slices_c, member // slices_c % slices_k
    c = i_c * SUM_BLOCKS * SUM_C
    o_c, o_k = c + tl.arange(0, SUM_C), i_k * SUM_K + tl.arange(0, SUM_K)
    acc_dtype: tl.constexpr = sums.dtype.element_ty
    totals = ()
    for _ in tl.static_range(SUM_BLOCKS):
        totals += (tl.zeros([SUM_C, SUM_K], acc_dtype),)
    count = tl.zeros([SUM_K], tl.int32)
    blocks = tl.cdiv(a.plane, BLOCK_P)
    for tile in tl.range(group.to(tl.int64), a.images * blocks, groups, disable_licm=True):
        n = tile // blocks
        p = tile % blocks * BLOCK_P
        o_p = p + tl.arange(0, BLOCK_P)
        m_p = o_p < a.plane
        position = (b * a.images + n) * a.plane + o_p
        if FUSED:
            label, cosine, weight = nearest(
                a, points, b * points.clusters, n, p, FEATURES, PIECES, PRECISION, BLOCK_P, BLOCK_C, BLOCK_K
            )
            if member % (slices_c * slices_k) == 0:
                tl.store(labels + position, label, mask=m_p)
                tl.store(cosines + position, cosine, mask=m_p)
        else:
            label = tl.load(labels + position, mask=m_p, other=0)
            weight = tl.load(weights + position, mask=m_p, other=0)
        one_hot = (label[:, None] == o_k[None, :]) & (m_p & (weight > 0))[:, None]
        count += tl.sum(one_hot.to(tl.int32), 0)
        new_totals = ()
        for i in tl.static_range(SUM_BLOCKS):
            x = load_tile(a, n, c + i * SUM_C, p, SUM_C, BLOCK_P)
            x = transform(x, points, n, o_c + i * SUM_C, a.channels, FEATURES)
            x = tl.where((weight > 0)[None, :], x * weight[None, :], 0.0)
            new_totals += (added(totals[i], sum_by_label(x, one_hot, PRECISION)),)
        totals = new_totals
    row = (group * restarts + b).to(tl.int64) * points.clusters + o_k
    m_k = o_k < points.clusters
    for i in tl.static_range(SUM_BLOCKS):
        o_block = o_c + i * SUM_C
        offsets = row[None, :] * a.channels + o_block[:, None]
        tl.store(sums + offsets, totals[i], mask=(o_block < a.channels)[:, None] & m_k[None, :])
    if i_c == 0:
        tl.store(counts + row, count, mask=m_k)


def launch(activations: Tensor, centroids: Tensor, features: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (n, c, h, w), (b, k, _), dtype = activations.shape, centroids.shape, accumulator(activations.dtype)
    sizes = tiles_for(activations, k)
    slices = sizes.slices(c, k)
    fused = slices <= SPLITS
    if fused:
        labels = activations.new_empty((b, n, h, w), dtype=torch.int32)
        cosines, weights = activations.new_empty((b, n, h, w), dtype=dtype), None
    else:
        labels, cosines, weights = label_all(activations, centroids, features, with_weights=True)
        sizes = tiles_for(activations, k, 2)
        slices = sizes.slices(c, k)
    blocks = n * triton.cdiv(h * w, sizes.positions)
    groups = min(blocks, triton.cdiv(2 * device_of(activations).processors, slices * b))
    sums = activations.new_empty((groups, b, k, c), dtype=dtype)
    counts = activations.new_empty((groups, b, k), dtype=torch.int64)
    if groups > 0:
        points, constants = prepare(activations, centroids, features)
        lloyd_kernel[(groups * slices * b,)](
            view(activations), points, labels, cosines, weights, sums, counts,
            FUSED=fused, **constants, **sizes.constants(), num_stages=3 if fused else 1,
        )  # fmt: skip
    objective = cosines.flatten(1).sum(1, dtype=torch.float64) / max(1, n * h * w)
    return labels, sums.sum(0, dtype=torch.float64).to(dtype), counts.sum(0), objective
