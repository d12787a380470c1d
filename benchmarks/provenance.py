# SPDX-License-Identifier: Apache-2.0
"""Provenance of a figure: date, machine, versions and source code."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import environment
import torch

import stylefast
from stylefast.backends.native import instruction_set

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MEASURED = ("stylefast", "csrc", "setup.py", "benchmarks/*.py", "benchmarks/gpu")


def machine() -> str:
    """Return the name and the core count of the processor, in the form of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", f"{processor()} {len(environment.CPUS)} cores".lower()).strip("-")


def processor() -> str:
    """Return the name of the processor."""
    named = re.search(r"^model name\s*: (.*)$", environment.PROCESSOR, re.MULTILINE)
    return named[1] if named else environment.PROCESSOR or platform.machine()


@cache
def context() -> dict[str, Any]:
    """Return date, processor, versions and source code of this process.

    Outside a git repository `commit` and `dirty` are None, and only `sources` identifies the code.
    """
    status = git("status", "--porcelain", "--", *MEASURED)
    return {
        "date": now(),
        "processor": processor(),
        "cores": len(environment.CPUS),
        "commit": git("rev-parse", "--short", "HEAD"),
        "dirty": None if status is None else bool(status),
        "sources": sources(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "stylefast": stylefast.__version__,
        "instruction_set": instruction_set(),
    }


def now() -> str:
    """Return the current time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def git(*arguments: str) -> str | None:
    """Return the output of a git command, or None without git or if the source tree is not the root of a repository."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", f"--git-dir={ROOT / '.git'}", *arguments]
    try:
        process = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    except OSError:
        return None
    return process.stdout.strip() if process.returncode == 0 else None


def sources() -> str:
    """Return a digest of the package's Python files and kernels: the first 12 hexadecimal digits of a SHA-256."""
    files = [*(ROOT / "stylefast").rglob("*.py"), *(path for path in (ROOT / "csrc").rglob("*") if path.is_file())]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]
