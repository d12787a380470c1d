# SPDX-License-Identifier: Apache-2.0
"""Compile every Triton kernel that a GPU workload launches, and check the resources that it needs. No GPU is needed.

`make triton-aot` fails if a kernel does not compile, if it has a fault such as a spill, or if the table
tests/kernels/triton_resources.json differs from the binaries. This command writes the table::

    PYTHONPATH=.:benchmarks python tests/kernels/triton_aot.py --update

The launchers run on tensors without data and with a fake driver. The kernels that they launch are only compiled.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import triton
from gpu.workloads import GPU_WORKLOADS, GpuWorkload
from tqdm import tqdm
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from stylefast.backends.triton import tiles

TABLE = Path(__file__).with_name("triton_resources.json")


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
MULTIPLYING = ("assign_kernel", "lloyd_kernel", "moments_kernel")
MATRIX = re.compile(r"\b(HMMA|HGMMA|UTCHMMA|UTCQMMA|v_mfma)[\w.]*")
WIDE_LOADS = re.compile(r"\b(LDG\.E\.\S*128\S*|LDGSTS\.\S*128\S*|(?:global|buffer)_load_dwordx4)\b")


@contextmanager
def pretend(device: Device) -> Iterator[list[tuple[str, Any]]]:
    """Compile launches for `device` instead of running them; yield the list to which they add (kernel, binary)."""
    properties = {"max_shared_mem": device.shared, "multiprocessor_count": device.processors}
    driver = SimpleNamespace(
        get_current_target=lambda: device.target,
        get_current_device=lambda: 0,
        get_current_stream=lambda index: 0,
        utils=SimpleNamespace(get_device_properties=lambda index: properties),
    )
    collected: list[tuple[str, Any]] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs["warmup"] = True
        collected.append((self.fn.__name__, run(self, *args, **kwargs)))

    tiles.device.cache_clear()
    try:
        with patch.object(triton.runtime.driver, "_active", driver), patch.object(JITFunction, "run", compile_only):
            yield collected
    finally:
        tiles.device.cache_clear()
        for kernel in list(_kernels()):
            kernel.device_caches.clear()  # keyed by device number, which all pretended devices share


def _kernels() -> Iterator[JITFunction]:
    for name in ("assign", "assign_contribution", "blend", "contribution", "lloyd_step", "moments", "tiles"):
        module = import_module(f"stylefast.backends.triton.{name}")
        yield from (value for value in vars(module).values() if isinstance(value, JITFunction))


def compiled(workload: GpuWorkload, device: Device) -> dict[str, Any]:
    """Return the kernels that the workload launches on the device, by name."""
    launch = import_module(f"stylefast.backends.triton.{workload.op.name}").launch
    with pretend(device) as collected:
        launch(*workload.make("meta").values())
    return dict(collected)


def needs(kernel: Any, device: Device) -> dict[str, int]:
    """Return registers per thread, bytes of shared memory, spills, matrix instructions and loads of 16 bytes.

    The number of registers is rounded up to a multiple of eight, because registers are allocated in groups of eight.
    Triton's passes for AMD order some operations by their addresses in memory, so the exact number differs by two
    between runs.
    """
    if device.target.backend == "hip":
        text = kernel.asm["amdgcn"]
        registers, spills = _field(text, r"\.vgpr_count:\s+(\d+)"), _field(text, r"\.vgpr_spill_count:\s+(\d+)")
    else:
        usage, text = _cuobjdump(kernel.asm["cubin"], "-res-usage"), _cuobjdump(kernel.asm["cubin"], "-sass")
        registers, spills = _field(usage, r"REG:(\d+)"), _field(usage, r"STACK:(\d+)") + _field(usage, r"LOCAL:(\d+)")
    return {
        "registers": -(-registers // 8) * 8,
        "shared": kernel.metadata.shared,
        "spills": spills,
        "matrix": len(MATRIX.findall(text)),
        "wide_loads": len(WIDE_LOADS.findall(text)),
    }


def _field(text: str, pattern: str) -> int:
    match = re.search(pattern, text)
    assert match is not None, f"{pattern} is not in the compiled kernel"
    return int(match[1])


def _cuobjdump(cubin: bytes, option: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, option, file.name], check=True, capture_output=True, text=True).stdout


def table() -> dict[str, dict[str, int]]:
    """Return the resources of every kernel on every device, by "device kernel of op workload".

    A kernel that several workloads launch is named after the first of them.
    """
    with ProcessPoolExecutor(min(len(DEVICES), os.cpu_count() or 1), get_context("spawn")) as pool:
        return {name: need for lines in pool.map(table_of, DEVICES) for name, need in lines.items()}


def table_of(name: str) -> dict[str, dict[str, int]]:
    """Return the part of the table for one device."""
    resources, seen, device = {}, set(), DEVICES[name]
    for workload in tqdm(GPU_WORKLOADS, desc=name, disable=None):
        for kernel, binary in compiled(workload, device).items():
            if binary.hash in seen:
                continue
            seen.add(binary.hash)
            resources[f"{name} {kernel} of {workload.op.name} {workload.name}"] = needs(binary, device)
    return resources


def faults(resources: dict[str, dict[str, int]]) -> list[str]:
    """Return the faults that can be found without the table.

    They are spills, too much shared memory, and missing matrix instructions or loads of 16 bytes.
    """
    messages = []
    for name, need in resources.items():
        device, kernel = name.split()[:2]
        if need["spills"] > 0:
            messages.append(f"{name}: spills {need['spills']} bytes (NVIDIA) or registers (AMD)")
        if need["shared"] > DEVICES[device].shared:
            messages.append(
                f"{name}: needs {need['shared']} bytes of shared memory, {device} has {DEVICES[device].shared}"
            )
        if kernel in MULTIPLYING and need["matrix"] == 0:
            messages.append(f"{name}: has no matrix instruction")
        if kernel != "split_kernel" and need["wide_loads"] == 0:
            messages.append(f"{name}: has no load of 16 bytes")
    return messages


def differences(resources: dict[str, dict[str, int]], expected: dict[str, dict[str, int]]) -> list[str]:
    """Return the differences between the kernels and the table."""
    names = [*resources, *(name for name in expected if name not in resources)]
    return [
        f"{name}: the table says {expected.get(name)}, found {resources.get(name)}"
        for name in names
        if resources.get(name) != expected.get(name)
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--update", action="store_true", help="Write the table.")
    update = parser.parse_args(arguments).update
    resources = table()
    messages = faults(resources)
    if update:
        lines = (f"{json.dumps(name)}: {json.dumps(need)}" for name, need in resources.items())
        TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    else:
        messages += differences(resources, json.loads(TABLE.read_text()))
    print("\n".join([*messages, f"{len(resources)} kernels compiled, {len(messages)} faults"]))
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
