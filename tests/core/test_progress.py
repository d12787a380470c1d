# SPDX-License-Identifier: Apache-2.0
"""Progress: a bar in a terminal, lines in a log."""

import re
import time

import pytest

from stylefast.core import progress


def run(steps: int = 10) -> None:
    with progress.progress_bar(steps, "edits", "image") as bar:
        for _ in range(steps):
            time.sleep(0.03)
            bar.update()


def test_a_log_gets_a_line_per_interval(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setattr(progress, "INTERVAL", 0.1)
    run()
    lines = capfd.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 5
    assert all(re.fullmatch(r"edits: \d+ of 10, \S+ elapsed, \S+ remaining, .*", line) for line in lines)


def test_a_log_gets_nothing_in_the_first_minute(capfd: pytest.CaptureFixture[str]):
    run()
    assert capfd.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setattr(progress, "DELAY", 0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    run()
    shown = capfd.readouterr().err
    assert "\r" in shown and "edits: 100%" in shown


def test_hidden_progress_prints_nothing(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setattr(progress, "INTERVAL", 0)
    with progress.progress_bar(3, "edits", "image", shown=False) as bar:
        bar.update(3)
    assert capfd.readouterr().err == ""


def test_a_function_gets_every_step_and_can_end_the_work():
    steps = []

    def report(description: str, done: int, total: int) -> None:
        steps.append((description, done, total))
        if done >= 5:
            raise InterruptedError

    with pytest.raises(InterruptedError), progress.progress_bar(9, "edits", "image", shown=report, done=1) as bar:
        for _ in range(9):
            bar.update(2)
    assert steps == [("edits", 3, 9), ("edits", 5, 9)]
