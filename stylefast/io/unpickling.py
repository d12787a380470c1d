# SPDX-License-Identifier: Apache-2.0
"""Pickles read as data: what they would call becomes an inert record, and only of names on a list.

Three walls. Before anything is read, the opcodes are looked through: a file can claim no memory that it does not fill.
While it is read, every name gives a class of its own that keeps arguments and state and does nothing. Afterwards
tensors and arrays are made of records whose names, types, sizes and strides agree with each other.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .atomic import PathLike

TENSORS = frozenset(
    ("torch._utils._rebuild_parameter", "torch._utils._rebuild_tensor_v2", "torch.storage._load_from_bytes")
)
DICTIONARIES = frozenset(("collections.OrderedDict", "dnnlib.util.EasyDict"))
ARRAYS = frozenset(
    ("numpy.dtype", "numpy.ndarray", "_codecs.encode", "__builtin__.bytes")
    + tuple(
        f"numpy.{core}.{name}"
        for core in ("core", "_core")
        for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
    )
)
_FORBIDDEN = {"INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
FLAWS = (ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RecursionError, RuntimeError, TypeError)
ASKS = "it asks for {}, which is not on the list of what may be read"


class Record:
    """What a pickle asked to be made: the name of a class or function, its arguments, and what was put into it."""

    name = ""
    __slots__ = ("args", "items", "state")

    def __new__(cls, *args: Any) -> Record:
        record = super().__new__(cls)
        record.args, record.items, record.state = args, {}, None
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value


class Storage(Record):
    """The type and the bytes of a tensor's storage."""

    name = "a storage"
    __slots__ = ()


def read_pickle(path: PathLike, allowed: Collection[str], *, inert: str = "") -> Any:
    """Read a pickle and run nothing that is in it.

    Args:
        path: the file.
        allowed: full names ("module.name") that may become records.
        inert: regular expression of more names that may.

    Returns:
        Numbers, texts, bytes, tuples, lists, dicts and records.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file asks for another name, which the error gives, or is not a whole pickle.
    """
    try:
        return parse(Path(path).read_bytes(), allowed, inert=inert)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} cannot be used: {error}") from error


