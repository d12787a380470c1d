# SPDX-License-Identifier: Apache-2.0
"""Stage `profile`: measure hardware counters of the four main ops with Nsight Compute, or trace their kernels.

The counters explain the time of each kernel. If Nsight Compute is not permitted, a trace gives the times.

Nsight Compute runs::

    python -m gpu.profile --calls   # warms up, then calls every op once between profiler start and stop
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from .device import backends, missing, start, write
from .isolated import deadline
from .processes import RESERVE, side_by_side
from .rehearsal import DEVICE, REHEARSAL, cuda
from .workloads import KEY_WORKLOADS

SCALE = 16  # divisor of the number of images; the smaller inputs still exceed the L2 cache
WORKLOADS = [KEY_WORKLOADS[i] for i in (0, 3, 4, 6)]  # lloyd_step, assign_contribution, contribution, blend
KERNELS = ("cpu_op", "stylefast::") if REHEARSAL else ("kernel", "")  # category of a trace's events, prefix of names
SECTIONS = ("SpeedOfLight", "Occupancy", "LaunchStats", "WarpStateStats")
METRICS = {  # column of ncu -> key of a record
    "gpu__time_duration.sum": "time",
    "dram__bytes_read.sum": "dram_read",
    "dram__bytes_write.sum": "dram_write",
    "lts__t_bytes.sum": "l2",
    "smsp__inst_executed.sum": "instructions",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "dram_percent",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "sm_percent",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy_percent",
    "launch__registers_per_thread": "registers",
    "launch__grid_size": "blocks",
    "launch__block_size": "threads",
}
TRACE_SECONDS = 8.0  # reserved for a trace, in case ncu is not permitted
OURS = "regex:(assign|assign_moments|blend|join|lloyd|lloyd_finish|mean|moments|pool|split|statistics|transpose)_kernel"
STALL = "smsp__average_warps_issue_stalled_"


def prepared() -> list[Callable[[], Any]]:
    """Return one call per op and backend, after a first call has compiled the kernels."""
    calls = []
    for workload in WORKLOADS:
        inputs = workload.make(DEVICE, SCALE)
        calls += [partial(workload.op.cells[backend], *inputs.values()) for backend in backends()]
    for call in calls:
        call()
    cuda.synchronize()
    return calls


def profiled() -> None:
    """Call every op and backend once between profiler start and stop."""
    calls = prepared()
    cuda.profiler.start()
    for call in calls:
        call()
    cuda.synchronize()
    cuda.profiler.stop()


def ncu(report: Path) -> list[str | Path]:
    """Return the command that measures the kernels of the calls with Nsight Compute."""
    sections = [option for section in SECTIONS for option in ("--section", section)]
    output = ["--csv", "--page", "raw", "--print-units", "base", "--log-file", report]
    metrics = ["--metrics", ",".join(name for name in METRICS if not name.startswith("launch__"))]
    options = ["--profile-from-start", "off", "--clock-control", "none", "--kernel-name", OURS]
    return ["ncu", *options, *sections, *metrics, *output, sys.executable, "-m", "gpu.profile", "--calls"]


def by_ncu() -> Iterator[dict[str, Any]]:
    """Yield the kernels that ncu measured; if there is none, print why."""
    if shutil.which("ncu") is None:
        print("ncu is not installed")
        return
    report = Path(os.environ["OUT"]) / "ncu.csv"
    (ended,) = side_by_side({"ncu": ncu(report)}, deadline(RESERVE + TRACE_SECONDS))
    text = report.read_text() if report.exists() else ""
    kernels = list(counted(text))
    if not kernels:
        print(f"ncu counted nothing (status {ended.status}): {text[-1000:]}\n{ended.log[-1000:]}")
    yield from kernels


def counted(report: str) -> Iterator[dict[str, Any]]:
    """Yield the kernels of ncu's table: name, metrics that explain the time, and the three largest causes of stalls."""
    lines = [line for line in report.splitlines() if line.startswith('"')]
    rows = csv.DictReader(io.StringIO("\n".join(lines)))
    for row in rows:
        if not (row.get("ID") or "").strip():
            continue  # the row of units
        kernel: dict[str, Any] = {"kernel": row["Kernel Name"]}
        kernel |= {name: number for column, name in METRICS.items() if (number := _number(row.get(column))) is not None}
        stalls = {column: _number(row[column]) for column in row if column and column.startswith(STALL)}
        largest = sorted((s for s in stalls if stalls[s]), key=lambda s: -float(stalls[s] or 0))[:3]
        kernel["stalls"] = {name.removeprefix(STALL).split("_per_")[0]: stalls[name] for name in largest}
        yield kernel


def traced() -> Iterator[dict[str, Any]]:
    """Yield the kernels of a trace of the same calls: name, time and launch parameters."""
    calls = prepared()
    with profile(activities=[ProfilerActivity.CPU if REHEARSAL else ProfilerActivity.CUDA]) as trace:
        for call in calls:
            call()
        cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        trace.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    for event in events:
        if event.get("cat") == KERNELS[0] and event["name"].startswith(KERNELS[1]):
            details = event.get("args", {})
            kernel = {"kernel": event["name"], "time": 1e3 * event["dur"]}  # us -> ns, as in ncu
            yield kernel | {key: details[key] for key in details if key in ("grid", "block", "registers per thread")}


def show(kernel: dict[str, Any]) -> str:
    """Return one line of text for a kernel."""
    values = (
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in kernel.items()
    )
    return ", ".join(values).removeprefix("kernel ")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    start()
    if arguments.calls:
        profiled()
        return 0
    kernels, by = list(by_ncu()), "ncu"
    if not kernels:
        kernels, by = list(traced()), "trace"
    for kernel in kernels:
        write("kernel", by=by, **kernel)
        print(show(kernel))
    print("\n".join([*missing(), f"{len(kernels)} kernels by {by}"]))
    return 0 if kernels and not missing() else 1


def _number(text: str | None) -> float | None:
    try:
        return float((text or "").replace(",", ""))
    except ValueError:
        return None


if __name__ == "__main__":
    sys.exit(main())
