# SPDX-License-Identifier: Apache-2.0
"""Op `separable_conv`: a program computes a block of output channels at some positions.

It computes the depthwise result of a block of input channels in registers, from nine loads that mostly hit the cache,
and multiplies it by the weights. Programs for other output channels compute the depthwise result again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import INTERPRETED
from .tiles import added, power_of_two, precision, product


class Layer(NamedTuple):
    """Contiguous input tensors of a layer, in the order of the op's arguments."""

    x: Any  # [N, H, W, C]
    style: Any  # [N, C]
    depthwise: Any  # [C, 3, 3]
    pointwise: Any  # [C, D]
    bias: Any  # [D]
    noise: Any  # [H', W]


class Sizes(NamedTuple):
    positions: Any  # N H' W
    rows: Any  # H'
    height: Any  # H
    width: Any  # W
    inputs: Any  # C
    outputs: Any  # D
    above: Any  # rows of zeros above x


@triton.jit
def filtered(layer, sizes, image, row, column, valid, o_c):
    """Return the depthwise convolution of the modulated input, [positions, channels]."""
    channels = o_c < sizes.inputs
    total = tl.zeros([row.shape[0], o_c.shape[0]], layer.x.dtype.element_ty)
    for i in tl.static_range(9):
        y, x = row + i // 3 - sizes.above, column + (i % 3 - 1)
        inside = valid & (y >= 0) & (y < sizes.height) & (x >= 0) & (x < sizes.width)
        position = (image * sizes.height + y) * sizes.width + x
        offsets = position[:, None] * sizes.inputs + o_c[None, :]
        value = tl.load(layer.x + offsets, mask=inside[:, None] & channels[None, :], other=0)
        weight = tl.load(layer.depthwise + o_c * 9 + i, mask=channels, other=0)
        total += value * weight[None, :]
    style = layer.style + image[:, None] * sizes.inputs + o_c[None, :]
    return total * tl.load(style, mask=valid[:, None] & channels[None, :], other=0)


@triton.jit
def separable_conv_kernel(
    layer,
    out,  # [N, H', W, D]
    sizes,
    SLOPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    position = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)  # counted over all images
    o_d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    valid = position < sizes.positions
    plane = sizes.rows * sizes.width
    image, row, column = position // plane, position % plane // sizes.width, position % sizes.width
    total = tl.zeros([BLOCK_P, BLOCK_D], layer.x.dtype.element_ty)
    for start in range(0, sizes.inputs, BLOCK_C):
        o_c = start + tl.arange(0, BLOCK_C)
        weights = layer.pointwise + o_c[:, None] * sizes.outputs + o_d[None, :]
        y = tl.load(weights, mask=(o_c < sizes.inputs)[:, None] & (o_d < sizes.outputs)[None, :], other=0)
        x = filtered(layer, sizes, image, row, column, valid, o_c)
        total = added(total, product(x, y, tl.zeros_like(total), PRECISION))
    noise = tl.load(layer.noise + position % plane, mask=valid, other=0)
    bias = tl.load(layer.bias + o_d, mask=o_d < sizes.outputs, other=0)
    total += bias[None, :] + noise[:, None]
    total = tl.where(total > 0, total, total * SLOPE)
    offsets = position[:, None] * sizes.outputs + o_d[None, :]
    tl.store(out + offsets, total, mask=valid[:, None] & (o_d < sizes.outputs)[None, :])


def launch(*arguments: Any) -> Tensor:
    *tensors, above, _, slope = arguments  # in the order of the schema of the op
    layer = Layer(*(tensor.contiguous() for tensor in tensors))
    (n, height, width, inputs), (rows, _), outputs = layer.x.shape, layer.noise.shape, layer.pointwise.shape[1]
    out = layer.x.new_empty((n, rows, width, outputs))
    if out.numel() == 0:
        return out
    sizes = Sizes(n * rows * width, rows, height, width, inputs, outputs, above)
    # Larger blocks would spill registers. The interpreter takes as long for a large block as for a small one.
    largest_p, largest_c, largest_d = (64, 16, 64) if layer.x.dtype == torch.float32 else (16, 16, 32)
    if INTERPRETED:
        largest_p, largest_c, largest_d = 256, 32, 128
    block_c, block_d = power_of_two(inputs, 16, largest_c), power_of_two(outputs, 16, largest_d)
    grid = (triton.cdiv(sizes.positions, largest_p), triton.cdiv(outputs, block_d))
    separable_conv_kernel[grid](
        layer,
        out,
        sizes,
        SLOPE=slope,
        PRECISION=precision(layer.x),
        BLOCK_P=largest_p,
        BLOCK_C=block_c,
        BLOCK_D=block_d,
        num_warps=4,
        num_stages=1,  # copies of the nine loads of later blocks would not fit into shared memory
    )
    return out
