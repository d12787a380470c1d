# SPDX-License-Identifier: Apache-2.0
"""Fuzz job: random calls of all ops against float64, and random mutations of all files, for a given time.

Each target runs in a child process, which a crash or a hang ends. A failure prints the command that repeats the case.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[1:1] = [str(TESTS.parent), str(TESTS / "support")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from check import Check  # noqa: E402
from targets import TARGETS, environment  # noqa: E402

MAX_SECONDS = 20  # of a case
MAX_FAILURES = 5  # of a target
MAX_WIDTH = 1000  # of a line of the output
FAILED = 3  # status of a child with failures; an error of Python's own is 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description="Test random cases for a given time.")
    parser.add_argument("--seconds", type=float, default=60, help="Time of the whole job.")
    parser.add_argument("--seed", type=int, help="Seed of the cases. The default is a random one, which is printed.")
    parser.add_argument("--target", choices=TARGETS, action="append", help="Test this target only (repeatable).")
    parser.add_argument("--case", help="Run one case, SEED:NUMBER, as printed by a failure.")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    targets = args.target or list(TARGETS)
    seed = int.from_bytes(os.urandom(4), "little") if args.seed is None else args.seed
    if args.child:
        return _run_child(targets[0], seed, args.seconds, args.case)
    print(f"seed {seed}", flush=True)
    total = sum(TARGETS[name].weight for name in targets)
    options = ["--seed", str(seed)] if args.case is None else ["--case", args.case]
    shares = {name: args.seconds * TARGETS[name].weight / total for name in targets}
    failed = [name for name, share in shares.items() if _run(name, [*options, "--seconds", str(share)])]
    return int(bool(failed))


def _run(name: str, options: list[str]) -> bool:
    """Run a target in a child process. Return whether a case failed."""
    command = [sys.executable, str(Path(__file__).parent), "--child", "--target", name, *options]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, env=environment(name), **pipes)
    assert process.stdout is not None
    case = ""
    for line in process.stdout:
        if line.startswith("case "):
            case = line.split()[1]
        else:
            print(f"{name}: {line}", end="", flush=True)
    if (status := process.wait()) not in (0, FAILED):
        print(f"{name}: the process ended with status {status}. {_how_to_repeat(name, case)}", flush=True)
    return status != 0


def _how_to_repeat(name: str, case: str) -> str:
    return f"Repeat it with: python tests/fuzz --target {name} --case {case}"


def _run_child(name: str, seed: int, seconds: float, case: str | None) -> int:
    """Run cases until the time is over, and print the number of each. Return whether a case failed."""
    warnings.simplefilter("ignore")
    sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    # torch.empty then returns NaN. torch.use_deterministic_algorithms would import torch._inductor, for a second.
    torch.set_deterministic_debug_mode("error")
    if (reason := TARGETS[name].absence()) is not None:
        print(f"skipped: {reason}")
        return 0
    number = 0
    if case is not None:
        seed, number = map(int, case.split(":"))
    first, failures, end = number, 0, time.monotonic() + seconds
    worst: dict[str, float] = {}
    while time.monotonic() < end and failures < MAX_FAILURES:
        label = f"{seed}:{number}"
        print(f"case {label}", flush=True)
        check = Check()
        faulthandler.dump_traceback_later(MAX_SECONDS, exit=True)
        try:
            TARGETS[name].case(np.random.default_rng([seed, number]), check)
        except Exception as error:
            failures += 1
            lines = [f"{type(error).__name__}: {error}"]
            lines += [] if isinstance(error, AssertionError) else traceback.format_exc(limit=-4).splitlines()[1:]
            lines += [f"  in {check.notes}", f"  {_how_to_repeat(name, label)}"]
            print("\n".join(line[:MAX_WIDTH] for line in lines))
        else:
            worst |= {key: max(worst.get(key, 0), value) for key, value in check.worst.items() if value}
        number += 1
        if case is not None:
            break
    faulthandler.cancel_dump_traceback_later()
    largest = ", ".join(f"{key} {value:.2f}" for key, value in sorted(worst.items()))
    print(f"{number - first} cases, {failures} failures{largest and f'; errors / budgets: {largest}'}", flush=True)
    return FAILED if failures else 0


if __name__ == "__main__":
    sys.exit(main())
