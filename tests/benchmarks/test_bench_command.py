# SPDX-License-Identifier: Apache-2.0
"""Tests of the command `stylefast bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import peers
import pytest
from commands import run
from typer.testing import CliRunner

from stylefast.cli import app as cli


def test_the_command_runs_the_benchmarks_of_the_checkout(monkeypatch: pytest.MonkeyPatch):
    commands: list[list[str]] = []
    succeeded = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(subprocess, "run", lambda command, **options: commands.append(command) or succeeded)
    run("bench", "--rounds", 3, "--only", "blend", "--record")
    script = str(Path(peers.__file__).resolve())
    assert commands == [[sys.executable, script, "--rounds", "3", "--only", "blend", "--record"]]


def test_the_command_returns_the_exit_status(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subprocess, "run", lambda command, **options: subprocess.CompletedProcess([], 3))
    assert CliRunner().invoke(cli.app, ["bench"]).exit_code == 3


def test_the_command_says_where_missing_benchmarks_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "stylefast" / "cli" / "app.py"))
    monkeypatch.setattr(sys, "argv", ["stylefast", "bench"])
    with pytest.raises(SystemExit, match="^stylefast: the benchmarks are in the source repository"):
        cli.main()
