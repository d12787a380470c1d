# SPDX-License-Identifier: Apache-2.0
"""Files of torch.save, read as data. Their tensors are mapped into memory; nothing is allocated for them."""

from __future__ import annotations

import mmap
import os
import zipfile
import zlib
from collections.abc import Collection
from typing import Any

import numpy as np
from torch import Tensor

from .atomic import PathLike
from .budget import Budget, check_file
from .storages import MAGIC, ZIP_MAGIC, InertStorage, read_stream, read_zip, take_tensor
from .unpickling import (
    ARRAYS,
    DICTIONARIES,
    READ_ERRORS,
    TENSORS,
    dict_entries,
    to_array,
    type_name,
)

# Names in checkpoints of training scripts that torch itself reads with weights_only, and argparse.Namespace.
_VALUES = {
    "argparse.Namespace",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.set",
    "__builtin__.set",
    "collections.Counter",
    "torch.Size",
    "torch.Tensor",
    "torch.device",
    "torch.nn.parameter.Parameter",
    "torch.serialization._get_layout",
    *(f"torch.{dtype}" for dtype in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool")),
}
ALLOWED = {*_VALUES, *ARRAYS, *DICTIONARIES, *TENSORS}
_UNREADABLE = (ValueError, *READ_ERRORS, zipfile.BadZipFile, NotImplementedError, zlib.error, OSError)


def is_archive(path: PathLike) -> bool:
    """Return whether a file was written by torch.save.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the path is no regular file. The message names it.
    """
    try:
        check_file(path)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} cannot be used: {error}") from error
    with open(path, "rb") as file:
        return file.read(len(MAGIC)).startswith((ZIP_MAGIC, MAGIC))


def read_archive(path: PathLike, budget: Budget | None = None) -> Any:
    """Read tensors, arrays and plain values from a file of torch.save.

    Args:
        path: Path of the file.
        budget: Budget of the tensors. The default is a new one.

    Returns:
        Contents of the file. Tensors are on the CPU and share memory with the mapped file: writing to them changes
        neither the file nor other readers. Other objects are inert.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged, exceeds the budget, or asks for a class or function that is not allowed,
            which the message names.
    """
    try:
        budget = budget or Budget()
        return _plain(read_objects(path, ALLOWED, budget), budget, {})
    except _UNREADABLE as error:
        if isinstance(error, FileNotFoundError):
            raise
        prefix = f"{os.fspath(path)} cannot be used: "
        raise ValueError(prefix + (str(error) or type(error).__name__).removeprefix(prefix)) from error


def read_objects(path: PathLike, allowed: Collection[str], budget: Budget | None = None) -> Any:
    """Read any file of torch.save as `read_pickle` reads pickles. A storage becomes an `InertStorage`.

    Args:
        path: Path of the file.
        allowed: Full names ("module.name") that may become inert objects.
        budget: Budget that the file must fit in. The default is a new one.

    Returns:
        Plain values and inert objects, as `read_pickle` returns them.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file asks for another name, is damaged, or exceeds the budget.
    """
    try:
        if not check_file(path, budget or Budget()):
            raise ValueError("it is empty")
        data = np.memmap(path, np.uint8, mode="c")
        if bytes(data[: len(ZIP_MAGIC)]) == ZIP_MAGIC:
            with zipfile.ZipFile(path) as archive:
                return read_zip(archive, data, allowed, budget)
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
            return read_stream(stream, data, allowed, budget)
    except _UNREADABLE as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{os.fspath(path)} cannot be used: {error or type(error).__name__}") from error


def _plain(value: Any, budget: Budget, seen: dict[int, tuple[Any, Any]]) -> Any:
    """Return a value with tensors, arrays, dictionaries and lists in place of inert objects.

    `seen` holds the values that are already converted, so that a list that occurs many times is converted once.
    """
    if id(value) in seen:
        return seen[id(value)][1]
    if isinstance(value, dict) or type_name(value) in DICTIONARIES:
        plain: Any = {}
        seen[id(value)] = value, plain
        plain.update({key: _plain(item, budget, seen) for key, item in dict_entries(value).items()})
        return plain
    if isinstance(value, list):
        plain = []
        seen[id(value)] = value, plain
        plain += [_plain(item, budget, seen) for item in value]
        return plain
    if isinstance(value, tuple):
        plain = tuple(_plain(item, budget, seen) for item in value)
    elif type_name(value) in TENSORS and not type_name(value).endswith("_load_from_bytes"):
        plain = take_tensor(value, budget)
    elif type_name(value) in ARRAYS and type_name(value).rpartition(".")[2] in ("_reconstruct", "_frombuffer"):
        plain = to_array(value)
    elif isinstance(value, InertStorage):
        plain = _storage(value)
    else:
        return value
    seen[id(value)] = value, plain
    return plain


def _storage(value: InertStorage) -> Tensor:
    if value.elements is None:
        raise ValueError("it has a storage without elements")
    return value.elements
