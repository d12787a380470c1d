# SPDX-License-Identifier: Apache-2.0
"""Calls of the ops of generator layers, with inputs without data, which is enough to compile their Triton kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from stylefast.ops import LAYERS
from stylefast.ops.op import Op


class LayerWorkload(NamedTuple):
    """A named call of an op of LAYERS on N images of side x side positions with C channels."""

    op: Op
    n: int
    side: int
    c: int
    dtype: torch.dtype

    @property
    def name(self) -> str:
        return f"{self.n}x{self.side}x{self.side}x{self.c} {str(self.dtype).removeprefix('torch.')}"

    @property
    def elements(self) -> int:
        """Number of elements of the input of the layer."""
        return self.n * self.side * self.side * self.c

    def make(self, device: str) -> dict[str, Any]:
        """Return the op's arguments, in the order of its schema. Its output has as many channels as its input."""

        def tensor(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=self.dtype, device=device)

        n, side, c = self.n, self.side, self.c
        layer = {"x": tensor(n, side, side, c), "style": tensor(n, c)}
        if self.op.name == "inverse_haar":
            return layer
        weights = {"depthwise": tensor(c, 3, 3), "pointwise": tensor(c, c), "bias": tensor(c)}
        return {**layer, **weights, "noise": tensor(side, side), "above": 1, "below": 1, "slope": 0.2}


LAYER_WORKLOADS = tuple(
    LayerWorkload(op, 4, side, c, dtype)
    for op in LAYERS
    if "triton" in op.backends
    for side, c in ((32, 512), (512, 64))
    for dtype in (torch.float32, torch.float64)
)
