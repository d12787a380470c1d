# SPDX-License-Identifier: Apache-2.0
"""Compare small calls with one eager torch op on the same data, and the best instruction set with the portable kernels.

Small calls include `blend` of few rows into an existing tensor, compared with `torch.lerp(out=)`.

Usage::

    python benchmarks/bench_calls.py [--rounds 30] [--record]

Both sides of a comparison run alternately. Our results are verified against the reference first. The package chooses
its instruction set when it is loaded, so each instruction set is timed in a separate process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import environment
import record
import torch
from formulations import one_torch_op
from peers import blending, ours
from timing import Candidate, Figure, comparison
from tqdm import tqdm
from workloads import FEW_ROWS, SMALL_CALLS, WORKLOADS, Workload

from stylefast.backends.native import instruction_set

CALLS = 200  # per round
LARGE = "lloyd_step-64x512x32x32-K32"


def seconds_per_call(call: Callable[[], Any], calls: int) -> float:
    """Return the mean seconds per call of `calls` consecutive calls."""
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) / calls


def small(workload: Workload, rounds: int, threads: int) -> Figure:
    """Measure a small call, with one torch op as the peer, and return the figure."""
    inputs = workload.make()
    torch_name, torch_call = one_torch_op(inputs)
    return compare(workload, ours(workload.op, inputs), f"one {torch_name}", torch_call, CALLS, rounds, threads)


def few_rows(workload: Workload, rounds: int, threads: int) -> Figure:
    """Measure a blend of few rows into an existing tensor, with `torch.lerp(out=)` as the peer; return the figure."""
    inputs, name = workload.make(), "torch.lerp(out=)"
    candidate, torch_call = ours(workload.op, inputs, "cpu.out"), blending(inputs, threads)[name]
    calls = max(4, CALLS // len(workload.op.fake(*inputs.values())))
    return compare(workload, candidate, name, torch_call, calls, rounds, threads)


def compare(
    workload: Workload,
    candidate: Candidate,
    torch_name: str,
    torch_call: Callable[[], Any],
    calls: int,
    rounds: int,
    threads: int,
) -> Figure:
    """Verify the candidate, measure it and a call of torch in turn, print the figure and return it."""
    candidate.verify(candidate.call())
    seconds, torch_seconds = [], []
    for _ in range(rounds):
        seconds.append(seconds_per_call(candidate.call, calls))
        torch_seconds.append(seconds_per_call(torch_call, calls))
    extra = 1e6 * (min(seconds) - min(torch_seconds))
    figure = comparison(workload.op.name, workload.name, None, threads, seconds, torch_name, torch_seconds)
    print(f"{record.line(figure)}, difference of the minima {extra:+.0f} us")
    return figure


def child(rounds: int) -> None:
    """Print, as JSON, the seconds of the large workload with the instruction set that STYLEFAST_ISA names."""
    workload = next(w for w in WORKLOADS if w.id == LARGE)
    candidate = ours(workload.op, workload.make())
    candidate.verify(candidate.call())
    print(json.dumps([seconds_per_call(candidate.call, 1) for _ in range(rounds)]))


def instruction_sets(threads: int) -> Figure:
    """Measure the best instruction set of this processor, with the portable kernels as the peer; return the figure."""
    best = instruction_set()
    seconds: dict[str, list[float]] = {best: [], "portable": []}
    for name in tqdm(list(seconds) * 3, delay=2, leave=False):
        command = [sys.executable, __file__, "--child", "--rounds", "5", "--threads", str(threads)]
        printed = subprocess.run(command, env=os.environ | {"STYLEFAST_ISA": name}, capture_output=True, check=True)
        seconds[name] += json.loads(printed.stdout)
    workload = f"64x512x32x32 {best}"
    figure = comparison("lloyd_step", workload, 32, threads, seconds[best], "portable", seconds["portable"])
    print(record.line(figure))
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=min(2, len(environment.CPUS) or 1))
    parser.add_argument("--record", action="store_true", help="Append to benchmarks/results/<machine>.jsonl.")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.child:
        return child(arguments.rounds)
    figures = [small(workload, arguments.rounds, arguments.threads) for workload in SMALL_CALLS]
    figures += [few_rows(workload, arguments.rounds, arguments.threads) for workload in FEW_ROWS]
    figures.append(instruction_sets(arguments.threads))
    if arguments.record:
        for figure in figures:
            record.append(figure)


if __name__ == "__main__":
    main()
