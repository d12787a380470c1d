# SPDX-License-Identifier: Apache-2.0
"""Fake compilers for tests of the build; they write empty files."""

from __future__ import annotations

from pathlib import Path


def fake_compiler(folder: Path) -> Path:
    """A C++ compiler that writes empty object files and libraries."""
    return _script(folder / "c++", 'while [ "$1" != -o ]; do shift; done\n: > "$2"\n')


def fake_nvcc(folder: Path) -> Path:
    """An nvcc that supports sm_75, sm_80 and sm_90, and appends its arguments to `nvcc.log` beside it."""
    codes = '[ "$1" = --list-gpu-code ] && printf "sm_75\\nsm_80\\nsm_90\\n" && exit\n'
    log = f'echo "$@" >> {folder / "nvcc.log"}\n'
    return _script(folder / "nvcc", f'{codes}{log}exec {fake_compiler(folder)} "$@"\n')


def _script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path
