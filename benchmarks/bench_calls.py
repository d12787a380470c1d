# SPDX-License-Identifier: Apache-2.0
"""What a small call costs next to one eager torch op on the same data, and what the instruction sets are worth.

    python benchmarks/bench_calls.py [--rounds 30] [--record]

Both sides of a figure run in turn; ours is verified against the reference first. An instruction set is chosen when the
package is loaded, so each has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import environment
import record
import torch
from peers import ours
from timing import Figure, percentile
from tqdm import tqdm
from workloads import SMALL_CALLS, WORKLOADS, Workload

from stylefast.backends.native import instruction_set

CALLS = 200  # a round
LARGE = "lloyd_step-64x512x32x32-K32"


def eager(inputs: dict[str, Any]) -> tuple[str, Callable[[], Any]]:
    """One torch op that reads what ours reads: the product with the centroids, squares, or a lerp."""
    if "target" in inputs:
        return "torch.lerp", partial(torch.lerp, inputs["target"], inputs["reference"], inputs["query"])
    if "centroids" in inputs:
        return "torch.matmul", partial(torch.matmul, inputs["centroids"], inputs["activations"].flatten(2))
    return "torch.square", partial(torch.square, inputs["activations"])


def seconds(call: Callable[[], Any], calls: int) -> float:
    """Mean seconds of a call, of `calls` in a row."""
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) / calls


def compared(
    op: str, workload: str, k: int | None, threads: int, mine: list[float], peer: str, its: list[float]
) -> Figure:
    """The figure of two lists of seconds, by their minima and medians."""
    p20, p50, p80 = (percentile(mine, p) for p in (20, 50, 80))
    ratio, median = min(its) / min(mine), percentile(its, 50) / p50
    return Figure(
        op, workload, k, threads, min(mine), p20, p50, p80,
        peer=peer, to_peer=ratio, median_to_peer=median, peers={peer: ratio},
    )  # fmt: skip


def small(workload: Workload, rounds: int, threads: int) -> Figure:
    inputs = workload.make()
    candidate = ours(workload.op, inputs)
    candidate.verify(candidate.call())
    name, one = eager(inputs)
    mine, its = [], []
    for _ in range(rounds):
        mine.append(seconds(candidate.call, CALLS))
        its.append(seconds(one, CALLS))
    extra = 1e6 * (min(mine) - min(its))
    figure = compared(workload.op.name, workload.name, None, threads, mine, f"one {name}", its)
    print(f"{record.line(figure)}, {extra:+.0f} us")
    return figure


def child(rounds: int) -> None:
    """Prints the seconds of the large workload on the set that STYLEFAST_ISA names."""
    workload = next(w for w in WORKLOADS if w.id == LARGE)
    candidate = ours(workload.op, workload.make())
    candidate.verify(candidate.call())
    print(json.dumps([seconds(candidate.call, 1) for _ in range(rounds)]))


def instruction_sets(threads: int) -> Figure:
    """The portable build against the best set of this processor."""
    best = instruction_set()
    found: dict[str, list[float]] = {best: [], "portable": []}
    for name in tqdm(list(found) * 3, delay=2, leave=False):
        command = [sys.executable, __file__, "--child", "--rounds", "5", "--threads", str(threads)]
        printed = subprocess.run(command, env=os.environ | {"STYLEFAST_ISA": name}, capture_output=True, check=True)
        found[name] += json.loads(printed.stdout)
    figure = compared("lloyd_step", f"64x512x32x32 {best}", 32, threads, found[best], "portable", found["portable"])
    print(record.line(figure))
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=min(2, len(environment.CPUS) or 1))
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results/<machine>.jsonl")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.child:
        return child(arguments.rounds)
    figures = [small(workload, arguments.rounds, arguments.threads) for workload in SMALL_CALLS]
    figures.append(instruction_sets(arguments.threads))
    if arguments.record:
        for figure in figures:
            record.append(figure)


if __name__ == "__main__":
    main()
