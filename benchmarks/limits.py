# SPDX-License-Identifier: Apache-2.0
"""Limits of this machine: bandwidth of reads, copies and streaming stores, and the peak of multiply-adds.

    python benchmarks/limits.py

Copies count what they read and what they write, no more: a plain store also reads the line it writes to.
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
FLOATS = 1 << 25  # 128 MiB per buffer: beyond the caches
TURNS = 500_000  # iterations of multiply-adds: a few ms


class Limits(NamedTuple):
    """Bytes per second read, copied (read + written), copied past the caches, stored past the caches; fp32 flops per
    second."""

    read: float
    copy: float
    stream: float
    store: float
    fma: float


COPIES = (Limits._fields.index("copy"), Limits._fields.index("stream"))
FMA = Limits._fields.index("fma")


def measure(threads: int, rounds: int = 10) -> Limits:
    """The best value of every limit over some rounds."""
    calls = probes(threads)
    return Limits(*(max(call() for _ in range(rounds)) for call in calls.values()))


def probes(threads: int) -> dict[str, Callable[[], float]]:
    """A function per limit that measures it once, in a few ms."""
    if environment.CPUS and threads > len(environment.CPUS):
        raise ValueError(f"threads must be at most the processors, {len(environment.CPUS)}, got {threads}")
    return {name: partial(_rate, kind, threads) for kind, name in enumerate(Limits._fields)}


def vector_bits() -> int:
    """Width of the vectors that the limits are measured with."""
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
    """Two rows of floats, each on a boundary of 64 bytes, with an end to prefetch into, and already in memory."""

    def row() -> np.ndarray:
        memory = np.ones(FLOATS + 32, np.float32)
        return memory[-memory.ctypes.data % 64 // 4 :][:FLOATS]

    return row(), row()


@cache
def library() -> ctypes.CDLL:
    """limits.cpp compiled for this processor; cached in the temporary folder by a hash of everything that matters."""
    cxx = next((c for c in (os.environ.get("CXX"), "g++", "clang++", "c++") if c and shutil.which(c)), None)
    if cxx is None:
        raise RuntimeError("measuring the machine's limits needs a C++17 compiler (CXX, g++, clang++ or c++)")
    command = [cxx, "-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread"]
    key = hashlib.sha256("\0".join([SOURCE.read_text(), *command, environment.PROCESSOR]).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"stylefast-limits-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to another user: nothing in it is run")
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
    print(f"{vector_bits()}-bit vectors; GB/s, GFLOP/s fp32")
    print(f"{'threads':>8}" + "".join(f"{name:>8}" for name in Limits._fields))
    for count in sorted({1, min(2, len(environment.CPUS) or 1), len(environment.CPUS) or 1}):
        print(f"{count:>8}" + "".join(f"{value / 1e9:>8.0f}" for value in measure(count)))
