# SPDX-License-Identifier: Apache-2.0
"""Measure the limits of this machine: bandwidth of reads, copies and streaming stores, and the peak of multiply-adds.

Usage::

    python benchmarks/limits.py

The bandwidth of a copy counts the bytes that are read and the bytes that are written. A plain store also reads the
cache line that it writes to; these bytes are not counted.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import environment
import numpy as np

SOURCE = Path(__file__).with_suffix(".cpp")
FLOATS = 1 << 25  # 128 MiB per buffer, more than the caches hold
TURNS = 500_000  # iterations of multiply-adds, which take a few ms


class Limits(NamedTuple):
    """Limits of a machine: bandwidths in bytes per second, and the peak in float32 flops per second.

    Attributes:
        read: Bandwidth of reads.
        copy: Bandwidth of copies; bytes read plus bytes written.
        stream: Bandwidth of copies with stores that bypass the caches; bytes read plus bytes written.
        store: Bandwidth of stores that bypass the caches.
        fma: Peak of multiply-adds.
    """

    read: float
    copy: float
    stream: float
    store: float
    fma: float


COPIES = (Limits._fields.index("copy"), Limits._fields.index("stream"))
FMA = Limits._fields.index("fma")


def measure(threads: int, rounds: int = 10) -> Limits:
    """Return the best value of every limit over `rounds` rounds."""
    calls = probes(threads)
    return Limits(*(max(call() for _ in range(rounds)) for call in calls.values()))


def probes(threads: int) -> dict[str, Callable[[], float]]:
    """Return one function per limit that measures it once, in a few ms.

    Raises:
        ValueError: If `threads` is larger than the number of processors.
    """
    if environment.CPUS and threads > len(environment.CPUS):
        raise ValueError(f"threads must be at most {len(environment.CPUS)}, the number of processors, got {threads}")
    return {name: partial(_rate, kind, threads) for kind, name in enumerate(Limits._fields)}


def vector_bits() -> int:
    """Return the width in bits of the vectors with which the limits are measured."""
    return 8 * library().vector_bytes()


def _rate(kind: int, threads: int) -> float:
    source, target = _buffers()
    cpus = (ctypes.c_int * threads)(*environment.CPUS[:threads]) if environment.CPUS else None
    count = TURNS if kind == FMA else FLOATS
    seconds = library().run_limit(kind, threads, cpus, source.ctypes.data, target.ctypes.data, count)
    work = threads * TURNS * library().turn_flops() if kind == FMA else source.nbytes * (2 if kind in COPIES else 1)
    return work / seconds


@cache
def _buffers() -> tuple[np.ndarray, np.ndarray]:
    """Return two buffers of floats; each begins at a multiple of 64 bytes, and its pages are already mapped."""

    def row() -> np.ndarray:
        memory = np.ones(FLOATS + 32, np.float32)
        return memory[-memory.ctypes.data % 64 // 4 :][:FLOATS]

    return row(), row()


@cache
def library() -> ctypes.CDLL:
    """Compile limits.cpp for this processor and load it.

    The library is cached in the temporary folder under a hash of the source, the command and the processor.

    Raises:
        RuntimeError: If there is no C++17 compiler, or if the folder of the cache belongs to another user.
    """
    cxx = next((c for c in (os.environ.get("CXX"), "g++", "clang++", "c++") if c and shutil.which(c)), None)
    if cxx is None:
        raise RuntimeError("measuring the machine's limits needs a C++17 compiler (CXX, g++, clang++ or c++)")
    command = [cxx, "-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread"]
    key = hashlib.sha256("\0".join([SOURCE.read_text(), *command, environment.PROCESSOR]).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"stylefast-limits-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to another user, so no library is loaded from it")
    path = folder / f"{key}.so"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, str(SOURCE), "-o", str(part)], check=True)
        part.replace(path)
    built = ctypes.CDLL(str(path))
    pointer = ctypes.c_void_p
    built.run_limit.argtypes = [ctypes.c_int, ctypes.c_int, pointer, pointer, pointer, ctypes.c_size_t]
    built.run_limit.restype = built.turn_flops.restype = ctypes.c_double
    return built


if __name__ == "__main__":
    print(f"{vector_bits()}-bit vectors; GB/s, and for fma GFLOP/s in float32")
    print(f"{'threads':>8}" + "".join(f"{name:>8}" for name in Limits._fields))
    for count in sorted({1, min(2, len(environment.CPUS) or 1), len(environment.CPUS) or 1}):
        print(f"{count:>8}" + "".join(f"{value / 1e9:>8.0f}" for value in measure(count)))
