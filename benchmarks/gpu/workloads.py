# SPDX-License-Identifier: Apache-2.0
"""Workloads of the GPU stages. On the device "meta", inputs have shapes but no data, which is enough to compile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from stylefast.core.dtypes import accumulator
from stylefast.ops import (
    ASSIGN,
    ASSIGN_CONTRIBUTION,
    ASSIGN_SOFT_CONTRIBUTION,
    BLEND,
    CONTRIBUTION,
    LLOYD_STEP,
    SOFT,
    SOFT_CONTRIBUTION,
)
from stylefast.ops.op import Op

from .rehearsal import REHEARSAL

if REHEARSAL:  # sizes that an interpreter can handle
    MAIN, LARGE, GRID, (STYLES, TARGETS, REFERENCES, PARTS) = (2, 16, 4), (2, 8, 8), 4, (40, 2, 3, 2)
else:
    MAIN, LARGE, GRID = (4096, 512, 32), (64, 64, 512), 32  # N, C, H = W (MAIN: 2^31 elements); coarse H = W
    STYLES, TARGETS, REFERENCES, PARTS = 9088, 16, 256, 5
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float64: "float64"}


@dataclass(frozen=True)
class GpuWorkload:
    """A named call of an op. `gathered` says whether blend gets indices of rows, or rows that are already in pairs."""

    op: Op
    size: tuple[int, int, int] | None
    dtype: torch.dtype
    k: int | None = None
    restarts: int = 1
    features: str = "raw"
    channels_last: bool = False
    gathered: bool = True

    @property
    def is_pooled(self) -> bool:
        """Whether labels or memberships are coarser than activations."""
        return self.op in (CONTRIBUTION, SOFT_CONTRIBUTION) and self.size is not None and self.size[2] != GRID

    @property
    def name(self) -> str:
        parts = [NAMES[self.dtype]]
        if self.size is None:
            edits = TARGETS * REFERENCES * PARTS
            parts = [f"{edits}x{STYLES}", *parts, "gathered" if self.gathered else "pairs"]
        else:
            n, c, side = self.size
            parts = [f"{n}x{c}x{side}x{side}", *parts, f"K={self.k}"]
        parts += [f"{self.restarts} restarts"] if self.restarts > 1 else []
        parts += [self.features] if self.features != "raw" else []
        return " ".join(parts + (["channels_last"] if self.channels_last else []))

    def make(self, device: str | torch.device, scale: int = 1) -> dict[str, Any]:
        """Return the op's arguments, in the order of its schema.

        `scale` divides the number of images, so that results can be verified. At least 16 images remain, because Triton
        specialises kernels on multiples of 16.
        """
        if self.size is None:
            return self._edits(device, scale)
        n, c, side = self.size
        n, k = max(min(n, 16), n // scale), int(self.k or 1)
        x = torch.empty(n, c, side, side, dtype=self.dtype, device=device)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        pieces = () if x.is_meta else x.split(max(1, (1 << 26) // (c * side * side)))
        for piece in pieces:
            piece.normal_()  # in place, because a second tensor of this size may not fit
        if self.op is CONTRIBUTION:
            labels = torch.randint(k, (n, GRID, GRID), dtype=torch.int32, device=device)
            return {
                "activations": x, "labels": labels, "n_clusters": k, "standardize": True, "resize": "bilinear",
                "per_image": False,
            }  # fmt: skip
        soft = {}
        if self.op in SOFT:
            soft = {"memberships": torch.rand(n, k, GRID, GRID, dtype=accumulator(self.dtype), device=device)}
        if self.op is SOFT_CONTRIBUTION:
            return {"activations": x, **soft, "standardize": True, "resize": "bilinear", "per_image": False}
        centroids = torch.randn(self.restarts, k, c, dtype=accumulator(self.dtype), device=device)
        centroids = F.normalize(centroids, dim=2)
        arguments = {"activations": x, "centroids": centroids, "features": self.features}
        if self.op is LLOYD_STEP:
            return arguments
        arguments["centroids"] = centroids[0]
        if self.op is ASSIGN:
            return arguments
        arguments = {"activations": x, "centroids": centroids[0], **soft, "features": self.features}
        return {**arguments, "standardize": True, "per_image": False}

    def _edits(self, device: str | torch.device, scale: int) -> dict[str, Any]:
        """Return the arguments of blend for every part of every reference on every target. Pairs have one query."""
        rows = (max(1, TARGETS // scale), REFERENCES, PARTS if self.gathered else 1)
        t, r = (torch.randn(n, STYLES, device=device).to(self.dtype) for n in rows[:2])
        edits = torch.cartesian_prod(*(torch.arange(n, device=device) for n in rows))  # [E, 3]
        query = torch.rand(rows[2], STYLES, dtype=accumulator(self.dtype), device=device)
        if not self.gathered:
            repeated = edits.repeat(PARTS, 1)
            t, r, edits = t[repeated[:, 0]], r[repeated[:, 1]], None
        return {
            "target": t, "reference": r, "query": query, "edits": edits,
            "strength": None,
        }  # fmt: skip


def _workloads() -> Iterator[GpuWorkload]:
    half, single = torch.bfloat16, torch.float32
    for op in (LLOYD_STEP, ASSIGN_CONTRIBUTION):
        yield from (GpuWorkload(op, MAIN, half, k) for k in (8, 32, 64))
        yield GpuWorkload(op, MAIN, torch.float16, 32)
        yield from (GpuWorkload(op, MAIN, single, k) for k in (8, 32))
    yield GpuWorkload(LLOYD_STEP, MAIN, half, 16, restarts=8)
    yield GpuWorkload(LLOYD_STEP, MAIN, single, 32, features="standardized")
    yield GpuWorkload(LLOYD_STEP, MAIN, half, 128)
    yield from (GpuWorkload(ASSIGN, MAIN, dtype, 32) for dtype in (half, single))
    for size in (MAIN, LARGE):
        yield from (GpuWorkload(CONTRIBUTION, size, dtype, 32) for dtype in (half, single))
    yield GpuWorkload(CONTRIBUTION, LARGE, half, 32, channels_last=True)
    for size in (MAIN, LARGE):
        yield from (GpuWorkload(SOFT_CONTRIBUTION, size, dtype, 32) for dtype in (half, single))
    yield GpuWorkload(ASSIGN_SOFT_CONTRIBUTION, MAIN, half, 32)
    yield from (
        GpuWorkload(BLEND, None, dtype, gathered=gathered) for dtype in (single, half) for gathered in (True, False)
    )


GPU_WORKLOADS = tuple(_workloads())
KEY_WORKLOADS = (
    GpuWorkload(LLOYD_STEP, MAIN, torch.bfloat16, 32),
    GpuWorkload(LLOYD_STEP, MAIN, torch.float32, 32),
    GpuWorkload(LLOYD_STEP, MAIN, torch.bfloat16, 64),
    GpuWorkload(ASSIGN_CONTRIBUTION, MAIN, torch.bfloat16, 32),
    GpuWorkload(CONTRIBUTION, MAIN, torch.bfloat16, 32),
    GpuWorkload(CONTRIBUTION, LARGE, torch.bfloat16, 32),
    GpuWorkload(BLEND, None, torch.float32),
    GpuWorkload(BLEND, None, torch.float32, gathered=False),
)
