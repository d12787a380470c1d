# SPDX-License-Identifier: Apache-2.0
"""Stage `sanitizers`: run memcheck and racecheck on every op and dtype, and memcheck on a planted fault.

memcheck must report the planted fault, which verifies that it reports errors.
"""

from __future__ import annotations

import re
import shutil
import sys

from stylefast.ops import OPS, SOFT

from .device import backends, missing, start, write
from .isolated import deadline
from .processes import RESERVE, Ended, side_by_side
from .rehearsal import REHEARSAL
from .statuses import CUT

TOOLS = ("memcheck", "racecheck")
ERRORS = 86  # exit status of a process in which a tool found an error
PLANTED = "memcheck: planted fault"
QUIET = (
    "COMPUTE-SANITIZER|RACECHECK SUMMARY: 0|ERROR SUMMARY: 0|Target application|Error: Target application|"
    "Error: process didn't|Error: couldn't find exit code|Tracking kernels"
)
REPORT = re.compile(rf"^========= (?!{QUIET})(\S.*)$", re.MULTILINE)
SHOWN = 4_000  # characters of a log that are printed


def commands() -> dict[str, list[str]]:
    """Return the commands, which run side by side, by name.

    For the CUDA kernels, there is one command per tool. For the Triton kernels, there is one per tool and op, because
    each command also compiles its kernels. Another command runs the planted fault.
    """
    parts = {"cuda": " cuda "} if "cuda" in backends() else {}
    if "triton" in backends():
        ops = (*OPS, *SOFT)
        parts |= {"triton": " triton "} if REHEARSAL else {f"triton {op.name}": f"^{op.name} triton " for op in ops}
    smoke = [sys.executable, "-m", "gpu.smoke"]
    named = {
        f"{tool}: {part}": [*sanitizer(tool), *smoke, "--only", pattern]
        for tool in TOOLS
        for part, pattern in parts.items()
    }
    if "cuda" in backends():
        named[PLANTED] = [*sanitizer("memcheck"), *smoke, "--fault"]
    return named


def sanitizer(tool: str) -> list[str]:
    general = ["--error-exitcode", str(ERRORS), "--check-exit-code", "no", "--max-connections", "64"]
    # memcheck continues after an error, so that the program ends normally. API errors are not reported, because torch
    # asks for features that a device may lack.
    memcheck = ["--destroy-on-device-error", "kernel", "--report-api-errors", "no"]
    return ["compute-sanitizer", "--tool", tool, *general, *(memcheck if tool == "memcheck" else [])]


def verdict(process: Ended) -> str:
    """Return the verdict on a process: "clean", "cut" (clean until the time was up) or a description of the error."""
    reports = REPORT.findall(process.log)
    if process.name == PLANTED:
        reported = process.status not in (None, 0) and any(report.startswith("Invalid") for report in reports)
        return "clean" if reported else "the planted fault was not reported"
    if reports:
        return f"reports ({len(reports)}): {reports[0]}"
    if process.status is None:
        return "cut"
    if process.status != 0:
        return f"ended with status {process.status}"
    return "clean" if ": called" in process.log else "nothing was called"


def main() -> int:
    start()
    if shutil.which("compute-sanitizer") is None:
        print("compute-sanitizer is not installed: memory accesses and races are not checked")
        return 1
    processes = side_by_side(commands(), deadline(RESERVE), {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
    verdicts = {process.name: verdict(process) for process in processes}
    for process in processes:
        print(f"{process.name}: {verdicts[process.name]}, {process.log.count(': called')} calls")
        if verdicts[process.name] not in ("clean", "cut"):
            print(process.log[:SHOWN])
    write("sanitizers", verdicts=verdicts)
    print("\n".join([*missing(), f"{list(verdicts.values()).count('clean')} of {len(verdicts)} processes clean"]))
    if missing() or set(verdicts.values()) - {"clean", "cut"}:
        return 1
    return CUT if "cut" in verdicts.values() else 0


if __name__ == "__main__":
    sys.exit(main())
