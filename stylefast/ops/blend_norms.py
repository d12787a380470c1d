# SPDX-License-Identifier: Apache-2.0
"""Norm-preserving mode of the blend. References are scaled before the launch, so that kernels need no such mode."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.dtypes import without_autocast


@without_autocast
def norm_preserving(
    target: Tensor, reference: Tensor, query: Tensor, edits: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return `r |q t| / |q r|` of every edit, [E, S], and the edits with indices into these rows."""
    target_norm, reference_norm = (_masked_norm(x, query, edits, i) for i, x in enumerate((target, reference)))
    scale = target_norm / torch.where(reference_norm > 0, reference_norm, 1)  # [E]; any value if q r = 0
    if edits is None:
        return (reference * scale.unsqueeze(1)).to(target.dtype), None
    rows = torch.arange(len(edits), device=edits.device)
    scaled = (reference[edits[:, 1]] * scale.unsqueeze(1)).to(target.dtype)
    return scaled, torch.stack((edits[:, 0], rows, edits[:, 2]), 1)


def _masked_norm(rows: Tensor, query: Tensor, edits: Tensor | None, column: int) -> Tensor:
    """Return `|q x|` per edit, [E]; `column` is the column of the edits that indexes the rows x.

    Without edits, the result has one norm per broadcast row: [1] for one row and one query.
    """
    x = rows.to(query.dtype)
    if edits is None:
        return torch.linalg.vector_norm(query * x, dim=1)
    squares = (query.square() @ x.square().T)[edits[:, 2], edits[:, column]]
    positive = squares > 0  # the square root has no gradient at 0
    return torch.where(positive, torch.where(positive, squares, 1).sqrt(), 0)
