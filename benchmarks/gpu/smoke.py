# SPDX-License-Identifier: Apache-2.0
"""Stage `smoke`: every op, dtype and GPU backend once against the reference. The sizes are those of the key timings
with fewer images, so this also compiles their Triton kernels.

python -m gpu.smoke --only "lloyd_step cuda" | --fault   # for a sanitizer: calls on odd sizes, nothing verified
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from verify import verify

from stylefast.ops import BLEND, CONTRIBUTION, OPS
from stylefast.ops.op import DTYPES, Op

from .device import backends, missing, start, write
from .isolated import Tally, deadline, run, serve
from .rehearsal import DEVICE, REHEARSAL, cuda
from .workloads import MAIN, NAMES, TARGETS, GpuWorkload

ODD = (2, 9, 3) if REHEARSAL else (3, 70, 13)  # N, C, H = W under a sanitizer
SIZE = (1 if REHEARSAL else 16, *MAIN[1:])
ROWS = {
    f"{op.name} {backend} {NAMES[dtype]}": (op, backend, dtype)
    for op in OPS
    for backend in ("cuda", "triton")
    for dtype in DTYPES
}


def arguments_of(op: Op, dtype: torch.dtype, size: tuple[int, int, int]) -> dict[str, Any]:
    if op is BLEND:
        return GpuWorkload(op, None, dtype).make(DEVICE, scale=TARGETS)  # one target
    return GpuWorkload(op, size, dtype, 32).make(DEVICE)


def measure(name: str) -> None:
    """Raises WrongResult unless one call agrees with the reference."""
    op, backend, dtype = ROWS[name]
    inputs = arguments_of(op, dtype, SIZE)
    verify(op, inputs, op.cells[backend](*inputs.values()))
    write("smoke", row=name)
    print(f"{name}: ok", flush=True)


def call(name: str) -> None:
    """Calls a row on odd sizes."""
    op, backend, dtype = ROWS[name]
    op.cells[backend](*arguments_of(op, dtype, ODD).values())
    cuda.synchronize()
    print(f"{name}: called", flush=True)


def fault() -> None:
    """Reads behind the end of a tensor: a sanitizer that works reports it."""
    inputs = arguments_of(CONTRIBUTION, torch.float32, ODD)
    storage = inputs["activations"].untyped_storage()
    storage.resize_(storage.nbytes() // 2)
    CONTRIBUTION.cells["cuda"](*inputs.values())
    cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help="call the rows that contain this regular expression, in this process")
    parser.add_argument("--fault", action="store_true", help="read behind the end of a tensor")
    parser.add_argument("--rows", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rows is not None:
        return serve(arguments.rows, measure)
    start()
    if arguments.fault:
        fault()
        return 0
    if arguments.only:
        for name in ROWS:
            if re.search(arguments.only, name):
                call(name)
        return 0
    return stage()


def stage() -> int:
    """Ops and backends side by side, each in a process of its own (in a rehearsal, backends alone)."""
    kinds = [f" {backend} " if REHEARSAL else f"{op.name} {backend} " for op in OPS for backend in backends()]
    groups = [[name for name in ROWS if kind in name] for kind in dict.fromkeys(kinds)]
    with ThreadPoolExecutor(min(len(groups), os.cpu_count() or 1) or 1) as pool:
        tally = sum(pool.map(partial(run, "gpu.smoke", until=deadline()), groups), Tally())
    print("\n".join([*missing(), str(tally)]))
    return 1 if tally.failed or tally.left or missing() else 0


if __name__ == "__main__":
    sys.exit(main())
