# SPDX-License-Identifier: Apache-2.0
"""Moments of every channel over every cluster, about a shift near the channel's mean, in one pass; and M from them.

With d = mean - shift, sum (a - mean)^2 = Q - 2 d L + d^2 n: no digits are lost while |d| is of the order of the
standard deviation. A program takes whole images, so it knows their means at their ends, and adds up M.

A comes from memory once, as in lloyd_step, while SPLITS programs hold two sums of every channel and of all clusters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.dtypes import accumulator
from .assign import label_all, nearest, prepare
from .tiles import SPLITS, added, device_of, load_tile, precision, sampled_mean, sum_by_label, tiles_for, view


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
    BP: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, SC: tl.constexpr, SK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """M of BLOCKS x SC channels x SK clusters over every `groups`-th image: programs of a group run together."""
    slices_c, slices_k = tl.cdiv(a.channels, BLOCKS * SC), tl.cdiv(clusters, SK)
    members = slices_c * slices_k
    groups, group, member = tl.num_programs(0) // members, tl.program_id(0) // members, tl.program_id(0) % members
    c = member % slices_c * (BLOCKS * SC)
    o_c, o_k = c + tl.arange(0, SC), member // slices_c * SK + tl.arange(0, SK)
    wide: tl.constexpr = m.dtype.element_ty
    positions = tl.full([1], 1.0, wide) * a.plane
    for n in tl.range(group.to(tl.int64), a.images, groups, disable_licm=True):
        found, area = (), tl.zeros([SK], wide)  # found: of each block shift, sums by label, sums over the plane
        for i in tl.static_range(BLOCKS):
            shift = tl.zeros([SC], wide)
            if STANDARDIZE and pooled is None:
                shift = sampled_mean(a, n, o_c + i * SC)
            sums, plane = tl.zeros([SC, SK], wide), tl.zeros([SC], wide)
            found += ((shift, sums, sums, plane, plane),)
        for start in tl.range(0, cells, BP, disable_licm=True):
            o_p = start + tl.arange(0, BP).to(tl.int64)
            m_p = o_p < cells
            if LABELLED:
                label = tl.load(labels + n * cells + o_p, mask=m_p, other=-1)
            else:
                label, _, _ = nearest(a, points, 0, n, start, FEATURES, PIECES, PRECISION, BP, BC, BK)
                if member == 0:
                    tl.store(labels + n * cells + o_p, label, mask=m_p)
            hot = (label[:, None] == o_k[None, :]) & m_p[:, None]
            if STANDARDIZE:
                share = m_p.to(wide) if pooled is None else tl.load(pooled.area + o_p, mask=m_p, other=0)
                area += tl.sum(tl.where(hot, share[:, None], 0.0), 0)
            summed = ()
            for i in tl.static_range(BLOCKS):
                shift, first, second, all_first, all_second = found[i]
                o = o_c + i * SC
                m_x = (o < a.channels)[:, None] & m_p[None, :]
                if pooled is None:
                    d = tl.where(m_x, load_tile(a, n, c + i * SC, start, SC, BP).to(wide) - shift[:, None], 0.0)
                    q = d * d
                else:
                    at = (n * a.channels + o)[:, None] * cells + o_p[None, :]
                    d, q = tl.load(pooled.first + at, mask=m_x, other=0), tl.load(pooled.second + at, mask=m_x, other=0)
                second = added(second, sum_by_label(q, hot, PRECISION))
                if STANDARDIZE:
                    first = added(first, sum_by_label(d, hot, PRECISION))
                    if LABELLED:  # else o_k are all clusters, and every position has one
                        all_first += tl.sum(d, 1)
                        all_second += tl.sum(q, 1)
                summed += ((shift, first, second, all_first, all_second),)
            found = summed
        for i in tl.static_range(BLOCKS):
            _, first, second, all_first, all_second = found[i]
            if STANDARDIZE:
                if not LABELLED:
                    all_first, all_second = tl.sum(first, 1), tl.sum(second, 1)
                offset = all_first / positions
                variance = all_second / positions - offset * offset
                scale = 1 / (tl.where(variance < 0, 0.0, variance) + 1e-5)  # NaN stays
                energy = second - 2 * offset[:, None] * first + (offset * offset)[:, None] * area[None, :]
                second = tl.where(energy < 0, 0.0, energy) * scale[:, None]
            at = m + (n if PER_IMAGE else group.to(tl.int64)) * clusters * a.channels
            at += o_k.to(tl.int64)[None, :] * a.channels + (o_c + i * SC)[:, None]
            m_m = (o_k < clusters)[None, :] & (o_c + i * SC < a.channels)[:, None]
            if PER_IMAGE:
                tl.store(at, second / positions, mask=m_m)
            else:
                tl.debug_barrier()  # the last image's sum is read by other threads than wrote it
                tl.store(at, tl.load(at, mask=m_m) + second, mask=m_m)


def moments(
    x: Tensor, labels: Tensor, clusters: int, standardize: bool, per_image: bool, *,
    centroids: Tensor | None = None, features: str = "raw", pooled: Pooled | None = None,
) -> Tensor:  # fmt: skip
    """M; labels [N, cells] are given, or written if centroids are given."""
    (n, c, h, w), t, wide = x.shape, tiles_for(x, clusters, 4 if centroids is None else 2), accumulator(x.dtype)
    slices = t.slices(c, clusters)
    groups = n if per_image else min(n, triton.cdiv(2 * device_of(x).processors, slices))
    m = (x.new_empty if per_image else x.new_zeros)((groups, clusters, c), dtype=wide)
    if groups > 0:
        points, options = None, {"FEATURES": features, "PIECES": 1, "PRECISION": precision(x)}
        if centroids is not None:
            points, options = prepare(x, centroids, features)
        if pooled is not None:  # two tiles are read
            t = t._replace(positions=max(16, t.positions // 2))
        moments_kernel[(groups * slices,)](
            view(x), points, pooled, labels, m, labels[0].numel(), clusters,
            LABELLED=centroids is None, STANDARDIZE=standardize, PER_IMAGE=per_image, **options, **t.of_sums,
            num_stages=2 if centroids is not None else 1,
        )  # fmt: skip
    return m if per_image else (m.sum(0, dtype=torch.float64) / max(1, n * h * w)).to(wide)


def launch(
    activations: Tensor, centroids: Tensor, features: str, standardize: bool, per_image: bool
) -> tuple[Tensor, Tensor]:
    (n, c, h, w), clusters = activations.shape, len(centroids)
    t = tiles_for(activations, clusters, 2)
    if clusters > t.sum_clusters or t.slices(c, clusters) > SPLITS:
        labels = label_all(activations, centroids[None], features, weigh=False)[0][0]
        return labels, moments(activations, labels, clusters, standardize, per_image)
    labels = activations.new_empty((n, h, w), dtype=torch.int32)
    chosen = {"centroids": centroids, "features": features}
    return labels, moments(activations, labels, clusters, standardize, per_image, **chosen)
