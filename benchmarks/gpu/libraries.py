# SPDX-License-Identifier: Apache-2.0
"""Stage `libraries`: keeps libraries that were built from these sources and work here, and builds the others."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from provenance import ROOT

from stylefast.backends.native import CPU_LIBRARY, CUDA_LIBRARY

from .device import start, write
from .rehearsal import REHEARSAL, cuda

CHECK = {
    "cpu": "import torch; from stylefast.backends.native import cpu_reason as reason; device = 'cpu'",
    "cuda": "import torch; from stylefast.backends.native import cuda_reason as reason; device = 'cuda'",
}
CALL = """
import stylefast
assert reason() is None, reason()
x = torch.arange(64.0, device=device).view(1, 4, 4, 4)
labels = stylefast.assign(x, torch.eye(4, device=device), backend=device).labels
assert labels.unique().tolist() == [3], labels
"""


def is_current(name: str, library: Path, setup: dict[str, Any]) -> bool:
    """Whether a library was linked from the present sources: its ELF build id is their hash."""
    return library.exists() and bytes.fromhex(setup["source_id"](name)) in library.read_bytes()


def fault(column: str) -> str | None:
    """Why the library of a column does not work here; None if it does."""
    if REHEARSAL and column == "cuda":
        return None if CUDA_LIBRARY.exists() else "it is not there"
    done = subprocess.run([sys.executable, "-c", CHECK[column] + CALL], capture_output=True, text=True)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]


def build() -> bool:
    """Builds both libraries in place for this device; whether that succeeded."""
    major, minor = cuda.get_device_capability()
    asked = {"STYLEFAST_CUDA": "1", "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}{'a' if major >= 9 else ''}"}
    if REHEARSAL:  # CI: no warnings with the oldest torch
        asked |= {"CXXFLAGS": "-Werror", "NVCC_APPEND_FLAGS": "-Werror=all-warnings -Xcompiler=-Werror"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | asked).returncode == 0


def main() -> int:
    if REHEARSAL:
        import cuda_on_cpu

        cuda_on_cpu.build("plain", "-O2")
    start()
    setup = runpy.run_path(str(ROOT / "setup.py"))
    libraries = {"cpu": (setup["CPU"], CPU_LIBRARY), "cuda": (setup["CUDA"], CUDA_LIBRARY)}
    origin, begin = {}, time.monotonic()
    for column, (name, library) in libraries.items():
        reason = fault(column) if is_current(name, library, setup) else "not built from these sources"
        origin[column] = "carried" if reason is None else "built"
        print(f"{library.name}: {origin[column]}" + (f" ({reason})" if reason else ""), flush=True)
    built = "built" not in origin.values() or build()
    faults = {column: reason for column in libraries if (reason := fault(column)) is not None}
    write("libraries", origin=origin, faults=faults, seconds=time.monotonic() - begin)
    for column, reason in faults.items():
        print(f"{column}: {reason}")
    print(", ".join(f"{column} {how}" for column, how in origin.items()) + f", {len(faults)} faults")
    return 0 if built and not faults else 1


if __name__ == "__main__":
    sys.exit(main())
