# SPDX-License-Identifier: Apache-2.0
"""Tiles that stay on the chip: a program labels a tile, and then adds its vectors by label, without a second read.

The vectors x of a tile become 16-bit operands of matrix instructions. Each x is multiplied by a power of two, which
brings its norm to [2^13, 2^14), and split into float16 pieces: one exact piece for raw 16-bit activations, and two
pieces, which hold 22 bits, for other features. Each centroid has two pieces, and so has each weight `1 / |x|` in the
one-hot rows of the labels. Matrix units read all pieces from shared memory, or from registers if they cannot.

A kernel scores a tile, begins to load the next tile, labels the first tile, adds it, and splits the next tile. The loop
begins with a tile of zeros, so that its code exists once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import INTERPRETED
from .tiles import added, device_of, load_tile, power_of_two, precision, product, statistics, transform

NORM = tl.constexpr(2.0**13)  # least norm of the scaled vectors: their products neither overflow nor underflow
ONE_OVER_NORM = tl.constexpr(2.0**-13)
SMALLEST_NORMAL = tl.constexpr(2.0**-126)  # a smaller squared norm has few bits, and its vector counts as zero
IN_INTERPRETER = tl.constexpr(INTERPRETED)
RUN = tl.constexpr(8)  # rows of first pieces that alternate with rows of second pieces, so that a thread holds both


class Points(NamedTuple):
    """The points to label and the centroids to choose from, as an argument of kernels."""

    mean: Any  # [N, C] for standardised features, else None
    rstd: Any  # [N, C] for standardised features, else None
    pieces: Any  # [parts, 2 BLOCK_K, C]: RUN first pieces, RUN second pieces, and so on
    scale: Any  # [parts, BLOCK_K]: factor of the scores
    clusters: Any  # K of a restart
    restarts: Any  # B


class Sizes(NamedTuple):
    """Sizes of the blocks of a program, named in kernels as in `constants`."""

    restarts: int  # restarts that a program computes
    clusters: int  # clusters of all these restarts, each padded to the same power of two
    channel_blocks: int
    channels: int  # of a block
    positions: int
    warps: int

    def constants(self) -> dict[str, int]:
        names = ("RESTARTS", "BLOCK_K", "BLOCKS", "BLOCK_C", "BLOCK_P", "num_warps")
        return dict(zip(names, self, strict=True))


def sizes_for(x: Tensor, clusters: int, restarts: int, features: str, *, sums: bool = True) -> Sizes | None:
    """Return the sizes of blocks, or None if a program cannot hold all channels of a tile and, with `sums`, their sums.

    A tile of 64 positions leaves no registers for the sums of more than 32 clusters or for a second piece, and GPUs
    before Hopper hold operands of matrix instructions in registers, too.
    """
    device = device_of(x)
    roomy = device.shared >= 200_000 or device.lanes == 64  # Hopper and later; AMD
    largest = 64 if roomy else 32
    if x.dtype == torch.float64 or x.shape[1] > 512 or clusters > largest:
        return None
    padded = power_of_two(clusters, 8, largest)
    joined = min(largest // padded, power_of_two(restarts, 1, largest))
    clusters = max(8 if INTERPRETED else 32, joined * padded)
    pieces = pieces_of(x, features)
    positions = (64 if roomy and (clusters <= 32 or not sums) else 32) // pieces
    channels = power_of_two(x.shape[1], 16, 128)
    return Sizes(
        restarts=joined,
        clusters=clusters,
        channel_blocks=triton.cdiv(x.shape[1], channels),
        channels=channels,
        positions=256 if INTERPRETED else positions,
        warps=256 // device.lanes,
    )


def pieces_of(x: Tensor, features: str) -> int:
    """Return the number of float16 pieces of a feature."""
    return 1 if x.element_size() == 2 and features == "raw" else 2


@triton.jit
def split_rows_kernel(
    centroids, points, channels, RESTARTS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """Multiply a centroid by a power of two, and split it into two float16 pieces. Padding becomes zero.

    The power of two brings the largest finite number to [2^14, 2^15), and its exponent is clamped so that it and its
    inverse are normal numbers. `scale` receives the factor from products with scaled vectors to products with vectors
    of norm 1 to 2. A centroid with infinite elements becomes their signs, and its factor is Inf.
    """
    part, row = tl.program_id(0) // BLOCK_K, tl.program_id(0) % BLOCK_K
    b, k = part * RESTARTS + row // (BLOCK_K // RESTARTS), row % (BLOCK_K // RESTARTS)
    o_c = tl.arange(0, BLOCK_C)
    present = tl.where((k < points.clusters) & (b < points.restarts), channels, 0)
    c = tl.load(centroids + (b.to(tl.int64) * points.clusters + k) * channels + o_c, mask=o_c < present, other=0)
    largest = tl.max(tl.where(tl.abs(c) < float("inf"), tl.abs(c), 0.0), 0)
    exponent = tl.minimum(tl.maximum(largest.to(tl.int32, bitcast=True) >> 23, 15), 253)
    scale = ((exponent - 14) << 23).to(tl.float32, bitcast=True) * ONE_OVER_NORM
    c *= ((254 + 14 - exponent) << 23).to(tl.float32, bitcast=True)
    is_infinite = tl.abs(c) == float("inf")
    any_infinite = tl.max(is_infinite.to(tl.int32), 0) > 0
    signs = tl.where(is_infinite, tl.where(c > 0, 1.0, -1.0), tl.where(c == c, 0.0, c))  # Inf has no pieces
    c = tl.where(any_infinite, signs, c)
    tl.store(points.scale + tl.program_id(0), tl.where(any_infinite, float("inf"), scale))
    first = c.to(tl.float16)
    rest = c - first.to(tl.float32)
    second = tl.where(tl.abs(rest) < float("inf"), rest, 0.0).to(tl.float16)
    pointers = points.pieces + (2 * (tl.program_id(0) - row % RUN) + row % RUN).to(tl.int64) * channels + o_c
    tl.store(pointers, first, mask=o_c < channels)
    tl.store(pointers + RUN * channels, second, mask=o_c < channels)


def prepare(x: Tensor, centroids: Tensor, features: str, sizes: Sizes) -> tuple[Points, dict[str, Any]]:
    """Return the points and the compile-time constants of a kernel, for centroids [B, K, C]."""
    restarts, clusters, channels = centroids.shape
    parts = triton.cdiv(restarts, sizes.restarts)
    pieces = x.new_empty((parts, 2 * sizes.clusters, channels), dtype=torch.float16)
    scale = x.new_empty((parts, sizes.clusters), dtype=torch.float32)
    points = Points(*statistics(x, features), pieces, scale, clusters, restarts)
    split_rows_kernel[(scale.numel(),)](
        centroids.contiguous(), points, channels,
        RESTARTS=sizes.restarts, BLOCK_K=sizes.clusters, BLOCK_C=triton.next_power_of_2(channels),
    )  # fmt: skip
    whole = (x.shape[2] * x.shape[3]) % sizes.positions == 0 and channels % sizes.channels == 0
    constants = {
        "FEATURES": features,
        "PIECES": pieces_of(x, features),
        "PRECISION": precision(x),
        "WHOLE": whole,
    }
    return points, constants | sizes.constants()


@triton.jit
def load_centroids(points, part, channels, BLOCK_K: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return the pieces of the centroids per block of channels, [2 BLOCK_K, BLOCK_C] each."""
    row = part.to(tl.int64) * (2 * BLOCK_K) + tl.arange(0, 2 * BLOCK_K)
    blocks = ()
    for i in tl.static_range(BLOCKS):
        o_c = i * BLOCK_C + tl.arange(0, BLOCK_C)
        pointers = points.pieces + row[:, None] * channels + o_c[None, :]
        blocks += (tl.load(pointers, mask=(o_c < channels)[None, :], other=0),)
    return blocks


