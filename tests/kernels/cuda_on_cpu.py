# SPDX-License-Identifier: Apache-2.0
"""Run the CUDA kernels on CPU tensors, as compiled by cuda_emulation.py: `make cuda`.

Usage::

    cuda_on_cpu.py battery             # runs the battery of tests against the reference
    cuda_on_cpu.py order               # checks the order of threads and blocks
    cuda_on_cpu.py shared [--update]   # compares shared memory with the table, or writes the table

`order` runs every sample under AddressSanitizer. It checks that no bit of a result depends on the order in which
threads and blocks run. It also checks that removing any one barrier, or any one wait for asynchronous copies, changes
results in another order.

This needs GCC on x86-64.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Cell, bits, invoke, outputs
from cuda_emulation import build, load
from sanitize import SANITIZERS, runtime
from sanitized import read, report, short, tight

from stylefast.ops import CONTRIBUTION, OPS, SOFT

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TABLE = HERE / "cuda_shared.json"
ADDRESS = SANITIZERS[0]
BATTERY = ("battery", "edge_cases", "assign_laws", "contribution_laws", "membership_laws", "blend_laws")
# Tests that `battery` leaves out: slow tests, tests that `order` covers, and tests that need only run for one backend,
# such as the registration of the ops.
OMITTED = (
    "same_bits or surroundings or large_layers or caches_hold or 210-200 or (exact_ties and squared) or compiles_once "
    "or (opcheck and not (bfloat16 or 5x7x1x1))"
)
# Names of samples that together need every barrier.
BARRIER_SAMPLES = (
    "f32-2x64x9x15|same-2x64x9x15|same-1x33x16x16|f32-3x5x3x7| float16|standardized$|resized-True|many-edits|planes-"
)
ORDERS = (1, 37)  # orders of threads and blocks besides the natural order: backwards, and shuffled
AMPERE, TINY = (2, 166912), (1, 20000)  # (processors, bytes of shared memory per block); few tiles fit into 20000 bytes


def battery(library: str, shard: str) -> int:
    load(library)
    files = [str(ROOT / "tests" / "ops" / f"test_{name}.py") for name in BATTERY]
    options = ["-q", "-p", "no:cacheprovider", "--require", "cuda", "--shard", shard]
    return pytest.main([*options, "-k", f"cuda and not ({OMITTED})", *files])


def samples() -> Iterator[tuple[str, Cell]]:
    """Yield every cell of the `cuda` backend, with every sample that is not large."""
    for op in (*OPS, *SOFT):
        for key in op.cells:
            for name, inputs in op.samples():
                if key.startswith("cuda") and next(iter(inputs.values())).numel() < 20_000:
                    yield f"{op.name} {key} {name}", Cell(op, key, inputs)


def result(cell: Cell) -> list[torch.Tensor]:
    """Return the bytes of a cell's outputs for its sample. The input tensors lie in memory of exactly their size."""
    return [bits(x) for x in outputs(invoke(cell, [tight(value) for value in cell.inputs.values()]))]


def barriers() -> Iterator[tuple[str, int]]:
    """Yield the file and the line of every barrier of the kernels, and of every wait for asynchronous copies."""
    for path in sorted((ROOT / "csrc" / "cuda").glob("*.cu*")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"__syncthreads\(\)|wait_for_copies<", line):
                yield path.name, number


class Orders:
    """Compares results in all orders of threads and blocks.

    Args:
        on_cpu: The library.
        cells: Cells with their samples.
    """

    def __init__(self, on_cpu: ctypes.CDLL, cells: dict[str, Cell]) -> None:
        self._on_cpu, self._cells = on_cpu, cells
        self._expected: dict[tuple[str, tuple[int, int]], list[torch.Tensor]] = {}  # in the natural order

    def compare(self, names: Iterable[str], *devices: tuple[int, int]) -> None:
        """Raise AssertionError if the bits of a result change with the order in which threads and blocks run.

        The result in the natural order is that of the first call for a sample and a device.
        """
        for device, name in product(devices, names):
            self._on_cpu.on_cpu_device(*device)
            if (name, device) not in self._expected:
                self._expected[name, device] = self._result(name, 0)
            for order in ORDERS:
                equal = map(torch.equal, self._result(name, order), self._expected[name, device])
                assert all(equal), f"{name}: other bits in order {order} on {device}"

    def _result(self, name: str, order: int) -> list[torch.Tensor]:
        self._on_cpu.on_cpu_order(order)
        return result(self._cells[name])


