# SPDX-License-Identifier: Apache-2.0
"""The checks that tests/kernels/sanitize.py runs in a process with a sanitizer.

The sanitizer must report planted faults. It must report nothing for every sample of the battery, in memory that begins
with the first element of a tensor and ends with its last one, and nothing for large sizes.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import agreement
import pytest
import torch
from cells import Cell, invoke
from torch import Tensor

from stylefast.backends import native
from stylefast.ops import LAYERS, OPS, SOFT, STEPS

EDGES = "many_clusters or large_layers or outside or caches"  # tests of test_edge_cases.py
SIZES = "all_sizes or sequence or many_components"  # tests of test_membership_laws.py and test_nmf_step.py
THREADS = {"address": (1, 2), "thread": (2,)}  # of the calls under each sanitizer: one thread has no race
FILES = ("test_edge_cases.py", "test_membership_laws.py", "test_nmf_step.py", "test_pruned_step.py")
STEPS_IN_SEQUENCE = "keep_the_bits"  # tests of test_pruned_step.py, because no sample has a former step


def tight(value: Any) -> Any:
    """Return a copy of a tensor with its strides, in memory of exactly its size; return other values as they are."""
    if not isinstance(value, Tensor):
        return value
    size = 1 + sum((n - 1) * stride for n, stride in zip(value.shape, value.stride(), strict=True))
    return value.new_empty(size if value.numel() else 0).as_strided(value.shape, value.stride()).copy_(value)


def contiguous(tensor: Tensor) -> Tensor:
    """Return a contiguous copy in memory of exactly its size."""
    return tight(tensor.contiguous())


def placements(cell: Cell) -> list[Callable[[Tensor], Tensor]]:
    """Return the ways to copy the first tensor of a cell. A contiguous tensor has only one."""
    return [tight] if next(iter(cell.inputs.values())).is_contiguous() else [tight, contiguous]


def short(tensor: Tensor) -> Tensor:
    """Return a contiguous copy whose last element lies behind the end of its memory."""
    copy = contiguous(tensor)
    copy.untyped_storage().resize_(copy.untyped_storage().nbytes() - copy.itemsize)
    return copy


def misaligned(tensor: Tensor) -> Tensor:
    """Return ones in the shape of a tensor, at addresses that are not multiples of the element size."""
    return torch.frombuffer(bytearray(tensor.nbytes + 1), dtype=tensor.dtype, offset=1).view(tensor.shape).fill_(1)


def read(cell: Cell, place: Callable[[Tensor], Tensor] = tight) -> None:
    """Call a cell on its sample; `place` copies its first tensor."""
    first, *rest = cell.inputs.values()
    invoke(cell, [place(first), *map(tight, rest)])


def write(cell: Cell, place: Callable[[Tensor], Tensor]) -> None:
    """Call an `.out` cell on its sample; `place` copies `out`."""
    placed = [tight(value) for value in cell.inputs.values()]
    cell.op.cells[cell.key](*placed, out=place(cell.op.fake(*placed)))


def overwrite(cell: Cell) -> None:
    """Call an `.out` cell on its sample. The first tensor is the last rows of `out`, which is a race."""
    first, *rest = map(tight, cell.inputs.values())
    out = cell.op.fake(first, *rest)
    cell.op.cells[cell.key](out[-len(first) :], *rest, out=out)


def cells() -> Iterator[tuple[str, dict[str, Cell]]]:
    """Yield every cell of the `cpu` backend, with all samples."""
    for op in (*OPS, *SOFT, *STEPS, *LAYERS):
        for key in op.cells:
            if key.startswith("cpu"):
                yield f"{op.name} {key}", {name: Cell(op, key, inputs) for name, inputs in op.samples()}


def faults(sanitizer: str) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """Yield the name of a cell, the message that the sanitizer must report, and a call with a planted fault."""
    for name, samples in cells():
        first = next(iter(samples.values()))
        by_size = sorted((cell for cell in samples.values() if elements(cell)), key=elements)
        if sanitizer == "address":
            yield name, "AddressSanitizer", partial(read, first, short)
            yield name, "misaligned address", partial(read, by_size[0], misaligned)
        if name.endswith(".out"):
            fault = partial(write, first, short) if sanitizer == "address" else partial(overwrite, by_size[-1])
            yield name, "AddressSanitizer" if sanitizer == "address" else "data race", fault


def elements(cell: Cell) -> int:
    return next(iter(cell.inputs.values())).numel()


def report(call: Callable[[], None]) -> str:
    """Make a call in another process; return its log if the sanitizer ends the process, otherwise an empty string."""
    with tempfile.TemporaryFile() as log:
        process = os.fork()
        if process == 0:
            os.dup2(log.fileno(), sys.stderr.fileno())
            torch.set_num_threads(2)
            try:
                call()
            finally:
                os._exit(0)
        status = os.waitpid(process, 0)[1]
        log.seek(0)
        return log.read().decode() if status != 0 else ""


def main(sanitizer: str, library: str) -> None:
    native.CPU_LIBRARY = Path(library)
    native.instruction_set()
    torch.set_num_threads(1)  # no thread may exist before the last fork
    planted = 0
    for name, expected, call in faults(sanitizer):
        log = report(call)
        assert expected in log, f"{name}: a planted {expected} is not reported: {log}"
        planted += 1
    calls = 0
    for threads in THREADS[sanitizer]:
        torch.set_num_threads(threads)
        for name, samples in cells():
            for sample, cell in samples.items():
                print(f"{name}: {sample}, {threads} threads", file=sys.stderr)
                for place in placements(cell):
                    read(cell, place)
                    calls += 1
    agreement.agree = lambda *_, **__: None  # `make test` compares the results; their reference takes most of the time
    files = [str(Path(__file__).parents[1] / "ops" / name) for name in FILES]
    chosen = f"cpu and ({EDGES} or {SIZES}) or {STEPS_IN_SEQUENCE}"
    assert pytest.main(["-qs", "-p", "no:cacheprovider", *files, "-k", chosen]) == 0
    print(f"{planted} planted faults reported; no fault in {calls} calls and the tests {chosen}")


if __name__ == "__main__":
    main(*sys.argv[1:])
