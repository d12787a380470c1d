# SPDX-License-Identifier: Apache-2.0
"""Independence of the default dtype and the default device of torch, which users may set."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def with_plain_defaults(function: Callable[P, R]) -> Callable[P, R]:
    """Return the same function, which runs with float32 and the CPU as the defaults of torch.

    It is for functions that construct modules. Other code names the dtype and the device of every new tensor. The
    default dtype is one for all threads.
    """

    @wraps(function)
    def with_plain_defaults(*args: P.args, **kwargs: P.kwargs) -> R:
        dtype = torch.get_default_dtype()
        try:
            torch.set_default_dtype(torch.float32)
            with torch.device("cpu"):
                return function(*args, **kwargs)
        finally:
            torch.set_default_dtype(dtype)

    return with_plain_defaults
