# SPDX-License-Identifier: Apache-2.0
"""Loads the compiled library, which fills the `cpu` cells of the op table by itself."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

CPU_LIBRARY = Path(__file__).parent.parent / "libstylefast_cpu.so"


@cache
def cpu_reason() -> str | None:
    """None if the compiled CPU kernels are loaded, else why they are not, in one sentence."""
    if not CPU_LIBRARY.exists():
        return "backend 'cpu' was not built: install a C++17 compiler, then install stylefast again"
    try:
        torch.ops.load_library(str(CPU_LIBRARY))
    except OSError as error:
        return f"backend 'cpu' cannot be loaded with torch {torch.__version__}: {error}"
    return None


def instruction_set() -> str | None:
    """The instruction set that the CPU kernels use ("avx512", "avx2" or "portable"); None without them.

    The environment variable STYLEFAST_ISA forces one; a set that this processor lacks is refused at the first call.
    """
    return torch.ops.stylefast.instruction_set() if cpu_reason() is None else None
