# SPDX-License-Identifier: Apache-2.0
"""Op `blend`: the styles of all edits and all sites in one launch. Operands are gathered by index."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import INTERPRETED

MAX_BLOCK_S = 1024


class Rows(NamedTuple):
    """Rows of styles or queries, [count, S], with contiguous channels. `stride` is the distance of rows in elements."""

    data: Any
    count: Any
    stride: Any


@triton.jit
def blend_kernel(target, reference, query, edits, strength, out, width, BLOCK_S: tl.constexpr):
    """Blend BLOCK_S channels of one edit."""
    blocks = tl.cdiv(width, BLOCK_S)
    e = (tl.program_id(0) // blocks).to(tl.int64)
    o_s = tl.program_id(0) % blocks * BLOCK_S + tl.arange(0, BLOCK_S)
    m_s = o_s < width
    if edits is None:
        i_t, i_r = tl.where(target.count == 1, 0, e), tl.where(reference.count == 1, 0, e)
        i_q = tl.where(query.count == 1, 0, e)
    else:
        i_t, i_r, i_q = tl.load(edits + 3 * e), tl.load(edits + 3 * e + 1), tl.load(edits + 3 * e + 2)
    q = tl.load(query.data + i_q * query.stride + o_s, mask=m_s)  # float32, or float64 for float64 styles
    if strength is not None:
        q *= tl.load(strength + e)
    t = tl.load(target.data + i_t * target.stride + o_s, mask=m_s).to(q.dtype)
    r = tl.load(reference.data + i_r * reference.stride + o_s, mask=m_s).to(q.dtype)
    mixed = tl.where(q == 0, t, tl.where(q == 1, r, t + q * (r - t)))
    tl.store(out + e * width + o_s, mixed.to(out.dtype.element_ty), mask=m_s)


def launch(target: Tensor, reference: Tensor, query: Tensor, edits: Tensor | None, strength: Tensor | None) -> Tensor:
    operands = (target, reference, query)
    count = torch.broadcast_shapes(*(x.shape[:1] for x in operands)) if edits is None else (len(edits),)
    out = target.new_empty((*count, target.shape[1]))
    launch_out(target, reference, query, edits, strength, out=out)
    return out


def launch_out(
    target: Tensor, reference: Tensor, query: Tensor, edits: Tensor | None, strength: Tensor | None, *, out: Tensor
) -> None:
    if out.numel() == 0:
        return
    if INTERPRETED and out.dtype == torch.bfloat16:  # the interpreter truncates instead of rounding
        unrounded = torch.empty_like(out, dtype=torch.float32)
        launch_out(target, reference, query, edits, strength, out=unrounded)
        out.copy_(unrounded)
        return
    operands = (_rows(x if x.stride(1) == 1 else x.contiguous()) for x in (target, reference, query))
    edits = None if edits is None else edits.contiguous()
    strength = None if strength is None else strength.contiguous()
    block = min(MAX_BLOCK_S, triton.next_power_of_2(out.shape[1]))
    grid = (out.shape[0] * triton.cdiv(out.shape[1], block),)
    blend_kernel[grid](*operands, edits, strength, out, out.shape[1], BLOCK_S=block)


def _rows(x: Tensor) -> Rows:
    return Rows(x, len(x), x.stride(0))
