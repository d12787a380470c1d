# SPDX-License-Identifier: Apache-2.0
"""Op `lloyd_step`: labels, and sums of unit vectors by label.

With up to 512 channels and 64 clusters (32 before Hopper), activations are read once: a program keeps each tile on the
chip until it has summed it (see `resident`). Otherwise all positions are labelled first, and the activations are read
a second time for the sums.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.dtypes import accumulator
from . import resident, streamed
from .resident import ONE_OVER_NORM, add_tile, load_blocks, load_centroids, nearest, scores, split_tile, zero_tile
from .tiles import added, device_of, load_tile, product, tiles_for, transform, view


@triton.jit
def lloyd_kernel(
    a, points, labels, cosines, sums, counts,
    FEATURES: tl.constexpr, PIECES: tl.constexpr, PRECISION: tl.constexpr, RESTARTS: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Label and add every `groups`-th tile for RESTARTS restarts.

    The programs of a group process the same tiles for different restarts. Every group has its own sums and counts,
    which `launch` adds.
    """
    parts = tl.cdiv(points.restarts, RESTARTS)
    groups, group, part = tl.num_programs(0) // parts, tl.program_id(0) // parts, tl.program_id(0) % parts
    o_b = part * RESTARTS + tl.arange(0, RESTARTS)
    centroids = load_centroids(points, part, a.channels, BLOCK_K, BLOCKS, BLOCK_C)
    totals = ()
    for _ in tl.static_range(BLOCKS):
        totals += (tl.zeros([BLOCK_C, BLOCK_K], tl.float32),)
    count = tl.zeros([BLOCK_K, 2], tl.int32)  # of both halves of the tiles, which needs fewer shuffles
    blocks = tl.cdiv(a.plane, BLOCK_P)
    tiles = a.images * blocks
    tile, weight = zero_tile(PIECES, BLOCKS, BLOCK_C, BLOCK_P)
    for i in tl.range(group - groups, tiles, groups, disable_licm=True):
        score = scores(centroids, tile, BLOCK_K, PRECISION)
        following = tl.minimum(i + groups, tiles - 1)
        n, p = (following // blocks).to(tl.int64), following % blocks * BLOCK_P
        loaded = load_blocks(a, n, p, BLOCKS, BLOCK_C, BLOCK_P, WHOLE)
        one_hot = tl.zeros([BLOCK_K, BLOCK_P], tl.int1)
        if i >= 0:
            label, best, one_hot = nearest(score, points, part, weight, RESTARTS)
            o_p = i % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
            position = (o_b.to(tl.int64) * a.images + i // blocks)[:, None] * a.plane + o_p[None, :]
            mask = (o_b < points.restarts)[:, None] & (o_p < a.plane)[None, :]
            tl.store(labels + position, label, mask=mask)
            tl.store(cosines + position, best, mask=mask)
        count += tl.sum(tl.reshape(one_hot.to(tl.int32), [BLOCK_K, 2, BLOCK_P // 2]), 2)
        totals = add_tile(totals, tile, weight, one_hot, PRECISION)
        tile, weight = split_tile(a, points, loaded, n, p, FEATURES, PIECES)
    o_k = tl.arange(0, BLOCK_K)
    b, k = part * RESTARTS + o_k // (BLOCK_K // RESTARTS), o_k % (BLOCK_K // RESTARTS)
    row = (group.to(tl.int64) * points.restarts + b) * points.clusters + k
    m_k = (b < points.restarts) & (k < points.clusters)
    for i in tl.static_range(BLOCKS):
        o_c = i * BLOCK_C + tl.arange(0, BLOCK_C)
        mask = (o_c < a.channels)[:, None] & m_k[None, :]
        tl.store(sums + row[None, :] * a.channels + o_c[:, None], totals[i] * ONE_OVER_NORM, mask=mask)
    tl.store(counts + row, tl.sum(count, 1), mask=m_k)


@triton.jit
def sum_by_label(x, one_hot, PRECISION: tl.constexpr):
    """Return the sum of the positions of each label: x [channels, positions] times one_hot [positions, clusters].

    Zeros and ones are exact in TF32. Therefore two TF32 products, with the high and the low bits of x, are as exact as
    one product in float32.
    """
    zeros = tl.zeros([x.shape[0], one_hot.shape[1]], x.dtype)
    one_hot = one_hot.to(x.dtype)
    if PRECISION == "tf32x3":
        high = ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
        low = tl.dot(x - high, one_hot, zeros, input_precision="tf32")
        total = tl.dot(high, one_hot, low, input_precision="tf32")
    else:  # Triton compiles code after a conditional return, too
        total = product(x, one_hot, zeros, PRECISION)
    return total


@triton.jit
def sum_kernel(
    a, points, labels, weights, sums, counts,
    FEATURES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, SUM_C: tl.constexpr, SUM_K: tl.constexpr, SUM_BLOCKS: tl.constexpr,
):  # fmt: skip
    """Add every `groups`-th tile by its labels, for SUM_BLOCKS x SUM_C channels x SUM_K clusters of one restart.

    The programs of a group process the same tiles for different channels, clusters and restarts. They run at the same
    time, so that they find each tile in the cache.
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
    sizes = resident.sizes_for(activations, k, b, features)
    if sizes is None:
        labels, cosines, sums, counts = _in_two_reads(activations, centroids, features)
    else:
        labels = activations.new_empty((b, n, h, w), dtype=torch.int32)
        cosines = activations.new_empty((b, n, h, w), dtype=dtype)
        tiles, parts = n * triton.cdiv(h * w, sizes.positions), triton.cdiv(b, sizes.restarts)
        groups = min(tiles, triton.cdiv(device_of(activations).processors, parts))
        sums = activations.new_empty((groups, b, k, c), dtype=dtype)
        counts = activations.new_empty((groups, b, k), dtype=torch.int64)
        if groups > 0:
            points, constants = resident.prepare(activations, centroids, features, sizes)
            lloyd_kernel[(groups * parts,)](view(activations), points, labels, cosines, sums, counts, **constants)
    objective = cosines.flatten(1).sum(1, dtype=torch.float64) / max(1, n * h * w)
    return labels, sums.sum(0, dtype=torch.float64).to(dtype), counts.sum(0), objective


def _in_two_reads(activations: Tensor, centroids: Tensor, features: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return labels, cosines, and sums and counts per group."""
    (n, c, h, w), (b, k, _), dtype = activations.shape, centroids.shape, accumulator(activations.dtype)
    labels, cosines, weights = streamed.label_all(activations, centroids, features, with_weights=True)
    sizes = tiles_for(activations, k, 2)
    slices = sizes.slices(c, k)
    groups = min(
        n * triton.cdiv(h * w, sizes.positions), triton.cdiv(2 * device_of(activations).processors, slices * b)
    )
    sums = activations.new_empty((groups, b, k, c), dtype=dtype)
    counts = activations.new_empty((groups, b, k), dtype=torch.int64)
    if groups > 0:
        points, constants = streamed.prepare(activations, centroids, features)
        sum_kernel[(groups * slices * b,)](
            view(activations), points, labels, weights, sums, counts,
            FEATURES=features, PRECISION=constants["PRECISION"], **sizes.sum_constants(), num_stages=1,
        )  # fmt: skip
    return labels, cosines, sums, counts
