# SPDX-License-Identifier: Apache-2.0
"""The build: one wheel for any Python, a wheel without kernels where there is no compiler, and what the package reports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import stylefast
from stylefast.backends import BACKENDS
from stylefast.ops import OPS

ROOT = Path(stylefast.__file__).parent.parent
CPU_LIBRARY = "stylefast/libstylefast_cpu.so"


def wheel(folder: Path, **environment: str) -> Path:
    """Builds a wheel from a copy of the sources, without anything that was built before."""
    source = folder / "source"
    source.mkdir()
    for name in ("csrc", "stylefast"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for path in (*ROOT.glob("*.md"), *(ROOT / name for name in ("setup.py", "pyproject.toml", "LICENSE"))):
        shutil.copy(path, source)
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    cleaned = {name: value for name, value in os.environ.items() if name not in ("CXX", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=source, env=cleaned | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def python(*arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), **environment}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def one_command(tmp_path: Path) -> Path:
    """A compiler that writes an empty object: what a wheel holds does not depend on what is in the library."""
    command = tmp_path / "bin" / "one-command"
    command.parent.mkdir()
    command.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\n: > "$2"\n')
    command.chmod(0o755)
    return command


def test_the_wheel_serves_any_python(tmp_path: Path, one_command: Path):
    built = wheel(tmp_path, CXX=str(one_command))
    name, version, *tag = built.stem.split("-")
    assert (name, version, tag[:2]) == ("stylefast", stylefast.__version__, ["py3", "none"])
    assert len(tag) == 3 and tag[2] != "any"
    files = zipfile.ZipFile(built).namelist()
    assert [file for file in files if file.endswith((".so", ".pyd", ".pyc"))] == [CPU_LIBRARY]
    assert not [file for file in files if "cpython" in file or not file.startswith("stylefast")]


def test_without_a_compiler_the_package_runs_on_its_reference_and_says_so_once(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    built = wheel(tmp_path, PATH=str(tmp_path / "empty"))
    assert not [file for file in zipfile.ZipFile(built).namelist() if file.endswith(".so")]
    site = tmp_path / "site"
    zipfile.ZipFile(built).extractall(site)
    script = """
import torch, stylefast
print(stylefast.__file__)
for _ in range(2):
    labels, _ = stylefast.assign(torch.ones(1, 2, 2, 2), torch.eye(2))
print(labels.tolist())
"""
    done = python("-W", "always", "-c", script, folder=site)
    assert done.stdout.splitlines() == [str(site / "stylefast" / "__init__.py"), "[[[0, 0], [0, 0]]]"], done.stderr
    assert done.stderr.count("stylefast runs on its slow 'reference' backend: backend 'cpu' was not built") == 1

    lines = python("-m", "stylefast", folder=site).stdout.splitlines()
    assert ["CPU", "kernels", "none"] in [line.split() for line in lines]
    assert [op.name, *("x" if name == "reference" else "-" for name in BACKENDS)] in [x.split() for x in lines]
    assert lines[-1].startswith("backend 'cpu' was not built")
