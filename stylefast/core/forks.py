# SPDX-License-Identifier: Apache-2.0
"""Forks of the process.

GNU OpenMP, which torch and the CPU kernels use, waits forever in a forked process for threads that only its parent has.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch

HARD = 2  # omp_pause_hard: end the threads and forget them


def end_openmp_threads_before_forks() -> None:
    """End the idle OpenMP threads of the forking thread before each fork from Python.

    Both processes start new threads when they next need them. Runtimes without `omp_pause_resource_all` of OpenMP 5.0
    need no help: those of LLVM and Intel survive a fork.
    """
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if sys.platform != "linux" or not library.exists():
        return
    # A symbol of libtorch_cpu.so or of the OpenMP runtime that it is linked to.
    pause = getattr(ctypes.CDLL(str(library)), "omp_pause_resource_all", None)
    if pause is not None:
        os.register_at_fork(before=lambda: pause(HARD))
