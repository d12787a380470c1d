# SPDX-License-Identifier: Apache-2.0
"""Idle OpenMP threads sleep in the command line, unless the user says otherwise, and nowhere else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stylefast.core.waiting import VARIABLES, is_command

# A module in place of torch, which only loads the library of OpenMP.
TORCH = """
import ctypes
ctypes.CDLL({!r})
raise SystemExit
"""


@pytest.fixture
def stub(tmp_path: Path) -> str:
    """Folder with a module `torch` that loads OpenMP as torch does, but nothing else, and then ends the process."""
    libraries = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libgomp" in line]
    (tmp_path / "torch.py").write_text(TORCH.format(libraries[0]))
    return os.pathsep.join([str(tmp_path), *sys.path])


def shown(command: list[str], **variables: str) -> str:
    """Run a command; return what OpenMP reports about its settings when torch is imported."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment |= {"OMP_DISPLAY_ENV": "verbose", **variables}
    process = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=True)
    return process.stderr


def policy(report: str) -> list[str]:
    return re.findall(r"OMP_WAIT_POLICY = '(\w+)'", report)


def test_commands_wait_passively_unless_told_otherwise(tmp_path: Path, stub: str):
    script = tmp_path / "stylefast"
    script.write_text("from stylefast.cli import main\nmain()")
    assert "PASSIVE" in policy(shown(["-m", "stylefast"]))
    assert policy(shown([str(script), "info"], PYTHONPATH=stub)) == ["PASSIVE"]
    assert policy(shown(["-m", "stylefast"], PYTHONPATH=stub, OMP_WAIT_POLICY="active")) == ["ACTIVE"]
    assert "GOMP_SPINCOUNT = '77'" in shown(["-m", "stylefast"], PYTHONPATH=stub, GOMP_SPINCOUNT="77")


def test_other_programs_keep_their_wait_policy(stub: str):
    policies = [policy(shown(["-c", f"import {name}"], PYTHONPATH=stub)) for name in ("stylefast", "torch")]
    assert policies[0] == policies[1] and len(policies[0]) == 1


@pytest.mark.parametrize(
    "argv, original, expected",
    [
        (["/usr/bin/stylefast", "edit"], ["python", "/usr/bin/stylefast", "edit"], True),
        (["C:/bin/stylefast.exe"], ["python", "C:/bin/stylefast.exe"], True),
        (["-m", "edit"], ["python", "-W", "ignore", "-m", "stylefast", "edit"], True),
        (["-m"], ["python", "-mstylefast"], True),
        (["-m"], ["python", "-m", "pytest", "stylefast"], False),
        (["train.py", "-m", "stylefast"], ["python", "train.py", "-m", "stylefast"], False),
        (["-c"], ["python", "-c", "import stylefast"], False),
        ([""], ["python"], False),
        ([], [], False),
    ],
)
def test_commands_are_recognised(argv: list[str], original: list[str], expected: bool):
    assert is_command(argv, original) == expected
