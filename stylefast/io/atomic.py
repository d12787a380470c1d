# SPDX-License-Identifier: Apache-2.0
"""Atomic writes: a file appears under its name complete or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from .private import create, is_token, remove_abandoned

PathLike: TypeAlias = str | os.PathLike[str]

_PREFIX, _PART = ".stylefast-", ".part"  # a temporary name is the prefix, a token, the part, and the suffix of the file


@contextmanager
def atomic_write(path: PathLike) -> Iterator[Path]:
    """Return a context manager that gives a temporary path and renames it to `path` on success.

    If the block raises, the temporary file is removed and `path` stays as it was. Missing folders are created. Links
    are followed, also links to files that do not exist, so that `path` remains a link. An existing file keeps its
    permissions and, where this process may set them, its owner and group. A new file gets the permissions that the
    umask leaves. The temporary file is in the folder of the file that is written. No other process writes to it.

    Args:
        path: Path of the file.

    Yields:
        The temporary path of an empty file, with the same suffix.

    Raises:
        OSError: If the path is a folder, a device or a pipe, the file is read-only, or a link cannot be followed.
    """
    path = Path(path)
    existing = writable_status(path)
    if not path.is_symlink():
        make_folder(path.parent)
    destination = Path(os.path.realpath(path))
    try:
        temporary, descriptor = create(
            lambda token: destination.with_name(f"{_PREFIX}{token}{_PART}{path.suffix}"),
            0o666 if existing is None else 0o600,
        )
    except OSError as error:  # the error names the temporary file
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        yield temporary
        if existing is not None:
            _set_permissions(temporary, existing)
        os.replace(temporary, destination)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)


def writable_status(path: PathLike) -> os.stat_result | None:
    """Return the status of an existing file, or None if there is no file.

    Raises:
        OSError: If the path is a folder, a device or a pipe, the file is read-only, or a link cannot be followed.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file, but a device, a pipe or a socket", os.fspath(path))
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
    return status


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents. A link to a missing folder is followed if that has a parent.

    Raises:
        OSError: If the path or a parent is a file, or the folder cannot be created.
    """
    if path.is_dir():
        return
    try:
        if path.is_symlink():
            Path(os.path.realpath(path)).mkdir(exist_ok=True)
        else:
            make_folder(path.parent)
            path.mkdir(exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error


def remove_leftovers(directory: Path) -> None:
    """Remove the temporary files that writers left in a folder because their process was killed."""
    for name in os.listdir(directory):
        token, part, _ = name.removeprefix(_PREFIX).partition(_PART)
        if part and name.startswith(_PREFIX) and is_token(token):
            remove_abandoned(directory / name)


def _set_permissions(temporary: Path, existing: os.stat_result) -> None:
    """Give a file the owner and group (where this process may set them) and the permissions of an existing file."""
    status = os.stat(temporary)
    if (status.st_uid, status.st_gid) != (existing.st_uid, existing.st_gid):
        with suppress(PermissionError):
            os.chown(temporary, existing.st_uid, existing.st_gid)
    if stat.S_IMODE(status.st_mode) != stat.S_IMODE(existing.st_mode):
        os.chmod(temporary, stat.S_IMODE(existing.st_mode))