@triton.jit
def load_blocks(
    a, n, p, BLOCKS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, WHOLE: tl.constexpr
):  # fmt: skip
    """Return the tile of image n at position p per block of channels, [BLOCK_C, BLOCK_P] each."""
    blocks = ()
    for i in tl.static_range(BLOCKS):
        blocks += (load_tile(a, n, i * BLOCK_C, p, BLOCK_C, BLOCK_P, WHOLE),)
    return blocks


@triton.jit
def zero_tile(PIECES: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr):
    """Return what `split_tile` returns for a tile of zeros."""
    zeros = tl.zeros([BLOCK_C, BLOCK_P], tl.float16)
    tile = ()
    for _ in tl.static_range(BLOCKS):
        if PIECES == 2:
            tile += ((zeros, zeros),)
        else:
            tile += ((zeros,),)
    return tile, tl.zeros([BLOCK_P], tl.float32)


@triton.jit
def without_nan(x):
    """Return float16 x with the largest finite number instead of NaN. One instruction does this for two elements."""
    largest = tl.full([1, 1], 65504.0, tl.float16)
    if IN_INTERPRETER:  # tl.minimum returns NaN in the interpreter of Triton 3.6
        return tl.where(x == x, x, largest)
    return tl.minimum(x, largest)


@triton.jit
def split_tile(a, points, blocks, n, p, FEATURES: tl.constexpr, PIECES: tl.constexpr):
    """Return the pieces of a tile per block of channels, and the weight of every vector.

    The weight is NORM divided by the norm of the scaled vector. A vector that is zero or not finite has the weight 0 or
    NaN, which is its cosine, too. Its pieces are finite, and do not count.
    """
    block_c: tl.constexpr = blocks[0].shape[0]
    squares = tl.zeros(blocks[0].shape, tl.float32)
    features = ()
    for i in tl.static_range(len(blocks)):
        x = transform(blocks[i], points, n, i * block_c + tl.arange(0, block_c), a.channels, FEATURES).to(tl.float32)
        squares = tl.fma(x, x, squares)
        features += (x,)
    square = tl.sum(squares, 0)
    finite = square < float("inf")
    counted = finite & (square >= SMALLEST_NORMAL) & (p + tl.arange(0, blocks[0].shape[1]) < a.plane)
    square = tl.where(counted, square, 1.0)
    half_exponent = ((square.to(tl.int32, bitcast=True) >> 23) + 1) >> 1
    factor = ((191 + 13 - half_exponent) << 23).to(tl.float32, bitcast=True)  # brings the norm to [NORM, 2 NORM)
    square = square * factor * factor
    weight = tl.rsqrt(square)
    # NORM / sqrt(square). The instruction alone is wrong by up to two ulps.
    weight *= 1.5 * NORM - 0.5 * NORM * square * weight * weight
    factor = tl.where(counted, factor, float("nan"))  # becomes a finite number below
    tile = ()
    for i in tl.static_range(len(blocks)):
        x = features[i] * factor[None, :]
        first = without_nan(x.to(tl.float16))
        if PIECES == 2:
            tile += ((first, without_nan((x - first.to(tl.float32)).to(tl.float16))),)
        else:
            tile += ((first,),)
    return tile, tl.where(counted, weight, tl.where(finite, 0.0, float("nan")))


