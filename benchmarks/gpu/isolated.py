# SPDX-License-Identifier: Apache-2.0
"""Run the rows of a stage in a child process, one after the other. A row is one timing or one check.

A row that fails is recorded. If a row crashes, hangs or makes the GPU context unusable, a new process continues with
the next row.
"""

from __future__ import annotations

import faulthandler
import math
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .device import start, write
from .rehearsal import REHEARSAL, cuda
from .statuses import RUINED

ROW_SECONDS = 100.0 if REHEARSAL else 25.0  # a rehearsal may share its processors with other work
PROGRESS = "STYLEFAST_PROGRESS"  # variable with the file in which a child notes the rows that it begins and ends


@dataclass
class Tally:
    """Rows that succeeded, rows that failed, and rows that were not reached."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def __add__(self, tally: Tally) -> Tally:
        return Tally(self.done + tally.done, self.failed + tally.failed, self.left + tally.left)

    def __str__(self) -> str:
        failed = f", {len(self.failed)} failed: {'; '.join(self.failed)}" if self.failed else ""
        return f"{len(self.done)} rows{failed}" + (f", {len(self.left)} not reached" if self.left else "")


def deadline(reserve: float = 3.0) -> float:
    """Return the time on the monotonic clock at which this stage must end its work.

    It is `reserve` seconds before the time at which the stage would be stopped.
    """
    return float(os.environ.get("STYLEFAST_STAGE_END", "inf")) - reserve


def run(module: str, rows: Sequence[str], until: float) -> Tally:
    """Run `python -m module --rows ...`, repeatedly, until every row has ended or the time is up."""
    tally, rows = Tally(), list(rows)
    while rows and time.monotonic() < until:
        with tempfile.NamedTemporaryFile("r") as progress:
            status = _child(module, rows, until, progress.name)
            lines = progress.read().splitlines()
        ended = dict(line.split(" ", 1)[::-1] for line in lines if not line.startswith("begin "))
        begun = [line.split(" ", 1)[1] for line in lines if line.startswith("begin ")]
        tally.done += [row for row in begun if ended.get(row) == "done"]
        tally.failed += [row for row in begun if ended.get(row) == "failed"]
        for row in begun:
            if row not in ended and time.monotonic() < until:
                error = f"its process ended with status {status}"
                print(f"{row}: {error}", flush=True)
                write("failure", row=row, error=error)
                tally.failed.append(row)
        if not begun and time.monotonic() < until:
            print(f"python -m {module} ended with status {status} before {rows[0]}", flush=True)
            tally.failed += rows
        rows = [row for row in rows if row not in tally.done + tally.failed]
    tally.left = rows
    return tally


def _child(module: str, rows: list[str], until: float, progress: str) -> int | str:
    command = [sys.executable, "-m", module, "--rows", *rows]
    try:
        process = subprocess.run(
            command,
            env=os.environ | {PROGRESS: progress},
            timeout=None if until == math.inf else until - time.monotonic(),
        )
    except subprocess.TimeoutExpired:
        return "none: the time was up"
    return process.returncode


def serve(rows: Sequence[str], measure: Callable[[str], Any], seconds: Callable[[str], float] | None = None) -> int:
    """Measure every row in the child process; return the exit status.

    A row may take `seconds(row)` seconds, by default ROW_SECONDS.
    """
    start()
    progress = Path(os.environ[PROGRESS])
    for row in rows:
        _note(progress, f"begin {row}")
        faulthandler.dump_traceback_later(seconds(row) if seconds else ROW_SECONDS, exit=True)
        try:
            measure(row)
            _note(progress, f"done {row}")
        except Exception as error:
            traceback.print_exc(file=sys.stdout)
            print(f"{row}: {type(error).__name__}: {error}", flush=True)
            write("failure", row=row, error=f"{type(error).__name__}: {error}"[:2000])
            _note(progress, f"failed {row}")
            if _ruined():
                return RUINED
        finally:
            faulthandler.cancel_dump_traceback_later()
    return 0


def _note(progress: Path, line: str) -> None:
    with progress.open("a") as file:
        file.write(line + "\n")


def _ruined() -> bool:
    """Return whether an earlier error has made the GPU context unusable."""
    try:
        cuda.synchronize()
    except RuntimeError:
        return True
    return False
