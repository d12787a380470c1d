# SPDX-License-Identifier: Apache-2.0
"""Styles of all edits and all sites in one launch; operands are gathered by index."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import INTERPRETED

BLOCK = 1024


@triton.jit
def blend_kernel(
    target, reference, query, edits, strength, out, width, rows_t, rows_r, rows_q, stride_t, stride_r, stride_q,
    BLOCK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(width, BLOCK)
    e = (tl.program_id(0) // blocks).to(tl.int64)
    o_s = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    m_s = o_s < width
    if edits is None:
        i_t, i_r, i_q = tl.where(rows_t == 1, 0, e), tl.where(rows_r == 1, 0, e), tl.where(rows_q == 1, 0, e)
    else:
        i_t, i_r, i_q = tl.load(edits + 3 * e), tl.load(edits + 3 * e + 1), tl.load(edits + 3 * e + 2)
    q = tl.load(query + i_q * stride_q + o_s, mask=m_s)  # float32, or float64 for float64 styles
    if strength is not None:
        q *= tl.load(strength + e)
    t = tl.load(target + i_t * stride_t + o_s, mask=m_s).to(q.dtype)
    r = tl.load(reference + i_r * stride_r + o_s, mask=m_s).to(q.dtype)
    mixed = tl.where(q == 0, t, tl.where(q == 1, r, t + q * (r - t)))
    tl.store(out + e * width + o_s, mixed.to(out.dtype.element_ty), mask=m_s)


def launch(target: Tensor, reference: Tensor, query: Tensor, edits: Tensor | None, strength: Tensor | None) -> Tensor:
    rows = (
        torch.broadcast_shapes(*(x.shape[:1] for x in (target, reference, query))) if edits is None else (len(edits),)
    )
    out = target.new_empty((*rows, target.shape[1]))
    launch_out(target, reference, query, edits, strength, out=out)
    return out


def launch_out(
    target: Tensor, reference: Tensor, query: Tensor, edits: Tensor | None, strength: Tensor | None, *, out: Tensor
) -> None:
    if out.numel() == 0:
        return
    if INTERPRETED and out.dtype == torch.bfloat16:  # the interpreter truncates instead of rounding
        wide = torch.empty_like(out, dtype=torch.float32)
        launch_out(target, reference, query, edits, strength, out=wide)
        out.copy_(wide)
        return
    target, reference, query = (x if x.stride(1) == 1 else x.contiguous() for x in (target, reference, query))
    edits = None if edits is None else edits.contiguous()
    strength = None if strength is None else strength.contiguous()
    rows = [len(x) for x in (target, reference, query)]
    strides = [x.stride(0) for x in (target, reference, query)]
    block = min(BLOCK, triton.next_power_of_2(out.shape[1]))
    grid = (out.shape[0] * triton.cdiv(out.shape[1], block),)
    blend_kernel[grid](target, reference, query, edits, strength, out, out.shape[1], *rows, *strides, BLOCK=block)