@triton.jit
def scores(centroids, tile, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr):
    """Return the products of the centroids and the vectors of a tile, [BLOCK_K, positions]."""
    positions: tl.constexpr = tile[0][0].shape[1]
    total = tl.zeros([2 * BLOCK_K, positions], tl.float32)
    for i in tl.static_range(len(tile)):
        part = tl.zeros([2 * BLOCK_K, positions], tl.float32)
        for j in tl.static_range(len(tile[i])):  # the last piece first, because it is the smallest
            part = product(centroids[i], tile[i][len(tile[i]) - 1 - j], part, PRECISION)
        total = part if i == 0 else added(total, part)
    total = tl.sum(tl.reshape(total, [BLOCK_K // RUN, 2, RUN, positions]), 1)
    return tl.reshape(total, [BLOCK_K, positions])


@triton.jit
def nearest(score, points, part, weight, RESTARTS: tl.constexpr):
    """Return labels and cosines, [RESTARTS, positions], and whether a vector counts for a cluster, of score's shape.

    The lowest label wins ties, and NaN never wins. If no score is above -Inf, the cosine is NaN.
    """
    block_k: tl.constexpr = score.shape[0]
    positions: tl.constexpr = score.shape[1]
    o_k = tl.arange(0, block_k)
    score *= tl.load(points.scale + part * block_k + o_k)[:, None]
    score = tl.where((o_k % (block_k // RESTARTS) < points.clusters)[:, None] & (score == score), score, float("-inf"))
    score = tl.reshape(score, [RESTARTS, block_k // RESTARTS, positions])
    best = tl.max(score, 1)
    cluster = tl.arange(0, block_k // RESTARTS)[None, :, None]
    label = tl.min(tl.where(score == best[:, None, :], cluster, block_k), 1)
    label = tl.where(weight[None, :] > 0, label, 0)
    one_hot = tl.reshape((label[:, None, :] == cluster) & (weight > 0)[None, None, :], [block_k, positions])
    best = tl.where(best > float("-inf"), best * weight[None, :], float("nan"))
    return label, tl.where(weight[None, :] > 0, best, weight[None, :]), one_hot


@triton.jit
def add_tile(totals, tile, weight, one_hot, PRECISION: tl.constexpr):
    """Return totals, [BLOCK_C, BLOCK_K] per block, plus NORM times the unit vectors of each cluster."""
    first = weight.to(tl.float16)
    second = (weight - first.to(tl.float32)).to(tl.float16)
    zero = tl.zeros(one_hot.shape, tl.float16)
    first_rows = tl.trans(tl.where(one_hot, first[None, :], zero))  # [positions, BLOCK_K]
    second_rows = tl.trans(tl.where(one_hot, second[None, :], zero))
    sums = ()
    for i in tl.static_range(len(tile)):
        part = product(tile[i][0], second_rows, tl.zeros(totals[i].shape, tl.float32), PRECISION)
        for j in tl.static_range(len(tile[i])):
            part = product(tile[i][len(tile[i]) - 1 - j], first_rows, part, PRECISION)
        sums += (added(totals[i], part),)
    return sums
