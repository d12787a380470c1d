# SPDX-License-Identifier: Apache-2.0
"""Checks of the places of outputs, before the work whose results are written there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from .atomic import PathLike


def check_output_file(name: str, path: PathLike, *suffixes: str) -> None:
    """Check that a file can be written.

    Args:
        name: Name of the argument in the message.
        path: Path of the file. It may exist, and its folder may be missing.
        *suffixes: Suffixes of which the file must have one.

    Raises:
        ValueError: If the file has another suffix, is a folder, or its folder cannot be created or written to.
    """
    path = Path(path)
    if path.suffix not in suffixes:
        raise ValueError(f"{name} must be the path of a {' or '.join(suffixes)} file, got {str(path)!r}")
    if path.is_dir():
        raise ValueError(f"{name} must be a file, got the folder {str(path)!r}")
    check_output_folder(name, path.parent)


def check_output_folder(name: str, folder: PathLike) -> None:
    """Check that files can be created in a folder, which is created if necessary.

    Args:
        name: Name of the argument in the message.
        folder: Path of the folder. It may be missing.

    Raises:
        ValueError: If the folder cannot be created or written to.
    """
    place = Path(os.path.abspath(folder))
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"{name} must be in a folder that can be created, but {str(place)!r} is not a folder")
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        reason = f"{str(place)!r} cannot: {error.strerror}"
        raise ValueError(f"{name} must be in a folder that can be written to, but {reason}") from None
