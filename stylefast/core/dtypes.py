# SPDX-License-Identifier: Apache-2.0
"""Dtypes that the ops accept, and dtypes in which they compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Array: TypeAlias = torch.Tensor | np.ndarray
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which an op computes: float64 for float64 input, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def in_accumulator(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the tensor in the dtype in which an op computes for input of another dtype."""
    wanted = accumulator(dtype)
    return tensor if tensor.dtype == wanted else tensor.to(wanted)


def without_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function with autocast disabled on the device of its first tensor argument."""

    @wraps(function)
    def without_autocast(*args: Any, **kwargs: Any) -> Any:
        device = next((x.device.type for x in args if isinstance(x, Tensor)), "cpu")
        if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return without_autocast
