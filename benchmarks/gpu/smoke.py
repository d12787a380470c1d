# SPDX-License-Identifier: Apache-2.0
"""Stage `smoke`: call every op once per dtype and GPU backend, and compare the results with the reference.

The stage also compiles the Triton kernels of the stage `key`, in several processes at the same time.

The stage `sanitizers` runs the following commands, which call ops on odd sizes without verifying the results::

    python -m gpu.smoke --only "lloyd_step cuda"
    python -m gpu.smoke --fault
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import environment
import torch
from verify import verify

from stylefast.ops import BLEND, CONTRIBUTION, OPS, SOFT
from stylefast.ops.op import Op

from .device import backends, missing, start, write
from .isolated import Tally, deadline, run, serve
from .rehearsal import DEVICE, REHEARSAL, cuda
from .statuses import CUT
from .timings import plan
from .workloads import MAIN, NAMES, TARGETS, GpuWorkload

ODD = ((2, 9, 3),) if REHEARSAL else ((3, 70, 13), (270, 70, 5))  # N, C, H = W for sanitizers: few and many images
ROWS = {
    f"{op.name} {backend} {NAMES[dtype]}": (op, backend, dtype)
    for op in (*OPS, *SOFT)
    for backend in ("cuda", "triton")
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)
}


def arguments_of(op: Op, dtype: torch.dtype, size: tuple[int, int, int]) -> dict[str, Any]:
    if op is BLEND:
        return GpuWorkload(op, None, dtype).make(DEVICE, scale=TARGETS)  # one target
    return GpuWorkload(op, size, dtype, 32).make(DEVICE)


def measure(name: str) -> None:
    """Raise WrongResult unless one call agrees with the reference."""
    op, backend, dtype = ROWS[name]
    inputs = arguments_of(op, dtype, (images(), *MAIN[1:]))
    verify(op, inputs, op.cells[backend](*inputs.values()))
    write("smoke", row=name)
    print(f"{name}: ok", flush=True)


def images() -> int:
    """Return a number of images for which the same kernels run as in the timings.

    It is larger than the number of multiprocessors, because kernels divide fewer images differently. It is a multiple
    of 16, because Triton compiles different kernels for other numbers.
    """
    processors = cuda.get_device_properties(0).multi_processor_count
    return 1 if REHEARSAL else 16 * (1 + processors // 16)


def call(name: str) -> None:
    """Call the op of a row on odd sizes."""
    op, backend, dtype = ROWS[name]
    for size in ODD:
        op.cells[backend](*arguments_of(op, dtype, size).values())
    cuda.synchronize()
    print(f"{name}: called", flush=True)


def fault() -> None:
    """Read past the end of a tensor, which a sanitizer must report."""
    inputs = arguments_of(CONTRIBUTION, torch.float32, ODD[0])
    storage = inputs["activations"].untyped_storage()
    storage.resize_(storage.nbytes() // 2)
    CONTRIBUTION.cells["cuda"](*inputs.values())
    cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help="Call the rows whose name matches this regular expression.")
    parser.add_argument("--fault", action="store_true", help="Read past the end of a tensor.")
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
    """Run all groups of rows at the same time; return the exit status."""
    with ThreadPoolExecutor(len(environment.CPUS) or os.cpu_count() or 1) as pool:
        tally = sum(pool.map(lambda group: run(*group, deadline()), groups()), Tally())
    print("\n".join([*missing(), str(tally)]))
    if tally.failed or missing():
        return 1
    return CUT if tally.left else 0


def groups() -> Iterator[tuple[str, list[str]]]:
    """Yield the module and the rows of each process: one for all CUDA kernels, and one per row that Triton compiles."""
    if "cuda" in backends():
        yield "gpu.smoke", [name for name in ROWS if " cuda " in name]
    if "triton" in backends():
        compiled = {"gpu.smoke": [name for name in ROWS if " triton " in name], "gpu.timings": list(plan("compile"))}
        for module, names in compiled.items():
            yield from [(module, names)] if REHEARSAL else ((module, [name]) for name in names)


if __name__ == "__main__":
    sys.exit(main())
