# SPDX-License-Identifier: Apache-2.0
"""Arrays in .npy and .npz files. Their declared sizes are checked before they are read, and objects are inert."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any
from zlib import error as DeflateError

import numpy as np

from .budget import Budget
from .unpickling import READ_ERRORS, check_numbers, parse_pickle, reason


def read_npy(path: Path, allowed: Collection[str], budget: Budget) -> Any:
    """Map the array of a .npy file into memory, or return the dictionary if the file contains a pickled dictionary.

    Args:
        path: Path of the file.
        allowed: Full names ("module.name") that may become inert objects in a pickled dictionary.
        budget: Budget from which the size of the array is taken.

    Raises:
        ValueError: If the file is damaged, exceeds the budget, or has no numbers.
    """
    with open(path, "rb") as file:
        shape, order, dtype = _read_header(file)
        if dtype.hasobject:
            return _read_object(file.read(), allowed)
        budget.take(math.prod(shape) * dtype.itemsize, f"an array of shape {shape}")
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, mode="c", offset=file.tell(), shape=shape, order=order)


@contextmanager
def open_npz(path: Path, allowed: Collection[str], budget: Budget) -> Iterator[StoredArrays]:
    """Return a context manager that gives the arrays of a .npz file by name.

    Args and errors are those of `read_npy`.
    """
    with zipfile.ZipFile(path) as archive:
        yield StoredArrays(archive, allowed, budget)


class StoredArrays(Mapping[str, Any]):
    """Arrays of an open .npz file. An array is read when it is used.

    Attributes:
        n_bytes: Size of all arrays, which is declared in the directory of the file.
    """

    def __init__(self, archive: zipfile.ZipFile, allowed: Collection[str], budget: Budget) -> None:
        self._archive, self._allowed, self._budget = archive, allowed, budget
        self._entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        self.n_bytes: int = sum(entry.file_size for entry in self._entries.values())

    def __getitem__(self, name: str) -> Any:
        entry = self._entries[name]
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"its array {name} has a compression that NumPy does not write")
        try:
            with self._archive.open(entry) as file:
                shape, order, dtype = _read_header(file)
                n_bytes = entry.file_size if dtype.hasobject else math.prod(shape) * dtype.itemsize
                self._budget.take(n_bytes, f"an array of shape {shape}")
                data = file.read(n_bytes)
        except (zipfile.BadZipFile, DeflateError, OSError, *READ_ERRORS) as error:
            raise ValueError(f"its array {name} is damaged: {reason(error)}") from error
        if dtype.hasobject:
            return _read_object(data, self._allowed)
        if len(data) != n_bytes:
            raise ValueError(f"its array {name} of shape {shape} is cut off")
        return np.frombuffer(bytearray(data), dtype).reshape(shape, order=order)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], Any, np.dtype]:
    """Return the shape, the order ("C" or "F") and the dtype of the array that follows."""
    is_first = np.lib.format.read_magic(file) == (1, 0)
    read_header = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
    try:
        shape, is_fortran, dtype = read_header(file)
    except (SyntaxError, TokenError, ValueError, *READ_ERRORS) as error:
        raise ValueError("the header of an array is damaged") from error
    check_numbers("an array has the invalid shape", shape)
    if not dtype.hasobject and dtype.kind not in "fiub":
        raise ValueError(f"an array must hold real numbers, got elements of {str(dtype)[:60]}")
    return shape, "F" if is_fortran else "C", dtype


def _read_object(data: bytes, allowed: Collection[str]) -> Any:
    elements = parse_pickle(io.BytesIO(data), allowed).state[4]
    if not isinstance(elements, list) or len(elements) != 1:
        raise ValueError("an array of objects must hold one dictionary; save an array of numbers, such as np.stack(w)")
    return elements[0]
