# SPDX-License-Identifier: Apache-2.0
"""What the ops of generator layers share: checks and random samples. Their tensors are [N, H, W, C]."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.checks import check_tensor

DTYPES = (torch.float32, torch.float64)


def check_layer(x: Tensor, **others: Tensor) -> None:
    """Raise TypeError or ValueError unless all tensors have x's dtype, float32 or float64, and x's device."""
    check_tensor("x", x, "[N, H, W, C]", 4)
    if x.dtype not in DTYPES:
        raise TypeError(f"x must be float32 or float64, got {x.dtype}")
    for name, tensor in others.items():
        check_tensor(name, tensor, like=x)
        if tensor.dtype != x.dtype:
            raise TypeError(f"{name} must be {x.dtype} like x, got {tensor.dtype}")


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return normal deviates, which depend only on the shape."""
    rng = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=rng, dtype=torch.float64, device="cpu").to(dtype)
