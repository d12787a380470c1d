# SPDX-License-Identifier: Apache-2.0
"""Op `inverse_haar`: a program computes the squares of some input positions for a block of channels."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .tiles import power_of_two

ELEMENTS = 1024  # of one part of the input per program


@triton.jit
def load_part(x, style, position, image, o_c, channels, mask, PART: tl.constexpr):
    """Return one of the four parts of the channels, modulated and halved, [positions, channels]."""
    part = PART * channels + o_c
    scale = tl.load(style + image[:, None] * 4 * channels + part[None, :], mask=mask, other=0)
    return tl.load(x + position[:, None] * 4 * channels + part[None, :], mask=mask, other=0) * scale * 0.5


@triton.jit
def inverse_haar_kernel(x, style, out, positions, plane, width, channels, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    position = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)  # counted over all images
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (position < positions)[:, None] & (o_c < channels)[None, :]
    image, row, column = position // plane, position // width, position % width
    average = load_part(x, style, position, image, o_c, channels, mask, 0)
    vertical = load_part(x, style, position, image, o_c, channels, mask, 1)
    horizontal = load_part(x, style, position, image, o_c, channels, mask, 2)
    diagonal = load_part(x, style, position, image, o_c, channels, mask, 3)
    top = (2 * row * 2 * width + 2 * column)[:, None] * channels + o_c[None, :]
    bottom = top + 2 * width * channels
    tl.store(out + top, average + vertical + (horizontal + diagonal), mask=mask)
    tl.store(out + top + channels, average + vertical - (horizontal + diagonal), mask=mask)
    tl.store(out + bottom, average - vertical + (horizontal - diagonal), mask=mask)
    tl.store(out + bottom + channels, average - vertical - (horizontal - diagonal), mask=mask)


def launch(x: Tensor, style: Tensor) -> Tensor:
    n, height, width, channels = x.shape
    channels //= 4
    out = x.new_empty((n, 2 * height, 2 * width, channels))
    if out.numel() == 0:
        return out
    positions = n * height * width
    block_c = power_of_two(channels, 1, 128)
    block_p = ELEMENTS // block_c
    grid = (triton.cdiv(positions, block_p), triton.cdiv(channels, block_c))
    inverse_haar_kernel[grid](
        x.contiguous(),
        style.contiguous(),
        out,
        positions,
        height * width,
        width,
        channels,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
    )
    return out
