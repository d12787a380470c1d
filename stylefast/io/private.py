# SPDX-License-Identifier: Apache-2.0
"""Private files of this package in the folders of users: their names, and locks that last as long as their process.

The name of a private file has a token that only this package makes, so that files of users are never taken for private
ones. The process that creates the file keeps it locked. Once another process can lock it, its process has ended.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

LOCK_NAME = ".stylefast.lock"
_LOCK_CONTENT = b"stylefast lock\n"
_N_RANDOM = 16  # hexadecimal digits of a token that are random; the others are their hash
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of a file system without locks


def new_token() -> str:
    """Return a new token: 24 hexadecimal digits, of which the last 8 are a hash of the others."""
    return _with_hash(secrets.token_hex(_N_RANDOM // 2))


def is_token(text: str) -> bool:
    """Return whether `new_token` may have made a text."""
    return text == _with_hash(text[:_N_RANDOM])


def _with_hash(text: str) -> str:
    return text + blake2b(text.encode(errors="replace"), digest_size=4, person=b"stylefast").hexdigest()


def create(name: Callable[[str], Path], mode: int = 0o666) -> tuple[Path, int]:
    """Create an empty private file, open it for reading and writing, and lock it.

    Args:
        name: Function that returns the path for a token.
        mode: Permissions of the file, which the umask reduces.

    Returns:
        The path and the file descriptor. The lock lasts until the descriptor is closed.
    """
    while True:
        path = name(new_token())
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        lock(descriptor)
        if _is_at(descriptor, path):
            return path, descriptor
        os.close(descriptor)  # `remove_abandoned` of another process was faster than `lock`


def lock(descriptor: int, *, shared: bool = False, wait: bool = True) -> bool | None:
    """Lock an open file.

    Args:
        descriptor: Descriptor of the file.
        shared: Whether other processes may have shared locks at the same time.
        wait: Whether to wait until no other process has a lock that excludes this one.

    Returns:
        True if the file is locked, False if another process has a lock, None if the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def is_abandoned(path: Path) -> bool | None:
    """Return whether the process of a private file has ended, or None if the file system has no locks."""
    with _opened(path) as descriptor:
        return False if descriptor is None else lock(descriptor, wait=False)


def remove_abandoned(path: Path) -> None:
    """Remove a private file if its process has ended. A file that this process may not remove is left."""
    with _opened(path) as descriptor, suppress(PermissionError):
        if descriptor is not None and lock(descriptor, wait=False) and _is_at(descriptor, path):
            path.unlink(missing_ok=True)


@contextmanager
def folder_lock(directory: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool | None]:
    """Return a context manager that locks a folder. The file of the lock exists only inside of the `with` block.

    Args:
        directory: Folder, which must exist.
        shared: Whether other processes may have shared locks at the same time.
        wait: Whether to wait until no other process has a lock that excludes this one.

    Yields:
        True if the folder is locked, False if another process has a lock, None if the file system has no locks.
    """
    path = directory / LOCK_NAME
    while True:
        descriptor = _open_lock(path)
        locked = lock(descriptor, shared=shared, wait=wait)
        if not locked or _is_at(descriptor, path):
            break
        os.close(descriptor)  # the process that had the lock has removed the file meanwhile
    if locked is None:
        warnings.warn(f"{directory} is on a file system without locks: only one job may use it at a time", stacklevel=3)
    try:
        yield locked
    finally:
        is_last = locked is None or (locked and lock(descriptor, wait=False))
        if is_last and os.pread(descriptor, len(_LOCK_CONTENT) + 1, 0) == _LOCK_CONTENT:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    """Open the file of a lock, which is created with its content if necessary."""
    while True:
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            os.write(descriptor, _LOCK_CONTENT)
            return descriptor
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW)


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """Open a regular file for reading and writing; yield None if it does not exist or cannot be opened."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        yield None
        return
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):  # a link, a pipe or a socket
            raise
        yield None
        return
    try:
        yield descriptor if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file is the file at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
