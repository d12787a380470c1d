# SPDX-License-Identifier: Apache-2.0
"""Forks of the process.

GNU OpenMP, which torch and the CPU kernels use, waits forever in a forked process for threads that only its parent has.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

HARD = 2  # omp_pause_hard: end the threads and forget them


def end_openmp_threads_before_forks() -> None:
    """End the idle OpenMP threads of the forking thread before each fork from Python.

    Both processes start new threads when they next need them.
    """
    if sys.platform == "linux":
        os.register_at_fork(before=_end_openmp_threads)


def _end_openmp_threads() -> None:
    if (pause := _pause()) is not None:
        pause(HARD)


@cache
def _pause() -> Callable[[int], int] | None:
    """Return `omp_pause_resource_all` of OpenMP 5.0, from libtorch_cpu.so or the OpenMP runtime that it is linked to.

    None if the runtime lacks it. Those of LLVM and Intel survive a fork without it.
    """
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    return getattr(ctypes.CDLL(str(library)), "omp_pause_resource_all", None) if library.exists() else None
