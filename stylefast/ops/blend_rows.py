# SPDX-License-Identifier: Apache-2.0
"""Rows of target, reference and query that each edit of a blend uses."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends.native import out_of_range
from ..core.dtypes import accumulator


def as_rows(tensor: Tensor) -> Tensor:
    """Return [S] as [1, S]."""
    return tensor if tensor.dim() == 2 else tensor.unsqueeze(0)


def count_rows(tensor: Tensor) -> int:
    """Return T of [T, S], and 1 of [S]."""
    return tensor.shape[0] if tensor.dim() == 2 else 1


def paired(counts: tuple[int, int, int]) -> int:
    """Return the number of edits without an index tensor. Raise ValueError unless the rows broadcast."""
    targets, references, queries = counts
    rows = targets if targets != 1 else references if references != 1 else queries
    if references not in (1, rows) or queries not in (1, rows):
        raise ValueError(
            f"without edits, target, reference and query must have equal numbers of rows or one row, got {counts}"
        )
    return rows


def check_edits(edits: Tensor, counts: tuple[int, int, int], target: Tensor) -> int:
    """Return the number of edits. Raise TypeError or ValueError unless they index `counts` rows."""
    if not isinstance(edits, Tensor) or edits.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"edits must be an int64 or int32 tensor [E, 3], got {getattr(edits, 'dtype', type(edits))}")
    if edits.dim() != 2 or edits.shape[1] != 3:
        raise ValueError(f"edits must have shape [E, 3], got {tuple(edits.shape)}")
    if edits.device != target.device:
        raise ValueError(f"edits must be on {target.device} like target, got {edits.device}")
    if (limits := out_of_range(edits, *counts)) is not None:
        raise ValueError(
            f"edits must index {counts[0]} targets, {counts[1]} references and {counts[2]} queries, "
            f"got rows from {limits[0]} to {limits[1]}"
        )
    return edits.shape[0]


def count_edits(target: Tensor, reference: Tensor, query: Tensor, edits: Tensor | None) -> int:
    return edits.shape[0] if edits is not None else paired((target.shape[0], reference.shape[0], query.shape[0]))


def gathered(
    target: Tensor, reference: Tensor, query: Tensor, edits: Tensor | None, strength: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return t, r and `a q` of every edit, [E, S] each, in the dtype that the op computes in."""
    rows = count_edits(target, reference, query, edits)
    t, r, q = (
        (x.expand(rows, -1) if edits is None else x[edits[:, i]]).to(accumulator(target.dtype))
        for i, x in enumerate((target, reference, query))
    )
    return t, r, q if strength is None else q * strength.unsqueeze(1)
