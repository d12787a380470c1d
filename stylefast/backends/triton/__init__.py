# SPDX-License-Identifier: Apache-2.0
"""Backend `triton`: portable GPU kernels, one file per op, which Triton compiles when they first run.

With TRITON_INTERPRET=1 in the environment, Triton interprets the kernels on CPU tensors instead. This is slow and only
meant for tests without a GPU.
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

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton, too, reads it when the kernels are imported
DEVICE = "cpu" if INTERPRETED else "cuda"  # torch calls AMD GPUs "cuda", too


@cache
def reason() -> str | None:
    """Return why the kernels cannot run here, as one sentence, or None if they can."""
    if find_spec("triton") is None:
        return "backend 'triton' needs Triton, which is not installed: pip install triton"
    if not INTERPRETED and not torch.cuda.is_available():
        return "backend 'triton' needs a GPU that torch can use (or TRITON_INTERPRET=1 to interpret kernels on the CPU)"
    return None


def launcher(op: str, name: str = "launch") -> Callable[..., Any]:
    """Return the function `name` of the file `op`, which then runs on the device of its first argument.

    The file is imported at the first call, because Triton is slow to import.
    """

    def call(first: Tensor, *args: Any, **kwargs: Any) -> Any:
        launch = getattr(import_module(f".{op}", __name__), name)
        if not first.is_cuda:
            return launch(first, *args, **kwargs)
        with torch.cuda.device(first.device):
            return launch(first, *args, **kwargs)

    return call
