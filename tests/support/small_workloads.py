# SPDX-License-Identifier: Apache-2.0
"""Small arguments of every op, made by the functions of the benchmarks."""

from __future__ import annotations

from typing import Any

import torch
import workloads

from stylefast.ops import (
    ASSIGN,
    ASSIGN_CONTRIBUTION,
    ASSIGN_SOFT_CONTRIBUTION,
    BLEND,
    CONTRIBUTION,
    LLOYD_STEP,
    SOFT_CONTRIBUTION,
)

SIZE, K = (3, 20, 8), 5  # N, C, H = W


def arguments(name: str) -> dict[str, Any]:
    """Arguments of the op of this name.

    Further names are "pooled" and "soft-pooled", for `contribution` with coarse labels or memberships, and "pairs", for
    `blend` without `edits`.
    """
    if name in ("pooled", CONTRIBUTION.name):
        return workloads.labelled((1, 4, 64) if name == "pooled" else SIZE, K, torch.float32, "nchw")
    if name in ("pairs", BLEND.name):
        return workloads.edited(name != "pairs", torch.float32, (2, 3))
    if name in ("soft-pooled", SOFT_CONTRIBUTION.name):
        return workloads.shared(SIZE, K, 3 if name == "soft-pooled" else SIZE[2])
    if name == ASSIGN_SOFT_CONTRIBUTION.name:
        return workloads.clustered_and_shared(SIZE, K)
    op = next(op for op in (LLOYD_STEP, ASSIGN, ASSIGN_CONTRIBUTION) if op.name == name)
    return workloads.clustered(op, SIZE, K, torch.float32, "nchw")
