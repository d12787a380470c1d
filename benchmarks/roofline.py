# SPDX-License-Identifier: Apache-2.0
"""Roofline model of the GPU kernels: predicted times on GPUs that need not be present.

Usage::

    PYTHONPATH=.:benchmarks python benchmarks/roofline.py                   # all backends and devices
    PYTHONPATH=.:benchmarks python benchmarks/roofline.py cuda sm_90 blend  # names that contain these words

The work of each kernel comes from tests/kernels/triton_resources.json and tests/kernels/cuda_work.json. A kernel takes
as long as its slowest resource: issue slots, matrix units, L2 cache or memory, each at 85 % of its peak. An op takes
the sum of its kernels. The share is the time of a copy of the op's least bytes, divided by the predicted time.

The model leaves out latency, occupancy, synchronisation, bandwidth of shared memory, launches, and the small reductions
that torch does at the end of an op, so the measured share is usually lower. For `cuda`, the bytes from L2 are an upper
bound, so a share that L2 limits may be too low.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from gpu.workloads import GPU_WORKLOADS
from provenance import ROOT

from stylefast.ops import BLEND

TABLE = ROOT / "tests" / "kernels" / "triton_resources.json"
PREDICTIONS = ROOT / "tests" / "kernels" / "triton_predictions.json"
CUDA_TABLE = ROOT / "tests" / "kernels" / "cuda_work.json"
CUDA_PREDICTIONS = ROOT / "tests" / "kernels" / "cuda_predictions.json"
RESOURCES = ("instructions", "matrix_flops", "l2", "memory")
ATTAINABLE = 0.85  # of the peak of a resource
Work = Mapping[str, float]


class Device(NamedTuple):
    """Peak rates of a GPU per second, and the bandwidth of a copy in bytes per second.

    `mma_sync` is the factor by which HMMA takes longer per operation than the instructions that reach the peak.
    """

    name: str
    instructions: float  # of a warp
    matrix_flops: float  # 16-bit operands, dense
    l2: float
    memory: float
    copy: float
    mma_sync: float = 1.0


DEVICES = {
    # NVIDIA A100 data sheet (80 GB, SXM): 108 multiprocessors with 4 schedulers, 1.41 GHz, 312 TFLOP/s, 2.039 TB/s.
    # L2: the white paper gives 5120 bytes per cycle, 7.2 TB/s; microbenchmarks read 4 to 5 TB/s. Copy: measured.
    "sm_80": Device("A100", 108 * 4 * 1.41e9, 312e12, 4.5e12, 2.039e12, 1.78e12),
    # NVIDIA H100 data sheet (SXM): 132 multiprocessors with 4 schedulers, 989 TFLOP/s, 3.35 TB/s. 1.755 GHz is the
    # clock under load. L2 read and copy: measured. HMMA reaches about 62 % of the rate of WGMMA in microbenchmarks.
    "sm_90": Device("H100", 132 * 4 * 1.755e9, 989e12, 5.5e12, 3.35e12, 3.0e12, 1 / 0.62),
    # NVIDIA B200 data sheet: 148 multiprocessors, 2250 TFLOP/s, 8 TB/s. Assumptions: 1.85 GHz; an L2 cache with the
    # same ratio to the memory as in the H100; a copy at 90 % of 8 TB/s; HMMA as fast per multiprocessor as in the H100.
    "sm_100": Device("B200", 148 * 4 * 1.85e9, 2250e12, 13e12, 8e12, 7.2e12, 3.1),
    # AMD MI300X data sheet: 304 compute units, 2.1 GHz, 1307 TFLOP/s, 5.3 TB/s, Infinity Cache 17.2 TB/s, which stands
    # for the L2 cache. A compute unit issues one vector instruction of 64 lanes per cycle. Assumption: a copy reaches
    # 85 % of 5.3 TB/s.
    "gfx942": Device("MI300X", 304 * 2.1e9, 1307e12, 17.2e12, 5.3e12, 4.5e12),
}


class Prediction(NamedTuple):
    """Predicted time of a call in seconds, its share of the bandwidth of a copy, and what bounds its slowest kernel."""

    seconds: float
    share: float
    bound: str


class Size(NamedTuple):
    """Number of elements of the activations, or of the result of blend, and least bytes of a call."""

    elements: int
    least_bytes: int


@cache
def sizes() -> dict[str, Size]:
    """Return the sizes of all workloads, by "op workload"."""
    result = {}
    for workload in GPU_WORKLOADS:
        arguments = tuple(workload.make("meta").values())
        x = workload.op.fake(*arguments) if workload.op is BLEND else arguments[0]
        result[f"{workload.op.name} {workload.name}"] = Size(x.numel(), workload.op.cost(*arguments).bytes)
    return result


def times(work: Work, elements: int, device: Device) -> dict[str, float]:
    """Return the seconds that each resource needs for a kernel.

    Args:
        work: Work of the kernel per element, by resource.
        elements: Number of elements.
        device: The GPU.
    """
    return {name: work[name] * elements / (ATTAINABLE * getattr(device, name)) for name in RESOURCES}


def predict(kernels: Iterable[Work], size: Size, device: Device) -> Prediction:
    """Return the prediction for a call that launches the kernels one after the other."""
    by_kernel = [times(work, size.elements, device) for work in kernels]
    slowest = max(by_kernel, key=lambda seconds: max(seconds.values()))
    total = sum(max(seconds.values()) for seconds in by_kernel)
    return Prediction(total, size.least_bytes / device.copy / total, max(slowest, key=lambda name: slowest[name]))


def calls(table: Mapping[str, Work]) -> Iterator[tuple[str, str, dict[str, Work]]]:
    """Yield the calls of the table: device, "op workload", and work by kernel."""
    for device in DEVICES:
        for call in sizes():
            rows = {name: work for name, work in table.items() if name.partition(" of ")[2] == call}
            kernels = {name.split()[1]: work for name, work in rows.items() if name.split()[0] == device}
            if kernels:
                yield device, call, kernels


def predictions(table: Mapping[str, Work]) -> dict[str, dict[str, Any]]:
    """Return the predictions of all calls of the table, by "device op workload", to two or three digits."""
    result = {}
    for device, call, kernels in calls(table):
        seconds, share, bound = predict(kernels.values(), sizes()[call], DEVICES[device])
        result[f"{device} {call}"] = {"ms": float(f"{1e3 * seconds:.3g}"), "share": round(share, 2), "bound": bound}
    return result


def changes(found: Mapping[str, Mapping[str, Any]], expected: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a message per prediction that is not the stored one, up to 0.01."""
    messages = []
    for name in {**expected, **found}:
        before, after = (predictions.get(name, {}).get("share") for predictions in (expected, found))
        if before is None or after is None:
            messages.append(f"{name}: the stored prediction is {before}, found {after}")
        elif abs(after - before) > 0.0101:
            verb = "falls" if after < before else "rises"
            messages.append(f"{name}: the predicted share of the copy bandwidth {verb} from {before} to {after}")
    return messages


