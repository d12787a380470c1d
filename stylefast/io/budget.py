# SPDX-License-Identifier: Apache-2.0
"""Limit of the memory that the contents of a file may take, and checks that a path is a regular file.

Readers take the size that a file declares from a budget before they allocate memory. A small file can declare large
tensors: by compression, by strides of zero, or by lists that hold the same tensor many times.
"""

from __future__ import annotations

import os
import re
import stat

from .atomic import PathLike

VARIABLE = "STYLEFAST_MAX_BYTES"
DEFAULT = 4 << 30
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Budget:
    """Bytes that the contents of one file may take.

    Args:
        limit: Limit in bytes. The default is the environment variable STYLEFAST_MAX_BYTES, else 4 GB.

    Raises:
        ValueError: If the limit or the variable is not a positive number of bytes.
    """

    def __init__(self, limit: float | None = None) -> None:
        self._limit = _limit_of_environment() if limit is None else limit
        if not self._limit > 0:
            raise ValueError(f"max_bytes must be positive, got {limit}")
        self._taken = 0

    def take(self, n_bytes: int, what: str = "it") -> None:
        """Take bytes from the budget.

        Args:
            n_bytes: Number of bytes.
            what: Subject of the error message.

        Raises:
            ValueError: If the limit is exceeded.
        """
        self._taken += n_bytes
        self._check(self._taken, n_bytes, what)

    def check(self, n_bytes: int, what: str = "it") -> None:
        """Check that bytes fit in the limit, without taking them. Arguments and errors are those of `take`."""
        self._check(n_bytes, n_bytes, what)

    def _check(self, total: int, n_bytes: int, what: str) -> None:
        if total > self._limit:
            before = f" (together with the data before it, {_format(total)})" if total > n_bytes else ""
            raise ValueError(
                f"{what} takes {_format(n_bytes)} of memory{before}, more than the limit of {_format(self._limit)}; "
                f"if you trust the file, set {VARIABLE}={_format(total, up=True).replace(' ', '').rstrip('B')}"
            )


def check_file(path: PathLike, budget: Budget | None = None) -> int:
    """Check that a path is a regular file, which is not opened: opening a pipe waits for its writer.

    Args:
        path: Path of the file. Symbolic links are followed.
        budget: Budget that the size of the file must fit in, or None.

    Returns:
        Size of the file in bytes.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the path is a folder, a pipe, a socket or a device, or the file exceeds the budget.
    """
    status = os.stat(path)
    for is_kind, kind in _KINDS:
        if is_kind(status.st_mode):
            hint = "; write its contents to a file first" if kind == "a pipe" else ""
            raise ValueError(f"it is {kind}, not a file{hint}")
    if budget is not None:
        budget.check(status.st_size, "the file")
    return status.st_size


def read_file(path: PathLike, budget: Budget | None = None) -> bytes:
    """Return the contents of a regular file of at most the size that the budget allows.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: As in `check_file`.
    """
    size = check_file(path, budget or Budget())
    with open(path, "rb") as file:
        return file.read(size)


def _limit_of_environment() -> int:
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return DEFAULT
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?)(?:I?B)?", text.upper())
    if not match or float(match[1]) <= 0:
        raise ValueError(f"{VARIABLE} must be a number of bytes, such as 8000000000 or 8G, got {text!r}")
    return int(float(match[1]) * _UNITS[match[2]])


def _format(n_bytes: float, *, up: bool = False) -> str:
    """Return a size such as "4 GB", rounded to one digit after the point, or up to an integer."""
    unit = next((unit for unit in "TGMK" if n_bytes >= _UNITS[unit]), "")
    if up:
        return f"{-(-n_bytes // _UNITS[unit]):.0f} {unit}B"
    return f"{n_bytes / _UNITS[unit]:.1f}".removesuffix(".0") + f" {unit}B"
