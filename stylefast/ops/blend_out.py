# SPDX-License-Identifier: Apache-2.0
"""Checks of the tensor `out` to which a blend is written."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.checks import check_tensor
from ..core.private_torch import has_memory, is_alias_of, transforms_are_active
from .blend_rows import as_rows
from .op import needs_autograd

NAMES = ("target", "reference", "query", "edits", "strength")  # of the inputs; the first three are operands


def check_out(
    out: Tensor,
    rows: int,
    target: Tensor,
    reference: Tensor,
    query: Tensor,
    edits: Tensor | None,
    strength: float | Tensor | None,
) -> None:
    """Raise TypeError or ValueError unless the blend of `rows` edits can be written to `out`."""
    width = target.shape[-1]
    check_tensor("out", out, "[E, S]", 2, like=target)
    if out.shape != (rows, width) or out.dtype != target.dtype or not out.is_contiguous():
        raise ValueError(
            f"out must be contiguous {target.dtype} with shape [E, S] = ({rows}, {width}), "
            f"got {out.dtype} {tuple(out.shape)} with strides {out.stride()}"
        )
    if transforms_are_active():
        raise ValueError("out must be None under a transform of torch.func, got a tensor")
    inputs = (target, reference, query, edits, strength)
    if needs_autograd(*inputs, out):
        raise ValueError("out cannot be used with inputs that require gradients, nor require gradients itself")
    if not torch.compiler.is_compiling():  # the compiler calls it for fake tensors
        check_overlap(*inputs, out=out)


def check_overlap(
    target: Tensor,
    reference: Tensor,
    query: Tensor,
    edits: Tensor | None,
    strength: float | Tensor | None,
    *,
    out: Tensor,
) -> None:
    """Raise ValueError if a contiguous `out` overlaps an input that is read after a part of `out` is written.

    Without edits, `out` may be the same rows as an operand. Also the rule of fake tensors, for `torch.compile`: they
    have no addresses, but positions in storages.
    """
    has_addresses = has_memory(out)
    begin = _begin(out, has_addresses)
    for name, x in zip(NAMES, (target, reference, query, edits, strength), strict=True):
        if not isinstance(x, Tensor) or not (has_addresses or is_alias_of(out, x)):
            continue
        first = _begin(x, has_addresses)
        if first == begin and edits is None and name in NAMES[:3] and _same_layout(out, as_rows(x)):
            continue
        if overlaps(x, first, begin, begin + out.nbytes):
            raise ValueError(
                f"out must share no memory with {name}, or, without edits, be the same rows as an operand, "
                f"got {tuple(out.shape)} that overlaps {name} {tuple(x.shape)}"
            )


def _begin(tensor: Tensor, has_address: bool) -> int:
    return tensor.data_ptr() if has_address else int(tensor.storage_offset()) * tensor.itemsize


def _same_layout(out: Tensor, rows: Tensor) -> bool:
    return rows.dtype == out.dtype and rows.shape == out.shape and rows.is_contiguous()


def overlaps(tensor: Tensor, first: int, begin: int, end: int) -> bool:
    """Return whether a tensor of any strides, which begins at byte `first`, has a byte in [begin, end)."""
    if first >= end or (first + tensor.nbytes <= begin and tensor.is_contiguous()):
        return False
    size = tensor.itemsize
    steps = sorted(((s * size, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True)), reverse=True)
    return begin < end and tensor.numel() > 0 and _reaches(begin - first - size, end - first, steps)


def _reaches(low: int, high: int, steps: Sequence[tuple[int, int]]) -> bool:
    """Return whether `low < sum_d i_d * step_d < high` has a solution with `0 <= i_d < n_d`.

    Args:
        low: Exclusive lower bound.
        high: Exclusive upper bound.
        steps: Pairs (step_d, n_d) with step_d >= 0, in descending order.
    """
    rest_span = sum(step * (n - 1) for step, n in steps[1:])
    if not steps:
        return low < 0 < high
    step, n = steps[0]
    if step == 0:
        return low < 0 < high
    first, last = max(0, (low - rest_span) // step + 1), min(n - 1, (high - 1) // step)
    return any(_reaches(low - i * step, high - i * step, steps[1:]) for i in range(first, last + 1))
