# SPDX-License-Identifier: Apache-2.0
"""Op `assign`: labels and cosines, without an array of scores in memory.

With up to 512 channels and 64 clusters (32 before Hopper), centroids stay on the chip, and a program loads a tile
while it labels the tile before (see `resident`). Otherwise centroids are read block by block (see `streamed`).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import streamed
from .resident import load_blocks, load_centroids, nearest, prepare, scores, sizes_for, split_tile, zero_tile
from .tiles import device_of, view


@triton.jit
def assign_kernel(
    a, points, labels, cosines,
    FEATURES: tl.constexpr, PIECES: tl.constexpr, PRECISION: tl.constexpr, RESTARTS: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCKS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Label every num_programs-th tile."""
    programs = tl.num_programs(0)
    part = tl.program_id(0) * 0
    centroids = load_centroids(points, part, a.channels, BLOCK_K, BLOCKS, BLOCK_C)
    blocks = tl.cdiv(a.plane, BLOCK_P)
    tiles = a.images * blocks
    tile, weight = zero_tile(PIECES, BLOCKS, BLOCK_C, BLOCK_P)
    for i in tl.range(tl.program_id(0) - programs, tiles, programs, disable_licm=True):
        score = scores(centroids, tile, BLOCK_K, PRECISION)
        following = tl.minimum(i + programs, tiles - 1)
        n, p = (following // blocks).to(tl.int64), following % blocks * BLOCK_P
        loaded = load_blocks(a, n, p, BLOCKS, BLOCK_C, BLOCK_P, WHOLE)
        if i >= 0:
            label, best, _ = nearest(score, points, part, weight, RESTARTS)
            o_p = i % blocks * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
            position = tl.cast(i // blocks, tl.int64) * a.plane + o_p
            tl.store(labels + position, label, mask=o_p < a.plane)
            tl.store(cosines + position, best, mask=o_p < a.plane)
        tile, weight = split_tile(a, points, loaded, n, p, FEATURES, PIECES)


def launch(activations: Tensor, centroids: Tensor, features: str) -> tuple[Tensor, Tensor]:
    (n, _, h, w), k = activations.shape, len(centroids)
    sizes = sizes_for(activations, k, 1, features, sums=False)
    if sizes is None:
        labels, cosines, _ = streamed.label_all(activations, centroids[None], features, with_weights=False)
        return labels[0], cosines[0]
    labels = activations.new_empty((n, h, w), dtype=torch.int32)
    cosines = activations.new_empty((n, h, w), dtype=torch.float32)
    programs = min(n * triton.cdiv(h * w, sizes.positions), device_of(activations).processors)
    if programs > 0:
        points, constants = prepare(activations, centroids[None], features, sizes)
        assign_kernel[(programs,)](view(activations), points, labels, cosines, **constants)
    return labels, cosines
