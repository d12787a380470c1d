# SPDX-License-Identifier: Apache-2.0
"""Op `blend`: the styles of all edits and all sites in one launch. Operands are gathered by index.

A program owns a slice of channels and a run of consecutive edits, which it computes one after the other. It holds the
slices of the target, the reference and the query in registers, and loads one of them again only if its index differs
from the index of the previous edit. Grids of edits repeat targets and references, so that most edits only load their
query, which is in the L1 cache: the slices of a few queries are small. Any order of edits gives the same result.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import INTERPRETED
from .tiles import device_of

MAX_SLICE = 1024  # channels per program
MAX_RUN = 32  # edits per program
PROGRAMS = 16  # per processor, as long as runs are shorter than MAX_RUN


class Rows(NamedTuple):
    """Rows of styles or queries, [count, S], with contiguous channels. `stride` is the distance of rows in elements."""

    data: Any
    count: Any
    stride: Any


@triton.jit
def load_row(rows, i, o_s, width, DTYPE: tl.constexpr):
    """Return channels o_s of row i in DTYPE."""
    return tl.load(rows.data + i * rows.stride + o_s, mask=o_s < width).to(DTYPE)


@triton.jit
def blend_kernel(target, reference, query, edits, strength, out, run, SLICE: tl.constexpr):
    """Blend SLICE channels of `run` consecutive edits."""
    width = out.stride
    slices = tl.cdiv(width, SLICE)
    o_s = tl.program_id(0) % slices * SLICE + tl.arange(0, SLICE)
    first = (tl.program_id(0) // slices).to(tl.int64) * run
    acc_dtype: tl.constexpr = query.data.dtype.element_ty  # float32, or float64 for float64 styles
    t = tl.zeros([SLICE], acc_dtype)
    r, q = t, t
    held_t, held_r, held_q = first * 0 - 1, first * 0 - 1, first * 0 - 1  # indices of the rows in t, r and q
    for e in range(first, tl.minimum(first + run, out.count)):
        if edits is None:
            i_t, i_r = tl.where(target.count == 1, 0, e), tl.where(reference.count == 1, 0, e)
            i_q = tl.where(query.count == 1, 0, e)
        else:
            i_t, i_r, i_q = tl.load(edits + 3 * e), tl.load(edits + 3 * e + 1), tl.load(edits + 3 * e + 2)
        if i_t != held_t:
            t = load_row(target, i_t, o_s, width, acc_dtype)
        if i_r != held_r:
            r = load_row(reference, i_r, o_s, width, acc_dtype)
        if i_q != held_q:
            q = load_row(query, i_q, o_s, width, acc_dtype)
        held_t, held_r, held_q = i_t, i_r, i_q
        weight = q
        if strength is not None:
            weight = q * tl.load(strength + e)
        mixed = tl.where(weight == 0, t, tl.where(weight == 1, r, t + weight * (r - t)))
        tl.store(out.data + e * width + o_s, mixed.to(out.data.dtype.element_ty), mask=o_s < width)


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
    channels = min(MAX_SLICE, triton.next_power_of_2(out.shape[1]))
    slices = triton.cdiv(out.shape[1], channels)
    run = min(MAX_RUN, triton.cdiv(slices * len(out), PROGRAMS * device_of(out).processors))
    blend_kernel[(slices * triton.cdiv(len(out), run),)](
        *operands, edits, strength, Rows(out, *out.shape), run, SLICE=channels, num_warps=2 if out.itemsize == 2 else 4
    )


def _rows(x: Tensor) -> Rows:
    return Rows(x, len(x), x.stride(0))
