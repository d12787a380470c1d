# SPDX-License-Identifier: Apache-2.0
"""Stage `tests`: run the tests of the GPU backends in one process per core, agreement with the reference first."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter

import environment
import pytest
from provenance import ROOT

from .device import backends, missing, start, write
from .isolated import deadline
from .processes import RESERVE, Ended, side_by_side
from .rehearsal import REHEARSAL
from .statuses import CUT

LAWS = ("assign_laws", "contribution_laws", "membership_laws", "blend_laws")
OPS = ("battery", "edge_cases", *LAWS, "torch_transforms")
WAITS = ("support/test_host_waits.py", "kmeans/test_lloyd_waits.py", "catalog/test_build_waits.py")
FILES = (*(f"ops/test_{name}.py" for name in OPS), *WAITS)
FIRST = "test_agrees,test_same_bits,test_edge_cases"  # in this order
PROCESSES = len(environment.CPUS) or os.cpu_count() or 1
SHARDS = 150 * PROCESSES if REHEARSAL else PROCESSES
OUTCOME = re.compile(r"^(\S+::.*?) (PASSED|FAILED|ERROR|SKIPPED)\b", re.MULTILINE)
SHOWN = 12_000  # characters that are printed of the log of a process with failures


def battery(shard: str) -> int:
    """Run one shard of the tests in this process; return the exit status."""
    files = [str(ROOT / "tests" / name) for name in FILES]
    require = [option for name in backends() for option in ("--require", name)]
    options = ["-v", "--tb=short", "-p", "no:cacheprovider", "-m", "not large and not fetches", "-k", "cuda or triton"]
    return pytest.main([*options, *require, "--first", FIRST, "--shard", shard, *files])


def outcomes(log: str) -> Counter[str]:
    """Return the number of tests per outcome, and the number of selected tests as "selected"."""
    counts = Counter(outcome for _, outcome in OUTCOME.findall(log))
    selected = re.search(r"/ (\d+) selected", log) or re.search(r"collected (\d+) items", log)
    counts["selected"] = int(selected[1]) if selected else 0
    return counts


def has_failed(process: Ended) -> bool:
    """Return whether a test failed or the process ended abnormally."""
    counts = outcomes(process.log)
    return bool(counts["FAILED"] or counts["ERROR"]) or process.status not in (
        None,
        0,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shard", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    start()
    if arguments.shard:
        return battery(arguments.shard)
    shards = [f"{i}/{SHARDS}" for i in range(1, PROCESSES + 1)]
    commands = {shard: [sys.executable, "-m", "gpu.tests", "--shard", shard] for shard in shards}
    return judge(side_by_side(commands, deadline(RESERVE), {"OMP_WAIT_POLICY": "PASSIVE"}))


def judge(processes: list[Ended]) -> int:
    """Print and record the outcomes of the processes; return the exit status."""
    total = sum((outcomes(process.log) for process in processes), Counter())
    tests = (test for process in processes for test in OUTCOME.findall(process.log))
    failed = [name for name, outcome in tests if outcome in ("FAILED", "ERROR")]
    cut = any(process.status is None for process in processes)
    for process in filter(has_failed, processes):
        print(f"shard {process.name} ended with status {process.status}:\n{process.log[-SHOWN:]}")
    write("tests", outcomes=dict(total), failed=failed[:200], cut=cut)
    counts = f"{total['PASSED']} of {total['selected']} passed, {len(failed)} failed, {total['SKIPPED']} skipped"
    print("\n".join([*missing(), counts + (", until the time was up" if cut else "")]))
    if missing() or any(map(has_failed, processes)) or not total["PASSED"]:
        return 1
    return CUT if cut else 0


if __name__ == "__main__":
    sys.exit(main())
