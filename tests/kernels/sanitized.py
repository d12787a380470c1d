# SPDX-License-Identifier: Apache-2.0
"""The checks that tests/kernels/sanitize.py runs in a process with a sanitizer.

The sanitizer must report planted faults. It must report nothing for every sample of the battery, in memory that begins
with the first element of a tensor and ends with its last one, and nothing for large sizes. Imports, samples and symbols
take as long as the calls do, so they are loaded once, and one process per instruction set is forked.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import agreement
import pytest
import torch
from cells import Cell, invoke
from sanitize import runtime
from torch import Tensor

from stylefast.backends import native
from stylefast.ops import LAYERS, OPS, SOFT, STEPS

EDGES = "many_clusters or large_layers or outside or caches"  # tests of test_edge_cases.py
SIZES = "all_sizes or sequence or many_components"  # tests of test_membership_laws.py and test_nmf_step.py
THREADS = {"address": (1, 2), "thread": (2,)}  # of the calls under each sanitizer: one thread has no race
OPS_TESTS = Path(__file__).parents[1] / "ops"
FILES = ("test_edge_cases.py", "test_membership_laws.py", "test_nmf_step.py", "test_pruned_step.py")
# Tests of test_pruned_step.py, because no sample has a former step. One seed is enough: the other seeds take the same
# code paths.
STEPS_IN_SEQUENCE = "keep_the_bits and not (-1- or -2- or -3-)"


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


Cells = dict[str, dict[str, Cell]]


def cells() -> Cells:
    """Return the samples of every cell of the `cpu` backend."""
    return {
        f"{op.name} {key}": {name: Cell(op, key, inputs) for name, inputs in op.samples()}
        for op in (*OPS, *SOFT, *STEPS, *LAYERS)
        for key in op.cells
        if key.startswith("cpu")
    }


def faults(sanitizer: str, cells: Cells) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """Yield the name of a cell, the message that the sanitizer must report, and a call with a planted fault."""
    for name, samples in cells.items():
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


def check(sanitizer: str, cells: Cells, isa: str) -> None:
    """Run all checks on one instruction set, and print what was checked."""
    begin = time.monotonic()
    os.environ["STYLEFAST_ISA"] = isa
    try:
        assert native.instruction_set() == isa
    except RuntimeError as error:
        if f"STYLEFAST_ISA is {isa}, which this processor lacks" not in str(error):
            raise
        print(f"{sanitizer}, {isa}: this processor lacks it")
        return
    planted = 0
    for name, expected, call in faults(sanitizer, cells):
        log = report(call)
        assert expected in log, f"{name}: a planted {expected} is not reported: {log}"
        planted += 1
    calls = 0
    for threads in THREADS[sanitizer]:
        torch.set_num_threads(threads)
        for name, samples in cells.items():
            for sample, cell in samples.items():
                print(f"{name}: {sample}, {threads} threads", file=sys.stderr)
                for place in placements(cell):
                    read(cell, place)
                    calls += 1
    files = [str(OPS_TESTS / name) for name in FILES]
    chosen = f"cpu and ({EDGES} or {SIZES}) or {STEPS_IN_SEQUENCE}"
    # conftest.py imports more than the tests, and poisons memory, which only the comparisons of results notice.
    assert pytest.main(["-qs", "--noconftest", "-p", "no:cacheprovider", *files, "-k", chosen]) == 0
    done = f"{planted} planted faults reported; no fault in {calls} calls and the tests {chosen}"
    print(f"{sanitizer}, {isa}: {done} ({time.monotonic() - begin:.0f} s)")


def start(call: Callable[[], None], log: Path) -> int:
    """Make a call in another process, which writes its output to a log; return the id of the process."""
    with log.open("wb") as file:
        process = os.fork()
        if process == 0:
            status = 1
            os.dup2(file.fileno(), sys.stdout.fileno())
            os.dup2(file.fileno(), sys.stderr.fileno())
            try:
                call()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
    return process


def load(library: str) -> Cells:
    """Load everything that all instruction sets need; return the samples of every cell."""
    native.CPU_LIBRARY = Path(library)
    assert (reason := native.cpu_reason()) is None, reason
    torch.set_num_threads(1)  # no thread may exist before the last fork
    # `make test` compares the results. Their references take most of the time.
    agreement.agree = lambda *_, **__: None
    for name in FILES:
        module = import_module(name.removesuffix(".py"))
        if hasattr(module, "assert_same"):
            vars(module)["assert_same"] = agreement.agree
    return cells()


def load_symbols() -> None:
    """Look up a symbol in every runtime, so that the processes of `report` need not read all symbols again."""
    text = ctypes.create_string_buffer(100)
    for name in ("libasan.so", "libubsan.so"):
        symbolize = ctypes.CDLL(runtime(name)).__sanitizer_symbolize_pc
        symbolize(ctypes.cast(symbolize, ctypes.c_void_p), b"%f", text, ctypes.c_size_t(len(text)))


def with_lines(log: str, library: str) -> str:
    """Append the source line to every stack frame in a library, because the runtimes do not find all of them."""

    def located(frame: re.Match[str]) -> str:
        return f"{frame[0]} {subprocess.check_output(['addr2line', '-e', library, frame[1]], text=True).strip()}"

    return re.sub(rf"{re.escape(Path(library).name)}\+(0x[0-9a-f]+)\)", located, log)


def main(sanitizer: str, library: str, *sets: str) -> None:
    every = load(library)
    if sanitizer == "address":
        load_symbols()
    logs, remaining, running, is_clean = Path(library).parent, list(sets), {}, True
    while remaining or running:
        if remaining and len(running) < (os.cpu_count() or 1):
            isa = remaining.pop(0)
            running[start(partial(check, sanitizer, every, isa), logs / f"{isa}.log")] = isa
            continue
        process, status = os.wait()
        isa = running.pop(process)
        log = (logs / f"{isa}.log").read_text(errors="replace")
        if status == 0:
            print(log.splitlines()[-1], flush=True)
        else:
            is_clean = False
            print(f"{with_lines(log, library)}\n{sanitizer} sanitizer, {isa}: not clean", flush=True)
    sys.exit(not is_clean)


if __name__ == "__main__":
    main(*sys.argv[1:])
