# SPDX-License-Identifier: Apache-2.0
"""Import this before numpy and torch: their threads are set up when they are loaded, for the peers' sake too."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
from pathlib import Path
from types import ModuleType

CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []  # before an OpenMP runtime binds us

_info = Path("/proc/cpuinfo")
PROCESSOR = _info.read_text().split("\n\n")[0] if _info.is_file() else platform.processor()

if "torch" not in sys.modules:  # else it is too late
    os.environ.setdefault("OMP_PROC_BIND", "true")  # threads that wander give two-humped timings
    if " avx512f" in PROCESSOR:
        os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")  # numpy at its best


def is_installed(name: str) -> bool:
    """Whether a module can be imported."""
    return importlib.util.find_spec(name) is not None


def load(name: str) -> ModuleType | None:
    """Imports a module that may bring an OpenMP runtime or a thread pool of its own; None if it is not installed.

    The first OpenMP runtime binds this thread to one processor. One that is loaded later takes the processors of the
    thread that loads it for all there are, and would run all its threads on that one.
    """
    if not is_installed(name):
        return None
    if CPUS:
        os.sched_setaffinity(0, CPUS)
    return importlib.import_module(name)


load("numpy")
load("torch")
