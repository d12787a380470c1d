# SPDX-License-Identifier: Apache-2.0
"""What tests/sanitize.py runs in a process with a sanitizer: planted faults, which it must report; then every sample of
the battery, on memory that begins with a tensor's first element and ends with its last, and sizes past all borders.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Cell, invoke
from torch import Tensor

from stylefast.backends import native
from stylefast.ops import OPS

EDGES = "many_clusters or large_layers or outside or caches"  # tests of test_edge_cases.py


def tight(value: Any) -> Any:
    """A copy of a tensor, with its strides, on no more memory than it looks into."""
    if not isinstance(value, Tensor):
        return value
    size = 1 + sum((n - 1) * stride for n, stride in zip(value.shape, value.stride(), strict=True))
    return value.new_empty(size if value.numel() else 0).as_strided(value.shape, value.stride()).copy_(value)


def contiguous(tensor: Tensor) -> Tensor:
    """A contiguous copy, on no more memory than it looks into."""
    return tight(tensor.contiguous())


def short(tensor: Tensor) -> Tensor:
    """A contiguous copy whose last element lies behind the end of its memory."""
    copy = contiguous(tensor)
    copy.untyped_storage().resize_(copy.untyped_storage().nbytes() - copy.itemsize)
    return copy


def misaligned(tensor: Tensor) -> Tensor:
    """Ones in its shape, whose addresses are no multiples of their size."""
    return torch.frombuffer(bytearray(tensor.nbytes + 1), dtype=tensor.dtype, offset=1).view(tensor.shape).fill_(1)


def read(cell: Cell, place: Callable[[Tensor], Tensor] = tight) -> None:
    """Calls a cell on its sample, the first tensor of it placed as told."""
    first, *others = cell.inputs.values()
    invoke(cell, [place(first), *map(tight, others)])


def write(cell: Cell, place: Callable[[Tensor], Tensor]) -> None:
    """Calls an `.out` cell on its sample, with `out` placed as told."""
    placed = [tight(value) for value in cell.inputs.values()]
    cell.op.cells[cell.key](*placed, out=place(cell.op.fake(*placed)))


def overwrite(cell: Cell) -> None:
    """Calls an `.out` cell on its sample, where the last rows of `out` are the first tensor."""
    first, *others = map(tight, cell.inputs.values())
    out = cell.op.fake(first, *others)
    cell.op.cells[cell.key](out[-len(first) :], *others, out=out)


def cells() -> Iterator[tuple[str, dict[str, Cell]]]:
    """Every cell of the compiled kernels, with all samples."""
    for op in OPS:
        for key in op.cells:
            if key.startswith("cpu"):
                yield f"{op.name} {key}", {name: Cell(op, key, inputs) for name, inputs in op.samples()}


def faults(sanitizer: str) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """The name of a cell, what must be reported, and a call of which it must be."""
    for name, samples in cells():
        given = list(samples.values())
        by_size = sorted((cell for cell in given if elements(cell)), key=elements)
        if sanitizer == "address":
            yield name, "AddressSanitizer", partial(read, given[0], short)
            yield name, "misaligned address", partial(read, by_size[0], misaligned)
        if name.endswith(".out"):
            fault = partial(write, given[0], short) if sanitizer == "address" else partial(overwrite, by_size[-1])
            yield name, "AddressSanitizer" if sanitizer == "address" else "data race", fault


def elements(cell: Cell) -> int:
    return next(iter(cell.inputs.values())).numel()


def report(call: Callable[[], None]) -> str:
    """What the sanitizer says when it ends a process that makes this call; empty if the process lives."""
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
    torch.set_num_threads(1)  # no thread before the last fork
    planted = 0
    for name, expected, call in faults(sanitizer):
        found = report(call)
        assert expected in found, f"{name}: a planted {expected} is not reported: {found}"
        planted += 1
    calls = 0
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name, samples in cells():
            for sample, cell in samples.items():
                print(f"{name}: {sample}, {threads} threads", file=sys.stderr)
                for place in (tight, contiguous):
                    read(cell, place)
                    calls += 1
    edges = str(Path(__file__).parents[1] / "ops" / "test_edge_cases.py")
    assert pytest.main(["-qs", "-p", "no:cacheprovider", edges, "-k", f"cpu and ({EDGES})"]) == 0
    print(f"{planted} planted faults reported; {calls} calls and {EDGES} clean")


if __name__ == "__main__":
    main(*sys.argv[1:])
