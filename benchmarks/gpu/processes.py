# SPDX-License-Identifier: Apache-2.0
"""Run commands side by side until a deadline, each with its own log."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GRACE = 5.0  # seconds to wait for a process after it is interrupted, and again after it is killed
LOG = 4 << 20  # bytes that are kept from the end of a log
RESERVE = 2 * GRACE + 2.0  # seconds before the end of a stage at which its processes must be interrupted


@dataclass(frozen=True)
class Ended:
    """A command that has ended. `status` is its exit status, or None if it was interrupted at the deadline."""

    name: str
    status: int | None
    log: str


def side_by_side(
    commands: Mapping[str, Sequence[str | Path]], until: float, environment: Mapping[str, str] | None = None
) -> list[Ended]:
    """Start all commands. At `until`, on the monotonic clock, interrupt those that still run and then kill them."""
    with tempfile.TemporaryDirectory() as folder:
        logs = {name: Path(folder) / str(number) for number, name in enumerate(commands)}
        running = {name: _start(command, logs[name], environment or {}) for name, command in commands.items()}
        statuses = {name: _wait(process, until) for name, process in running.items()}
        late = [name for name, status in statuses.items() if status is None]
        for number, seconds in ((signal.SIGINT, GRACE), (signal.SIGKILL, GRACE)):
            for name in late:
                _signal(running[name], number)
            end = time.monotonic() + seconds
            for name in late:
                _wait(running[name], end)
        return [Ended(name, status, _log(logs[name])) for name, status in statuses.items()]


def _start(command: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[Any]:
    with log.open("w") as file:
        return subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
            preexec_fn=_interruptible,
        )


def _interruptible() -> None:
    """Let SIGINT interrupt a new process, even if its parent ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _log(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LOG))
        return file.read().decode(errors="replace")


def _wait(process: subprocess.Popen[Any], until: float) -> int | None:
    try:
        return process.wait(None if until == math.inf else max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None


def _signal(process: subprocess.Popen[Any], number: int) -> None:
    if process.poll() is None:
        process.send_signal(number)
