# SPDX-License-Identifier: Apache-2.0
"""The `triton` cells of the op table, one file each: portable GPU kernels, which Triton compiles when they first run.

With TRITON_INTERPRET=1 in the environment Triton interprets them on CPU tensors instead: slow, and how they are tested
without a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton asks, too, when the kernels are imported
DEVICE = "cpu" if INTERPRETED else "cuda"  # ROCm's torch says "cuda", too


@cache
def reason() -> str | None:
    """None if the kernels can run here, else why they cannot, in one sentence."""
    if find_spec("triton") is None:
        return "backend 'triton' needs Triton, which is not installed: pip install triton"
    if not INTERPRETED and not torch.cuda.is_available():
        return "backend 'triton' needs a GPU that torch can use (or TRITON_INTERPRET=1, to interpret it on CPU tensors)"
    return None


def launcher(op: str, name: str = "launch") -> Callable[..., Any]:
    """The function `name` of the file `op`, which is imported when it is first called: Triton is slow to import."""

    def call(first: Tensor, *args: Any, **kwargs: Any) -> Any:
        launch = getattr(import_module(f".{op}", __name__), name)
        if not first.is_cuda:
            return launch(first, *args, **kwargs)
        with torch.cuda.device(first.device):
            return launch(first, *args, **kwargs)

    return call
