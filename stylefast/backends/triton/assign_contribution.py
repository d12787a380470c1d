# SPDX-License-Identifier: Apache-2.0
"""Moments of every channel over every cluster, about a shift near the channel's mean, in one pass; and M from them.

With d = mean - shift, sum (a - mean)^2 = Q - 2 d L + d^2 n: no digits are lost while |d| is of the order of the
standard deviation. A program takes whole images, so it knows their means at their ends, and adds up M.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...ops.op import accumulator
from .assign import label_all, nearest, prepare
from .tiles import added, load_tile, precision, processors, sampled_mean, sum_by_label, tiles_for, view

SPLITS = 2  # programs that may label the same tile for different sums; beyond them it is cheaper to read A again


class Pooled(NamedTuple):
    """A layer on the label grid: sums of a - shift and of its square [N, C, cells], and the area of a cell [cells]."""

    first: Any
    second: Any
    area: Any


@triton.jit
def moments_kernel(
    a, points, pooled, labels, m, cells, clusters,
    LABELLED: tl.constexpr, STANDARDIZE: tl.constexpr, PER_IMAGE: tl.constexpr,
    FEATURES: tl.constexpr, PIECES: tl.constexpr, PRECISION: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, SC: tl.constexpr, SK: tl.constexpr,
):  # fmt: skip
    """M of SC channels x SK clusters over every `groups`-th image: programs of a group run together."""
    slices_c, slices_k = tl.cdiv(a.channels, SC), tl.cdiv(clusters, SK)
    members = slices_c * slices_k
    groups, group, member = tl.num_programs(0) // members, tl.program_id(0) // members, tl.program_id(0) % members
    o_c, o_k = member % slices_c * SC + tl.arange(0, SC), member // slices_c * SK + tl.arange(0, SK)
    wide: tl.constexpr = m.dtype.element_ty
    at_m = o_k.to(tl.int64)[None, :] * a.channels + o_c[:, None]
    m_m = (o_k < clusters)[None, :] & (o_c < a.channels)[:, None]
    positions = tl.full([1], 1.0, wide) * a.plane
    total = tl.zeros([SC, SK], wide)
    for n in range(group.to(tl.int64), a.images, groups):
        first, second, area = tl.zeros([SC, SK], wide), tl.zeros([SC, SK], wide), tl.zeros([SK], wide)
        all_first, all_second, shift = tl.zeros([SC], wide), tl.zeros([SC], wide), tl.zeros([SC], wide)
        if STANDARDIZE and pooled is None:
            shift = sampled_mean(a, n, o_c)
        for start in range(0, cells, BP):
            o_p = start + tl.arange(0, BP).to(tl.int64)
            m_p = o_p < cells
            if LABELLED:
                label = tl.load(labels + n * cells + o_p, mask=m_p, other=-1)
            else:
                label, _, _ = nearest(a, points, 0, n, o_p, FEATURES, PIECES, PRECISION, BC, BK)
                if member == 0:
                    tl.store(labels + n * cells + o_p, label, mask=m_p)
            m_x = (o_c < a.channels)[:, None] & m_p[None, :]
            if pooled is None:
                d = tl.where(m_x, load_tile(a, n, o_c, o_p).to(wide) - shift[:, None], 0.0)
                q, share = d * d, m_p.to(wide)
            else:
                at = (n * a.channels + o_c)[:, None] * cells + o_p[None, :]
                d, q = tl.load(pooled.first + at, mask=m_x, other=0), tl.load(pooled.second + at, mask=m_x, other=0)
                share = tl.load(pooled.area + o_p, mask=m_p, other=0)
            hot = (label[:, None] == o_k[None, :]) & m_p[:, None]
            second = added(second, sum_by_label(q, hot, PRECISION))
            if STANDARDIZE:
                first = added(first, sum_by_label(d, hot, PRECISION))
                area += tl.sum(tl.where(hot, share[:, None], 0.0), 0)
                all_first += tl.sum(d, 1)
                all_second += tl.sum(q, 1)
        if STANDARDIZE:
            offset = all_first / positions
            variance = all_second / positions - offset * offset
            scale = 1 / (tl.where(variance < 0, 0.0, variance) + 1e-5)  # NaN stays
            energy = second - 2 * offset[:, None] * first + (offset * offset)[:, None] * area[None, :]
            second = tl.where(energy < 0, 0.0, energy) * scale[:, None]
        if PER_IMAGE:
            tl.store(m + n * clusters * a.channels + at_m, second / positions, mask=m_m)
        else:
            total += second
    if not PER_IMAGE:
        tl.store(m + group.to(tl.int64) * clusters * a.channels + at_m, total, mask=m_m)


def moments(
    x: Tensor, labels: Tensor, clusters: int, standardize: bool, per_image: bool, *,
    centroids: Tensor | None = None, features: str = "raw", pooled: Pooled | None = None,
) -> Tensor:  # fmt: skip
    """M; labels [N, cells] are given, or written if centroids are given."""
    (n, c, h, w), t, wide = x.shape, tiles_for(x, clusters, moments=2), accumulator(x.dtype)
    slices = count_slices(x, clusters)
    groups = n if per_image else min(n, triton.cdiv(2 * processors(x), slices))
    m = x.new_empty((groups, clusters, c), dtype=wide)
    if groups > 0:
        points, options = None, {"FEATURES": features, "PIECES": 1, "PRECISION": precision(x)}
        if centroids is not None:
            points, options = prepare(x, centroids, features)
        positions = t.positions if pooled is None else max(16, t.positions // 2)  # two tiles are read
        sizes = {"BP": positions, "BC": t.channels, "BK": t.clusters, "SC": t.sum_channels, "SK": t.sum_clusters}
        moments_kernel[(groups * slices,)](
            view(x), points, pooled, labels, m, labels[0].numel(), clusters,
            LABELLED=centroids is None, STANDARDIZE=standardize, PER_IMAGE=per_image, **options, **sizes,
            num_warps=t.warps, num_stages=2,
        )  # fmt: skip
    return m if per_image else (m.sum(0, dtype=torch.float64) / max(1, n * h * w)).to(wide)


def count_slices(x: Tensor, clusters: int) -> int:
    """How many programs it takes to hold the sums of all channels and clusters."""
    t = tiles_for(x, clusters, moments=2)
    return triton.cdiv(x.shape[1], t.sum_channels) * triton.cdiv(clusters, t.sum_clusters)


def launch(
    activations: Tensor, centroids: Tensor, features: str, standardize: bool, per_image: bool
) -> tuple[Tensor, Tensor]:
    (n, _, h, w), clusters = activations.shape, len(centroids)
    if count_slices(activations, clusters) > SPLITS:
        labels = label_all(activations, centroids[None], features, weigh=False)[0][0]
        return labels, moments(activations, labels, clusters, standardize, per_image)
    labels = activations.new_empty((n, h, w), dtype=torch.int32)
    chosen = {"centroids": centroids, "features": features}
    return labels, moments(activations, labels, clusters, standardize, per_image, **chosen)
