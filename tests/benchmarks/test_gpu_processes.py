# SPDX-License-Identifier: Apache-2.0
"""Tests of processes that run side by side: they are ended at the deadline, and their logs are kept."""

from __future__ import annotations

import sys
import time

import pytest
from gpu import processes
from gpu.processes import side_by_side


def test_late_processes_are_interrupted_and_keep_their_logs():
    python = [sys.executable, "-u", "-c"]
    ended = side_by_side(
        {
            "short": [*python, "print('a')"],
            "polite": [*python, "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('b')"],
        },
        time.monotonic() + 8.0,
    )
    assert [(process.name, process.status, process.log) for process in ended] == [
        ("short", 0, "a\n"),
        ("polite", None, "b\n"),
    ]


def test_stubborn_processes_end_together_within_the_reserve(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processes, "GRACE", 1.0)
    script = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('a', flush=True); time.sleep(60)"
    begin = time.monotonic()
    ended = side_by_side({str(i): [sys.executable, "-c", script] for i in range(12)}, begin + 4)
    assert {(process.status, process.log) for process in ended} == {
        (None, "a\n")
    } and time.monotonic() - begin < 4 + 12 * 1.0