def markdown(stored: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of the stored predictions, with one row per call and one column per device."""
    devices = [device for device in DEVICES if any(name.startswith(f"{device} ") for name in stored)]
    rows: dict[str, dict[str, str]] = {}
    for name, prediction in stored.items():
        device, call = name.split(maxsplit=1)
        bound = prediction["bound"].replace("matrix_flops", "matrix").replace("l2", "L2")
        rows.setdefault(call, {})[device] = f"{100 * prediction['share']:.0f} % ({bound})"
    names = " | ".join(DEVICES[device].name for device in devices)
    lines = [f"| op | workload | {names} |", "| --- " * (2 + len(devices)) + "|"]
    for call, cells in rows.items():
        op, workload = call.split(maxsplit=1)
        lines.append(f"| `{op}` | {workload} | {' | '.join(cells.get(device, '') for device in devices)} |")
    return "\n".join(lines)


def main(words: list[str]) -> None:
    """Print the predictions whose names contain all words, and the milliseconds of each resource per kernel."""
    for backend, path in (("triton", TABLE), ("cuda", CUDA_TABLE)):
        table = json.loads(path.read_text())
        predicted = predictions(table)
        for device, call, kernels in calls(table):
            name = f"{backend} {device} {call}"
            if not all(word in name for word in words):
                continue
            print("{0}: {ms} ms, {share:.0%}, bound by {bound}".format(name, **predicted[f"{device} {call}"]))
            for kernel, work in kernels.items():
                seconds = times(work, sizes()[call].elements, DEVICES[device])
                parts = ", ".join(f"{resource} {1e3 * value:.2f}" for resource, value in seconds.items())
                print(f"    {kernel} in ms: {parts}")


if __name__ == "__main__":
    main(sys.argv[1:])
