# SPDX-License-Identifier: Apache-2.0
"""Op `assign_contribution`, and the computation of M from the moments of every channel over every cluster.

Moments are taken about a shift near the mean of the channel. With d = mean - shift::

    sum (a - mean)^2 = squares - 2 d sums + d^2 counts

This loses no digits while `|d|` is at most about the standard deviation. A program owns whole images. Therefore it
knows the mean of each channel at the end of an image, and can add the M of all its images.

Activations are read from memory once, as in `lloyd_step`, if SPLITS programs can hold two sums per channel and cluster
in registers. Otherwise all positions are labelled first, and the activations are read a second time for the sums.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.dtypes import accumulator
from .assign import label_all, nearest, prepare
from .moments import moments as labelled_moments
from .tiles import SPLITS, added, device_of, load_tile, precision, sampled_mean, sum_by_label, tiles_for, view


class Pooled(NamedTuple):
    """A layer pooled onto the label grid of h x w cells."""

    sums: Any  # [N, C, h, w]: weighted sums of a - shift
    squares: Any  # [N, C, h, w]: weighted sums of (a - shift)^2
    area: Any  # [h, w]: sum of a cell's weights over all positions


@triton.jit
def load_moments(a, pooled, shift, n, c, start, o_c, o_p, cells):
    """Return a - shift and its square, [channels, positions], or their sums in a pooled layer, [channels, cells].

    The channels o_c begin at c. The positions or cells o_p begin at `start`.
    """
    mask = (o_c < a.channels)[:, None] & (o_p < cells)[None, :]
    if pooled is None:
        x = load_tile(a, n, c, start, o_c.shape[0], o_p.shape[0])
        d = tl.where(mask, x.to(shift.dtype) - shift[:, None], 0.0)
        d_square = d * d
    else:
        offsets = (n * a.channels + o_c)[:, None] * cells + o_p[None, :]
        d = tl.load(pooled.sums + offsets, mask=mask, other=0)
        d_square = tl.load(pooled.squares + offsets, mask=mask, other=0)
    return d, d_square


@triton.jit
def standardized_energy(sums, squares, plane_sum, plane_square, area, positions):
    """Return `sum U (a - mean)^2 / (var + 1e-5)`, [channels, clusters], from moments per cluster and of the plane.

    U is the weight of a cluster at a position.
    """
    offset = plane_sum / positions
    variance = plane_square / positions - offset * offset
    scale = 1 / (tl.where(variance < 0, 0.0, variance) + 1e-5)  # NaN stays NaN
    energy = squares - 2 * offset[:, None] * sums + (offset * offset)[:, None] * area[None, :]
    return tl.where(energy < 0, 0.0, energy) * scale[:, None]


@triton.jit
def store_contribution(pointers, energy, positions, mask, PER_IMAGE: tl.constexpr):
    """Write M of an image if PER_IMAGE, else add the energy of the image to the sum of its group."""
    if PER_IMAGE:
        tl.store(pointers, energy / positions, mask=mask)
    else:
        tl.debug_barrier()  # a thread reads sums that other threads wrote for the previous image
        tl.store(pointers, tl.load(pointers, mask=mask) + energy, mask=mask)


@triton.jit
def moments_kernel(
    a, points, pooled, labels, m, cells, clusters,
    LABELLED: tl.constexpr, STANDARDIZE: tl.constexpr, PER_IMAGE: tl.constexpr,
    FEATURES: tl.constexpr, PIECES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
    SUM_C: tl.constexpr, SUM_K: tl.constexpr, SUM_BLOCKS: tl.constexpr,
):  # fmt: skip
    """Compute M of SUM_BLOCKS x SUM_C channels x SUM_K clusters over every `groups`-th image.

    The programs of a group process the same images for different channels and clusters. They run at the same time, so
    that they find each tile in the cache. Per tile, a program reads the labels or computes them with `nearest`, and
    adds the moments of its channels and clusters in registers, as products with the one-hot labels. At the end of an
    image, it computes M from the moments.
    """
    slices_c, slices_k = tl.cdiv(a.channels, SUM_BLOCKS * SUM_C), tl.cdiv(clusters, SUM_K)
    members = slices_c * slices_k
    groups, group, member = tl.num_programs(0) // members, tl.program_id(0) // members, tl.program_id(0) % members
    c = member % slices_c * (SUM_BLOCKS * SUM_C)
    o_c, o_k = c + tl.arange(0, SUM_C), member // slices_c * SUM_K + tl.arange(0, SUM_K)
    acc_dtype: tl.constexpr = m.dtype.element_ty
    positions = tl.full([1], 1.0, acc_dtype) * a.plane
    for n in tl.range(group.to(tl.int64), a.images, groups, disable_licm=True):
        moments, area = (), tl.zeros([SUM_K], acc_dtype)  # per block: shift, 2 sums by label, 2 over the plane
        for i in tl.static_range(SUM_BLOCKS):
            shift = tl.zeros([SUM_C], acc_dtype)
            if STANDARDIZE and pooled is None:
                shift = sampled_mean(a, n, o_c + i * SUM_C)
            sums, plane_sum = tl.zeros([SUM_C, SUM_K], acc_dtype), tl.zeros([SUM_C], acc_dtype)
            moments += ((shift, sums, sums, plane_sum, plane_sum),)
        for start in tl.range(0, cells, BLOCK_P, disable_licm=True):
            o_p = start + tl.arange(0, BLOCK_P).to(tl.int64)
            m_p = o_p < cells
            if LABELLED:
                label = tl.load(labels + n * cells + o_p, mask=m_p, other=-1)
            else:
                label, _, _ = nearest(a, points, 0, n, start, FEATURES, PIECES, PRECISION, BLOCK_P, BLOCK_C, BLOCK_K)
                if member == 0:
                    tl.store(labels + n * cells + o_p, label, mask=m_p)
            one_hot = (label[:, None] == o_k[None, :]) & m_p[:, None]
            if STANDARDIZE:
                cell_area = m_p.to(acc_dtype) if pooled is None else tl.load(pooled.area + o_p, mask=m_p, other=0)
                area += tl.sum(tl.where(one_hot, cell_area[:, None], 0.0), 0)
            new_moments = ()
            for i in tl.static_range(SUM_BLOCKS):
                shift, sums, squares, plane_sum, plane_square = moments[i]
                d, d_square = load_moments(a, pooled, shift, n, c + i * SUM_C, start, o_c + i * SUM_C, o_p, cells)
                squares = added(squares, sum_by_label(d_square, one_hot, PRECISION))
                if STANDARDIZE:
                    sums = added(sums, sum_by_label(d, one_hot, PRECISION))
                    if LABELLED:  # otherwise the sums over all clusters are the same
                        plane_sum += tl.sum(d, 1)
                        plane_square += tl.sum(d_square, 1)
                new_moments += ((shift, sums, squares, plane_sum, plane_square),)
            moments = new_moments
        for i in tl.static_range(SUM_BLOCKS):
            _, sums, squares, plane_sum, plane_square = moments[i]
            if STANDARDIZE:
                if not LABELLED:
                    plane_sum, plane_square = tl.sum(sums, 1), tl.sum(squares, 1)
                squares = standardized_energy(sums, squares, plane_sum, plane_square, area, positions)
            pointers = m + (n if PER_IMAGE else group.to(tl.int64)) * clusters * a.channels
            pointers += o_k.to(tl.int64)[None, :] * a.channels + (o_c + i * SUM_C)[:, None]
            mask = (o_k < clusters)[None, :] & (o_c + i * SUM_C < a.channels)[:, None]
            store_contribution(pointers, squares, positions, mask, PER_IMAGE)


def moments(
    x: Tensor, labels: Tensor, clusters: int, standardize: bool, per_image: bool, *,
    centroids: Tensor | None = None, features: str = "raw", pooled: Pooled | None = None,
) -> Tensor:  # fmt: skip
    """Return M, [N, K, C] if `per_image`, else [K, C].

    The labels, of N x cells elements, are read. If centroids are given, they are computed and written instead.
    """
    (n, c, h, w), dtype = x.shape, accumulator(x.dtype)
    sizes = tiles_for(x, clusters, 4 if centroids is None else 2)
    slices = sizes.slices(c, clusters)
    groups = n if per_image else min(n, triton.cdiv(2 * device_of(x).processors, slices))
    m = (x.new_empty if per_image else x.new_zeros)((groups, clusters, c), dtype=dtype)
    if groups > 0:
        points, constants = None, {"FEATURES": features, "PIECES": 1, "PRECISION": precision(x)}
        if centroids is not None:
            points, constants = prepare(x, centroids, features)
        if pooled is not None:  # the kernel reads two tiles then: sums and squares
            sizes = sizes._replace(positions=max(16, sizes.positions // 2))
        moments_kernel[(groups * slices,)](
            view(x), points, pooled, labels, m, labels[0].numel(), clusters,
            LABELLED=centroids is None, STANDARDIZE=standardize, PER_IMAGE=per_image, **constants, **sizes.constants(),
            num_stages=2 if centroids is not None else 1,
        )  # fmt: skip
    return m if per_image else (m.sum(0, dtype=torch.float64) / max(1, n * h * w)).to(dtype)


def launch(
    activations: Tensor, centroids: Tensor, features: str, standardize: bool, per_image: bool
) -> tuple[Tensor, Tensor]:
    (n, c, h, w), clusters = activations.shape, len(centroids)
    sizes = tiles_for(activations, clusters, 2)
    if clusters > sizes.sum_clusters or sizes.slices(c, clusters) > SPLITS:
        labels = label_all(activations, centroids[None], features, with_weights=False)[0][0]
        return labels, labelled_moments(activations, labels, clusters, standardize, per_image)
    labels = activations.new_empty((n, h, w), dtype=torch.int32)
    m = moments(activations, labels, clusters, standardize, per_image, centroids=centroids, features=features)
    return labels, m