def shared(library: str, update: bool) -> None:
    """Compare the shared memory of the blocks that GPU workloads launch with tests/kernels/cuda_shared.json."""
    from gpu.workloads import GPU_WORKLOADS

    on_cpu, sizes = load(library), {}
    for name, device in {"sm_80": (108, 166912), "sm_90": (132, 232448), "sm_100": (148, 232448)}.items():
        on_cpu.on_cpu_device(*device)
        for workload in GPU_WORKLOADS:
            arguments = [unwritten(value) for value in workload.make("meta", 8).values()]
            on_cpu.on_cpu_largest()
            workload.op.cells["cuda"](*arguments)
            sizes[f"{name} {workload.op.name} {workload.name}"] = on_cpu.on_cpu_largest()
    if update:
        TABLE.write_text(json.dumps(sizes, indent=0) + "\n")
    expected = json.loads(TABLE.read_text())
    differences = [
        f"{launch}: the table says {expected.get(launch)} bytes, but the launch needs {size}"
        for launch, size in sizes.items()
        if expected.get(launch) != size
    ]
    assert not differences and len(sizes) == len(expected), "\n".join(differences)
    on_cpu.on_cpu_device(84, 99 << 10)  # sm_86: a launch that needs more raises
    for width, dtype in product((16, 64, 300, 5000), (torch.bfloat16, torch.float32, torch.float64)):
        for order, cells in product((torch.contiguous_format, torch.channels_last), (1, width // 2, 2 * width)):
            activations = torch.empty(1, 32, 4, width, dtype=dtype).to(memory_format=order)
            labels = torch.zeros(1, 8, cells, dtype=torch.int32)
            CONTRIBUTION.cells["cuda"](activations, labels, 8, True, "bilinear", False)
    print(f"{len(sizes)} launches need the shared memory that the table says")


def unwritten(value: Any) -> Any:
    """Return an unwritten CPU tensor like a tensor without data. It takes no memory until it is accessed."""
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)


def order(library: str) -> None:
    on_cpu = load(library)
    torch.set_num_threads(1)
    cells = dict(samples())
    barrier_cells = {name: cell for name, cell in cells.items() if re.search(BARRIER_SAMPLES, name)}
    orders = Orders(on_cpu, cells)
    orders.compare(cells, AMPERE)
    orders.compare(barrier_cells, TINY)

    def without(file: str, line: int) -> None:
        on_cpu.on_cpu_skip(file.encode(), line)
        unit = file.partition(".")[0]  # the samples of this op come first, because they probably differ
        names = sorted(barrier_cells, key=lambda name: not name.startswith(unit))
        try:
            orders.compare(names, AMPERE, TINY)
        except AssertionError as error:
            print(error, file=sys.stderr, flush=True)
            os.abort()

    needless = [barrier for barrier in barriers() if not report(partial(without, *barrier))]
    assert not needless, f"results do not change if these barriers or waits are removed: {needless}"
    for name, cell in barrier_cells.items():
        log = report(partial(read, cell, short))
        assert "AddressSanitizer" in log, f"{name}: a tensor that is too short is not reported: {log}"
    count = len(list(barriers()))
    print(f"{len(cells)} samples have the same bits in every order; all {count} barriers and waits are needed")


def main(check: str, *options: str) -> None:
    if check == "order":
        library = build("address", "-O0", *ADDRESS.flags.split())
        preload = " ".join(map(runtime, (ADDRESS.runtime, "libstdc++.so.6")))
        environment = {**os.environ, **ADDRESS.options, "LD_PRELOAD": preload, "OPENBLAS_NUM_THREADS": "1"}
        sys.exit(subprocess.run([sys.executable, __file__, "in", check, library], env=environment).returncode)
    library = build("plain", "-O2")
    if check == "shared":
        shared(str(library), "--update" in options)
    else:
        shards = [subprocess.Popen([sys.executable, __file__, "in", check, library, f"{i}/2"]) for i in (1, 2)]
        sys.exit(max(process.wait() for process in shards))


if __name__ == "__main__":
    if sys.argv[1:3] == ["in", "battery"]:
        sys.exit(battery(*sys.argv[3:]))
    elif sys.argv[1:3] == ["in", "order"]:
        order(sys.argv[3])
    else:
        main(*sys.argv[1:])
