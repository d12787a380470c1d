# SPDX-License-Identifier: Apache-2.0
"""Arrays in .npy and .npz files. Their declared sizes are checked before they are read, and objects are inert."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from .budget import Budget
from .unpickling import check_numbers, parse_pickle


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
        _take(shape, dtype, budget)
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
        with self._archive.open(entry) as file:
            shape, order, dtype = _read_header(file)
            if dtype.hasobject:
                self._budget.take(entry.file_size)
                return _read_object(file.read(entry.file_size), self._allowed)
            n_bytes = _take(shape, dtype, self._budget)
            data = file.read(n_bytes)
        if len(data) != n_bytes:
            raise ValueError(f"its array {name} of shape {shape} is cut off")
        return np.frombuffer(bytearray(data), dtype).reshape(shape, order=order)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], Any, np.dtype]:
    """Return the shape, the order ("C" or "F") and the dtype of the array that follows."""
    version = np.lib.format.read_magic(file)
    is_first = version == (1, 0)
    read_header = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(file)
    check_numbers("an array has the invalid shape", shape)
    if not dtype.hasobject and dtype.kind not in "fiub":
        raise ValueError(f"an array must hold real numbers, got elements of {str(dtype)[:60]}")
    return shape, "F" if is_fortran else "C", dtype


def _take(shape: tuple[int, ...], dtype: np.dtype, budget: Budget) -> int:
    n_bytes = math.prod(shape) * dtype.itemsize
    budget.take(n_bytes, f"an array of shape {shape}")
    return n_bytes


def _read_object(data: bytes, allowed: Collection[str]) -> Any:
    elements = parse_pickle(io.BytesIO(data), allowed).state[4]
    if not isinstance(elements, list) or len(elements) != 1:
        raise ValueError("an array of objects must hold one dictionary; save an array of numbers, such as np.stack(w)")
    return elements[0]
