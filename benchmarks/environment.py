# SPDX-License-Identifier: Apache-2.0
"""Environment of the benchmarks. Import this module before numpy and torch.

It sets environment variables from which numpy and torch set up their threads when they are loaded. The peers benefit
from the variables, too.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
from pathlib import Path
from types import ModuleType

# Read before an OpenMP runtime binds this thread to one processor.
CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

_info = Path("/proc/cpuinfo")
PROCESSOR = _info.read_text().split("\n\n")[0] if _info.is_file() else platform.processor()

if "torch" not in sys.modules:  # otherwise the variables have no effect
    os.environ.setdefault("OMP_PROC_BIND", "true")  # threads that move between processors give bimodal timings
    if " avx512f" in PROCESSOR:
        os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")  # the fastest kernels of numpy's OpenBLAS


def is_installed(name: str) -> bool:
    """Return whether a module can be imported."""
    return importlib.util.find_spec(name) is not None


def load(name: str) -> ModuleType | None:
    """Import a module that may bring its own OpenMP runtime or thread pool; return None if it is not installed.

    The first OpenMP runtime binds this thread to one processor. A runtime that is loaded later only uses the processors
    on which the loading thread may run, so all its threads would share one processor. Therefore this function first
    allows this thread to run on all processors again.
    """
    if not is_installed(name):
        return None
    if CPUS:
        os.sched_setaffinity(0, CPUS)
    return importlib.import_module(name)


load("numpy")
load("torch")
