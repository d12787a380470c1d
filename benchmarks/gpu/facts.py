# SPDX-License-Identifier: Apache-2.0
"""Stage `facts`: the device, its versions and clocks, the bandwidth of a copy and the peaks of matrix products."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from timing import percentile

from .device import Copier, Timer, clocks, machine, smi, start, write
from .rehearsal import DEVICE, REHEARSAL

SIDE = 64 if REHEARSAL else 8192
ROUNDS = 2 if REHEARSAL else 20
PEAKS = {
    "bfloat16": (torch.bfloat16, False),
    "float16": (torch.float16, False),
    "tf32": (torch.float32, True),
    "float32": (torch.float32, False),
}


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Set whether float32 matrix products may use TF32 inside the block."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def peak(timer: Timer, dtype: torch.dtype, allow_tf32: bool) -> float:
    """Return the flops per second of a large product of random matrices."""
    a, b, out = (torch.randn(SIDE, SIDE, device=DEVICE).to(dtype) for _ in range(3))
    with tf32(allow_tf32):
        seconds = [timer.seconds(partial(torch.matmul, a, b, out=out)) for _ in range(2 + ROUNDS // 2)][2:]
    return 2 * SIDE**3 / percentile(seconds, 50)


def tool(*command: str) -> str | None:
    """Return the last line that a tool prints, or None if the tool is not installed."""
    if shutil.which(command[0]) is None:
        return None
    lines = subprocess.run(command, capture_output=True, text=True).stdout.strip().splitlines()
    return lines[-1] if lines else ""


def main() -> None:
    start()
    timer = Timer()
    copier = Copier(timer)
    copy = percentile([copier.rate() for _ in range(2 + ROUNDS)][2:], 50)
    peaks = {name: peak(timer, dtype, allow_tf32) for name, (dtype, allow_tf32) in PEAKS.items()}
    tools = {"nvcc": tool("nvcc", "--version"), "ncu": tool("ncu", "--version")}
    tools["compute-sanitizer"] = tool("compute-sanitizer", "--version")
    facts = {
        "smi": smi(),
        "clocks_after_matmul": clocks(),
        "tools": tools,
        "cores": os.cpu_count(),
    }
    write("facts", copy=copy, peaks=peaks, **facts)
    for name, value in (machine() | facts).items():
        print(f"{name}: {value}")
    rates = ", ".join(f"{name} {flops / 1e12:.0f}" for name, flops in peaks.items())
    print(f"copy {copy / 1e12:.2f} TB/s; matmul in TFLOP/s: {rates}")


if __name__ == "__main__":
    main()
