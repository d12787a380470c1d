# SPDX-License-Identifier: Apache-2.0
"""Tests of the measurement of rows in child processes: a row that fails, crashes or hangs does not stop the others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from gpu import isolated
from gpu.isolated import Tally
from provenance import ROOT


def test_work_ends_before_the_stage_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STYLEFAST_STAGE_END", "100")
    assert (isolated.deadline(), isolated.deadline(12.0)) == (97.0, 88.0)


ROWS = """
import os, sys, time
from gpu import isolated
def measure(row):
    print("measuring", row, flush=True)
    if row == "wrong": raise ValueError("on purpose")
    if row == "dies": os._exit(7)
    if row == "hangs": time.sleep(600)
isolated.start = lambda: None
isolated.write = lambda kind, row, error: print(kind, row, error, flush=True)
sys.exit(isolated.serve(sys.argv[2:], measure, lambda row: 1.0 if row == "hangs" else 60.0))
"""


def test_rows_continue_after_one_that_fails_dies_or_hangs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):  # fmt: skip
    (tmp_path / "rows_module.py").write_text(ROWS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / "benchmarks"))))
    monkeypatch.setenv("STYLEFAST_REHEARSAL", "1")
    recorded = {}
    monkeypatch.setattr(isolated, "write", lambda kind, row, error: recorded.update({row: error}))
    tally = isolated.run("rows_module", ["a", "wrong", "b", "dies", "hangs", "c d"], time.monotonic() + 120)
    assert tally == Tally(done=["a", "b", "c d"], failed=["wrong", "dies", "hangs"], left=[])
    assert recorded == {"dies": "its process ended with status 7", "hangs": "its process ended with status 1"}
    assert "failure wrong ValueError: on purpose" in capfd.readouterr().out


def test_rows_that_are_not_reached_are_listed():
    assert isolated.run("no_module", ["a", "b"], time.monotonic()) == Tally(left=["a", "b"])


def test_rows_fail_if_their_process_does_not_start(capsys: pytest.CaptureFixture[str]):
    assert isolated.run("no_module", ["a", "b"], time.monotonic() + 60) == Tally(failed=["a", "b"])
    assert "python -m no_module ended with status 1 before a" in capsys.readouterr().out
