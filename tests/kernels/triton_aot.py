# SPDX-License-Identifier: Apache-2.0
"""Compile every Triton kernel that a workload launches, and check the resources that it needs. No GPU is needed.

`make triton-aot` fails if a kernel does not compile, if it has a fault such as a spill, if the table
tests/kernels/triton_resources.json differs from the binaries, or if a prediction of benchmarks/roofline.py differs from
tests/kernels/triton_predictions.json. This command writes both files::

    PYTHONPATH=.:benchmarks python tests/kernels/triton_aot.py --update

The launchers run on tensors without data and with a fake driver. The kernels that they launch are only compiled.

The table also holds the work of every launch per element of the activations (`work.py`). Trip counts come from the
intermediate code of Triton and the arguments of the launch (`program.py`), and instructions from the machine code
(`listing.py`). Two rules concern those who change a kernel: a loop that the compiler unrolls completely is an error
(write it with `tl.static_range`), and a branch on data counts as not taken (`program.TAKEN` holds other shares).

To tune one kernel, compile for some devices and workloads only, and print their predictions::

    PYTHONPATH=.:benchmarks python tests/kernels/triton_aot.py --only "sm_90 lloyd_step 4096x512x32x32 bfloat16 K=32"
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import roofline
import triton
from gpu.workloads import GPU_WORKLOADS, GpuWorkload
from layers import LAYER_WORKLOADS, LayerWorkload
from tqdm import tqdm
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction
from work import Launch, work

from stylefast.backends.triton import tiles

TABLE = Path(__file__).with_name("triton_resources.json")
Row = Mapping[str, float]
Workload = GpuWorkload | LayerWorkload
WORKLOADS: tuple[Workload, ...] = (*GPU_WORKLOADS, *LAYER_WORKLOADS)


class Device(NamedTuple):
    """A GPU to compile for: the target, the bytes of shared memory that a program can have, and its processors."""

    target: GPUTarget
    shared: int
    processors: int


DEVICES = {
    "sm_80": Device(GPUTarget("cuda", 80, 32), 166_912, 108),
    "sm_90": Device(GPUTarget("cuda", 90, 32), 232_448, 132),
    "sm_100": Device(GPUTarget("cuda", 100, 32), 232_448, 148),
    "gfx942": Device(GPUTarget("hip", "gfx942", 64), 65_536, 304),
}
MULTIPLYING = ("assign_kernel", "lloyd_kernel", "moments_kernel", "soft_kernel", "streamed_kernel", "sum_kernel")
# Bytes that a kernel may spill. They hold addresses and offsets, which are loaded again from the L1 cache.
SPILLS = {
    "sm_80 assign_kernel": 16,
    "sm_80 lloyd_kernel": 224,
    "sm_90 lloyd_kernel": 208,
    "sm_100 lloyd_kernel": 64,
    "sm_100 pool_kernel": 16,
}
MATRIX = re.compile(r"\b(HMMA|HGMMA|UTCHMMA|UTCQMMA|v_mfma)[\w.]*")
WIDE_LOADS = re.compile(r"\b(LDG\.E\.\S*128\S*|LDGSTS\.\S*128\S*|(?:global|buffer)_load_dwordx4)\b")


@contextmanager
def pretend(device: Device) -> Iterator[list[Launch]]:
    """Compile launches for `device` instead of running them; yield the list to which they are added."""
    properties = {"max_shared_mem": device.shared, "multiprocessor_count": device.processors}
    driver = SimpleNamespace(
        get_current_target=lambda: device.target,
        get_current_device=lambda: 0,
        get_current_stream=lambda index: 0,
        utils=SimpleNamespace(get_device_properties=lambda index: properties),
    )
    collected: list[Launch] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: tuple[int, ...], **kwargs: Any) -> None:
        binary = run(self, *args, grid=grid, **{**kwargs, "warmup": True})
        named = {name: value for name, value in kwargs.items() if name in self.arg_names}
        arguments = self.signature.bind(*args, **named).arguments
        collected.append(Launch(self.fn.__name__, binary, arguments, grid))

    tiles.device.cache_clear()
    try:
        with patch.object(triton.runtime.driver, "_active", driver), patch.object(JITFunction, "run", compile_only):
            yield collected
    finally:
        tiles.device.cache_clear()
        for kernel in list(_kernels()):
            kernel.device_caches.clear()  # keyed by device number, which all pretended devices share


def _kernels() -> Iterator[JITFunction]:
    for path in sorted(Path(tiles.__file__).parent.glob("[a-z]*.py")):
        module = import_module(f"stylefast.backends.triton.{path.stem}")
        yield from (value for value in vars(module).values() if isinstance(value, JITFunction))


def launched(workload: Workload, device: Device) -> list[Launch]:
    """Return the launches of the workload on the device."""
    launch = import_module(f"stylefast.backends.triton.{workload.op.name}").launch
    with pretend(device) as collected:
        launch(*workload.make("meta").values())
    return collected


def _elements(workload: Workload) -> int:
    if isinstance(workload, LayerWorkload):
        return workload.elements
    return roofline.sizes()[f"{workload.op.name} {workload.name}"].elements


def needs(kernel: Any, code: str) -> dict[str, int]:
    """Return registers per thread, bytes of shared memory, spills, matrix instructions and loads of 16 bytes.

    The number of registers is rounded up to a multiple of eight, because registers are allocated in groups of eight.
    Triton's passes for AMD order some operations by their addresses in memory, so the exact number differs by two
    between runs.
    """
    if "amdgcn" in kernel.asm:
        registers, spills = _field(code, r"\.vgpr_count:\s+(\d+)"), _field(code, r"\.vgpr_spill_count:\s+(\d+)")
    else:
        usage = _disassembled(kernel.asm["cubin"], "cuobjdump", "-res-usage")
        registers, spills = _field(usage, r"REG:(\d+)"), _field(usage, r"STACK:(\d+)") + _field(usage, r"LOCAL:(\d+)")
    return {
        "registers": -(-registers // 8) * 8,
        "shared": kernel.metadata.shared,
        "spills": spills,
        "matrix": len(MATRIX.findall(code)),
        "wide_loads": len(WIDE_LOADS.findall(code)),
    }


def _field(text: str, pattern: str) -> int:
    match = re.search(pattern, text)
    assert match is not None, f"{pattern} is not in the compiled kernel"
    return int(match[1])


def machine_code(kernel: Any) -> str:
    """Return the machine code of a kernel, with source lines."""
    return kernel.asm.get("amdgcn") or _disassembled(kernel.asm["cubin"], "nvdisasm", "-gi", "-c")


@cache  # a binary serves several workloads
def _disassembled(cubin: bytes, tool: str, *options: str) -> str:
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([path, *options, file.name], check=True, capture_output=True, text=True).stdout


def table(only: str = "") -> dict[str, Row]:
    """Return what every launch needs on every device, by "device kernel of op workload".

    The second launch of a kernel in a call is "kernel#2".

    Args:
        only: Compile only for calls "device op workload" that contain this text.
    """
    devices = [name for name in DEVICES if _chosen(name, only)]
    # Forked processes need not import torch and Triton again.
    with ProcessPoolExecutor(min(len(devices), os.cpu_count() or 1), get_context("fork")) as pool:
        parts = pool.map(table_of, devices, [only] * len(devices))
        return {name: row for part in parts for name, row in part.items()}


def _chosen(device: str, only: str, workloads: Sequence[Workload] = WORKLOADS) -> list[Workload]:
    return [workload for workload in workloads if only in f"{device} {workload.op.name} {workload.name}"]


def table_of(name: str, only: str = "", workloads: Sequence[Workload] = WORKLOADS) -> dict[str, Row]:
    """Return the part of the table for one device."""
    rows: dict[str, Row] = {}
    for workload in tqdm(_chosen(name, only, workloads), desc=name, disable=None):
        elements, launches = _elements(workload), Counter()
        for launch in launched(workload, DEVICES[name]):
            code = machine_code(launch.binary)
            end, count = f" of {workload.op.name} {workload.name}", launches[launch.kernel]
            launches[launch.kernel] += 1
            key = f"{name} {launch.kernel}{f'#{count + 1}' if count else ''}{end}"
            try:
                rows[key] = {**needs(launch.binary, code), **work(launch, code, name, elements)}
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
    return rows


def faults(resources: Mapping[str, Row]) -> list[str]:
    """Return the faults that can be found without the table.

    They are spills, too much shared memory, and missing matrix instructions or loads of 16 bytes.
    """
    messages = []
    for name, need in resources.items():
        device, kernel = name.partition("#")[0].split()[:2]
        if need["spills"] > SPILLS.get(f"{device} {kernel}", 0):
            messages.append(f"{name}: spills {need['spills']} bytes (NVIDIA) or registers (AMD)")
        if need["shared"] > DEVICES[device].shared:
            messages.append(
                f"{name}: needs {need['shared']} bytes of shared memory, {device} has {DEVICES[device].shared}"
            )
        if kernel in MULTIPLYING and need["matrix"] == 0:
            messages.append(f"{name}: has no matrix instruction")
        if kernel not in ("split_kernel", "split_rows_kernel") and need["wide_loads"] == 0:
            messages.append(f"{name}: has no load of 16 bytes")
    return messages


def differences(resources: Mapping[str, Row], expected: Mapping[str, Row]) -> list[str]:
    """Return the differences between the kernels and the table. Fractions may differ by 2 %."""
    names = [*resources, *(name for name in expected if name not in resources)]
    return [
        f"{name}: the table says {expected.get(name)}, found {resources.get(name)}"
        for name in names
        if not _same(resources.get(name, {}), expected.get(name, {}))
    ]


def _same(row: Row, expected: Row) -> bool:
    return row.keys() == expected.keys() and all(
        abs(row[name] - value) <= (0.02 * value if isinstance(value, float) else 0) for name, value in expected.items()
    )


def write(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a table with one line per row."""
    path.write_text(
        "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()) + "\n}\n"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--update", action="store_true", help="Write the table and the predictions.")
    parser.add_argument("--only", default="", help='Print the rows of the calls "device op workload" with this text.')
    options = parser.parse_args(arguments)
    resources = table(options.only)
    messages, predictions = faults(resources), roofline.predictions(resources)
    if options.only:
        messages += [f"{name}: {row}" for name, row in {**resources, **predictions}.items()]
        print("\n".join(messages))
        return 0
    if options.update:
        write(TABLE, resources)
        write(roofline.PREDICTIONS, predictions)
    else:
        messages += differences(resources, json.loads(TABLE.read_text()))
        messages += roofline.changes(predictions, json.loads(roofline.PREDICTIONS.read_text()))
    print("\n".join([*messages, f"{len(resources)} kernels compiled, {len(messages)} faults"]))
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
