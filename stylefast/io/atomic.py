# SPDX-License-Identifier: Apache-2.0
"""Atomic writes: a file appears under its name complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

PathLike: TypeAlias = str | os.PathLike[str]


@contextmanager
def atomic_write(path: PathLike) -> Iterator[Path]:
    """Return a context manager that gives a temporary path beside `path` and renames it to `path` on success.

    If the block raises, the temporary file is removed. Missing folders are created. The temporary name depends only on
    `path`, so that the next writer replaces the file that a killed process left.

    Args:
        path: Path of the file.

    Yields:
        The temporary path, in the same folder and with the same suffix.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