def parse(
    data: bytes,
    allowed: Collection[str],
    *,
    inert: str = "",
    stored: Callable[[Any], Record] | None = None,
) -> Any:
    """The same of a pickle in memory, which may refer to what `stored` gives."""
    classes: dict[str, type[Record]] = {}

    class Reader(pickle.Unpickler):
        def find_class(self, module_name: str, global_name: str, /) -> type[Record]:
            name = f"{module_name}.{global_name}"
            if name not in allowed and not (inert and re.fullmatch(inert, name)):
                raise ValueError(ASKS.format(name))
            return classes.setdefault(name, type("Record", (Record,), {"__slots__": (), "name": name}))

        def persistent_load(self, pid: Any, /) -> Record:
            if stored is None:
                raise ValueError("it asks for something outside the file")
            return stored(pid)

    try:
        _look_through(data)
        return Reader(io.BytesIO(data), encoding="latin1").load()
    except (pickle.UnpicklingError, *FLAWS) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _look_through(data: bytes) -> None:
    """Raises ValueError unless all opcodes are known ones and claim no more memory than the file's own size."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name in _FORBIDDEN:
            raise ValueError(f"it has the opcode {opcode.name}, which no network, catalog or array needs")
        if opcode.name in _PUTS and argument not in range(count + 1):
            raise ValueError(f"it keeps entry {argument} of a table that has {count} at most")


def members(record: Any) -> Mapping[Any, Any]:
    """The entries of a dictionary, plain or recorded."""
    if isinstance(record, Record) and record.name in DICTIONARIES:
        given = record.args[0] if record.args else {}
        return {**dict(given), **record.items}
    if not isinstance(record, dict):
        raise ValueError(f"a dictionary was expected, got {describe(record)}")
    return record


def describe(value: Any) -> str:
    """What a value is, in a word: the name that a record asked for, or a type."""
    return value.name if isinstance(value, Record) else type(value).__name__


def tensor(record: Any) -> Tensor:
    """The tensor of a record, which shares its storage with no other.

    Raises: ValueError, if it is none, or lies outside its storage.
    """
    if not isinstance(record, Record) or record.name not in TENSORS:
        raise ValueError(f"a tensor was expected, got {describe(record)}")
    if record.name.endswith("_rebuild_parameter"):
        return tensor(record.args[0])
    if not record.name.endswith("_rebuild_tensor_v2") or len(record.args) < 4:
        raise ValueError(f"a tensor was expected, got {describe(record)} of {len(record.args)} arguments")
    flat = _storage(record.args[0])
    begin, shape, strides = record.args[1:4]
    numbers = (begin, *shape, *strides)
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers) or len(shape) != len(strides):
        raise ValueError(f"a tensor has offset, shape and strides {numbers}")
    last = begin + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if 0 not in shape else 0
    if last >= len(flat) and 0 not in shape:
        raise ValueError(f"a tensor of shape {tuple(shape)} ends at element {last} of {len(flat)}")
    if math.prod(shape) > len(flat):
        raise ValueError(f"a tensor of shape {tuple(shape)} has more elements than its storage, {len(flat)}")
    return flat.as_strided(shape, strides, begin).clone(memory_format=torch.contiguous_format)


def _storage(record: Any) -> Tensor:
    if isinstance(record, Storage):
        dtype, data = record.args
        return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
    if not isinstance(record, Record) or not record.name.endswith("_load_from_bytes") or len(record.args) != 1:
        raise ValueError(f"a tensor's storage was expected, got {describe(record)}")
    try:
        storage = torch.load(io.BytesIO(_bytes(record.args[0])), map_location="cpu", weights_only=True)
        return torch.empty(0, dtype=storage.dtype).set_(storage)
    except Exception as error:  # torch's reader raises whatever damaged bytes make it stumble over
        raise ValueError(f"a tensor's storage cannot be read: {refusal(error)}") from error


def refusal(error: Exception) -> str:
    """Why torch would not read a file, in a line."""
    if asked := re.search(r"GLOBAL `?([\w.]+\.\w+)`?", str(error)):
        return ASKS.format(asked[1])
    line = re.search(r"(?<=WeightsUnpickler error: ).+", str(error)) or re.search(r".+", str(error))
    return line[0] if line else type(error).__name__


def array(record: Any) -> np.ndarray:
    """The array of a record, writable, in this machine's byte order; numpy's numbers are arrays of no dimensions.

    Raises: ValueError, if it is none, its elements are no numbers, or its bytes are more or fewer than its shape says.
    """
    name = describe(record)
    if name.endswith(".multiarray.scalar"):
        (kind, data), shape, order = record.args, (), "C"
    elif name.endswith(".multiarray._reconstruct"):
        _, shape, kind, fortran, data = record.state
        order = "F" if fortran else "C"
    elif name.endswith(".numeric._frombuffer"):
        data, kind, shape, order = record.args
    else:
        raise ValueError(f"an array was expected, got {name}")
    dtype, data = _dtype(kind), _bytes(data)
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
        raise ValueError(f"an array has the shape {shape}")
    size = dtype.itemsize * math.prod(shape)
    if len(data) != size:
        raise ValueError(f"an array of shape {shape} of {dtype} needs {size} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order=order).astype(dtype.newbyteorder("="))


def _bytes(value: Any) -> bytes | bytearray:
    """Bytes, also as old protocols write them: as a text of as many letters, with a call that turns it into bytes."""
    if describe(value) in ("_codecs.encode", "__builtin__.bytes"):
        value = value.args[0] if value.args else b""
    if isinstance(value, str):
        return value.encode("latin1")
    if not isinstance(value, bytes | bytearray):
        raise ValueError(f"bytes were expected, got {describe(value)}")
    return value


def _dtype(record: Any) -> np.dtype:
    """dtype("f4", ...) with the state (3, "<", ...): the byte order stands in the state."""
    text = record.args[0] if isinstance(record, Record) and record.name == "numpy.dtype" and record.args else None
    state = record.state if isinstance(record, Record) else None
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else ""
    if not isinstance(text, str) or not isinstance(order, str) or not _DTYPE.fullmatch(order + text):
        raise ValueError(f"an array must hold numbers, got elements of {text or describe(record)}")
    return np.dtype(order + text)
