# SPDX-License-Identifier: Apache-2.0
"""The GPU that is measured: its properties, the backends that can run on it, and a timer for calls."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import environment  # noqa: F401
import torch
from provenance import ROOT, context, now
from timing import percentile

from stylefast.backends import available
from stylefast.backends.native import CUDA_LIBRARY

from .rehearsal import DEVICE, REHEARSAL, cuda, fill_cuda_column
from .statuses import NO_GPU

COPY = 1 << (12 if REHEARSAL else 30)  # bytes
FLUSH = 1 << (12 if REHEARSAL else 28)  # bytes, at least twice the largest L2 cache
CYCLES = 2_000_000  # about 1 ms, during which the GPU sleeps and the host launches
MAX_CYCLES = 64 * CYCLES
SMI = ("name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit")


def start() -> None:
    """Exit with status NO_GPU if torch has no GPU; prepare a rehearsal if this is one."""
    if not cuda.is_available():
        print("make gpu needs an NVIDIA GPU that torch can use")
        raise SystemExit(NO_GPU)
    fill_cuda_column()


def backends() -> list[str]:
    """Return the GPU backends that can run here."""
    return [name for name in ("cuda", "triton") if name not in unfit()]


def missing() -> list[str]:
    """Return the reasons why the other GPU backends cannot run here."""
    return list(unfit().values())


@cache
def unfit() -> dict[str, str]:
    """Return the GPU backends that cannot run here or must not be timed, each with the reason."""
    reasons = available()
    refusals = {name: reason for name in ("cuda", "triton") if (reason := reasons[name]) is not None}
    if not REHEARSAL and "cuda" not in refusals and not is_current("CUDA", CUDA_LIBRARY):
        refusals["cuda"] = f"{CUDA_LIBRARY.name} was not built from these sources: run the stage libraries first"
    return refusals


def is_current(column: str, library: Path) -> bool:
    """Return whether a library was built from the present sources: its ELF build id must be their hash."""
    setup = runpy.run_path(str(ROOT / "setup.py"))
    return library.exists() and bytes.fromhex(setup["source_id"](setup[column.upper()])) in library.read_bytes()


class Timer:
    """Timer of calls on the GPU.

    `late` says whether the host took longer to launch the last call than the longest sleep of the GPU, for example
    because the call waits for the GPU. The measured time then includes host time.
    """

    def __init__(self) -> None:
        self.cycles, self.late = CYCLES, False
        self._flushed = torch.empty(FLUSH, dtype=torch.uint8, device=DEVICE)

    def seconds(self, call: Callable[[], Any]) -> float:
        """Return the GPU time of a call with a cold L2 cache.

        The GPU sleeps until everything is launched, so the time does not include the launch.
        """
        while True:
            begin, end = (cuda.Event(enable_timing=True) for _ in range(2))
            self._flushed.zero_()
            cuda._sleep(self.cycles)
            begin.record()
            call()
            end.record()
            self.late = begin.query()  # the GPU woke up before everything was launched
            end.synchronize()
            if not self.late or self.cycles == MAX_CYCLES:
                return begin.elapsed_time(end) / 1e3
            self.cycles *= 2


class Copier:
    """Meter of the bandwidth of a copy."""

    def __init__(self, timer: Timer) -> None:
        self.timer = timer
        self._source, self._target = (torch.empty(COPY, dtype=torch.uint8, device=DEVICE) for _ in range(2))

    def rate(self) -> float:
        """Return the bytes read and written per second."""
        return 2 * COPY / self.timer.seconds(lambda: self._target.copy_(self._source))


@cache
def machine() -> dict[str, Any]:
    """Return the device, its driver and the versions that `provenance.context` does not hold."""
    properties = cuda.get_device_properties(0)
    return {
        "device": cuda.get_device_name(),
        "capability": ".".join(map(str, cuda.get_device_capability())),
        "driver": smi().get("driver_version"),
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
        "numpy": _version("numpy"),
        "processors": properties.multi_processor_count,
        "l2": properties.L2_cache_size,
        "memory": properties.total_memory,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
    }


def smi(fields: tuple[str, ...] = SMI) -> dict[str, str]:
    """Return fields of nvidia-smi for this device, or no field if nvidia-smi is not installed or fails."""
    if shutil.which("nvidia-smi") is None:
        return {}
    uuid = f"GPU-{cuda.get_device_properties(0).uuid}"
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", f"--id={uuid}"]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode != 0:
        return {}
    return dict(zip(fields, map(str.strip, process.stdout.split(",")), strict=False))


def clocks() -> dict[str, str]:
    """Return the current clocks, temperature and power."""
    return smi(("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw"))


def write(kind: str, **fields: Any) -> None:
    """Append a record, with everything needed to reproduce it, to $OUT/records.jsonl if OUT is set."""
    if folder := os.environ.get("OUT"):
        record = {"kind": kind, "rehearsal": REHEARSAL} | context() | machine() | {"date": now()} | fields
        with (Path(folder) / "records.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")


def spread(seconds: list[float]) -> dict[str, float]:
    """Return the minimum and the percentiles of times in seconds."""
    return {"best": min(seconds)} | {f"p{percent}": percentile(seconds, percent) for percent in (20, 50, 80)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
