# SPDX-License-Identifier: Apache-2.0
"""Stage `libraries`: keep libraries that were built from these sources and work here, and build the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable

from provenance import ROOT

from stylefast.backends.native import CPU_LIBRARY, CUDA_LIBRARY

from .device import is_current, start, write
from .rehearsal import REHEARSAL, cuda

LIBRARIES = {"cpu": CPU_LIBRARY, "cuda": CUDA_LIBRARY}
CHECK = """
import json, torch, stylefast
from stylefast.backends import available
faults = {}
for column in ("cpu", "cuda"):
    try:
        assert available()[column] is None, available()[column]
        x = torch.arange(64.0, device=column).view(1, 4, 4, 4)
        labels = stylefast.assign(x, torch.eye(4, device=column), backend=column).labels
        assert labels.unique().tolist() == [3], f"wrong labels {labels.unique().tolist()}"
    except Exception as error:
        faults[column] = str(error)
print(json.dumps(faults))
"""


def faults() -> dict[str, str]:
    """Return the backends whose library does not work here, each with the reason."""
    process = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True)
    try:
        reasons = json.loads(process.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return dict.fromkeys(LIBRARIES, f"status {process.returncode}: {process.stderr.strip()[-500:]}")
    if REHEARSAL:  # without a GPU it is enough that the library was built
        reasons.pop("cuda")
        reasons |= {} if CUDA_LIBRARY.exists() else {"cuda": "it does not exist"}
    return reasons


def build(columns: Iterable[str]) -> bool:
    """Build libraries in place for this device; return whether that succeeded."""
    major, minor = cuda.get_device_capability()
    variables = {f"STYLEFAST_{column.upper()}": str(int(column in columns)) for column in ("cpu", "cuda")}
    variables |= {"TORCH_CUDA_ARCH_LIST": f"{major}.{minor}{'a' if major >= 9 else ''}"}
    if REHEARSAL:  # CI compiles without warnings against the oldest torch
        variables |= {"CXXFLAGS": "-Werror", "NVCC_APPEND_FLAGS": "-Werror=all-warnings -Xcompiler=-Werror"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | variables).returncode == 0


def main() -> int:
    if REHEARSAL:
        import cuda_emulation

        cuda_emulation.build("plain", "-O2")
    start()
    begin = time.monotonic()
    stale = [column for column, library in LIBRARIES.items() if not is_current(column, library)]
    reasons = dict.fromkeys(stale, "not built from these sources") or faults()
    origin = "built" if reasons else "carried"
    if reasons:
        print(f"building libraries here: {reasons}", flush=True)
        for column in reasons:
            LIBRARIES[column].unlink(missing_ok=True)  # so that no later stage uses it if the build fails
        reasons = faults() if build(reasons) else dict.fromkeys(reasons, "the build failed")
    write("libraries", origin=origin, faults=reasons, seconds=time.monotonic() - begin)
    print(f"libraries {origin}, faults: {reasons or 'none'}")
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
