# SPDX-License-Identifier: Apache-2.0
"""Tests of processes that run side by side: they are ended at the deadline, and their logs are kept."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from gpu import processes
from gpu.processes import side_by_side

POLITE = """trap 'echo b; kill $!; exit' INT; sleep 60 & touch "$0"; wait"""
STUBBORN = """trap '' INT; echo a; touch "$0"; exec sleep 60"""


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """The end of every wait for a process. The deadline of a process comes when it has written its file."""
    wait, ends = processes._wait, list[float]()

    def recorded(process: subprocess.Popen[Any], until: float) -> int | None:
        ends.append(until)
        if until == 0.0 and isinstance(process.args, list) and process.args[0] == "sh":
            while not Path(process.args[-1]).exists():
                time.sleep(0.01)
        return wait(process, 60.0 + time.monotonic() if process.args == ["echo", "a"] else until)

    monkeypatch.setattr(processes, "_wait", recorded)
    return ends


def script(text: str, path: Path) -> list[str]:
    return ["sh", "-c", text, str(path)]


def test_late_processes_are_interrupted_and_keep_their_logs(ends: list[float], tmp_path: Path):
    ended = side_by_side({"short": ["echo", "a"], "polite": script(POLITE, tmp_path / "polite")}, 0.0)
    assert [(process.name, process.status, process.log) for process in ended] == [
        ("short", 0, "a\n"),
        ("polite", None, "b\n"),
    ]


def test_stubborn_processes_end_together_within_the_reserve(
    ends: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(processes, "GRACE", 0.5)
    ended = side_by_side({str(i): script(STUBBORN, tmp_path / str(i)) for i in range(12)}, 0.0)
    assert {(process.status, process.log) for process in ended} == {(None, "a\n")}
    assert len(ends) == 3 * 12 and len(set(ends)) == 3  # the deadline, and one end for all after each signal
