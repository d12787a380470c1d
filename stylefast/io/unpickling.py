# SPDX-License-Identifier: Apache-2.0
"""Pickles read as data: each class or function that a pickle names becomes an inert object if its name is allowed.

There are three safeguards:

- Before loading, the opcodes are scanned, so that a small file cannot request a large amount of memory.
- During loading, every name becomes a class that stores arguments and state and runs nothing. Nested tuples are refused
  as keys, because their hash takes exponential time if they share elements.
- After loading, tensors and arrays are built only from inert objects whose names, types, sizes and strides agree.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import pickle
import pickletools
import re
import reprlib
import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np

from .atomic import PathLike
from .budget import Budget, check_file

TENSORS = frozenset(
    (
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch.storage._load_from_bytes",
    )
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
# Exceptions, besides ValueError, that damaged or hostile content can raise while it is read.
READ_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    RuntimeError,
    TypeError,
    struct.error,
)
_NOT_ALLOWED = "it asks for {}, which is not on the list of allowed names"
_FORBIDDEN_OPCODES = {"INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER"}
_PUT_OPCODES = {"PUT", "BINPUT", "LONG_BINPUT"}
_CONTAINER_OPCODES = re.compile(r"EMPTY_(LIST|DICT|SET)|FROZENSET|MARK|REDUCE|NEWOBJ(_EX)?|TUPLE[123]?")
MAX_REASON = 300  # characters
_CONTAINER_BYTES = 256  # upper bound of the memory of an empty container
_NUMBER_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_MAX_NDIM = 64
_MAX_NUMBER = 1 << 48  # bound on offsets, lengths and strides


class InertObject:
    """Description of an object in a pickle: name of its class or function, arguments, items and state."""

    __slots__ = ("args", "items", "state")
    name = ""
    args: tuple[Any, ...]
    items: dict[Any, Any]
    state: Any

    def __new__(cls, *args: Any) -> InertObject:
        inert = super().__new__(cls)
        inert.args, inert.items, inert.state = args, {}, None
        return inert

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value


def read_pickle(
    path: PathLike, allowed: Collection[str], *, allowed_pattern: str = "", budget: Budget | None = None
) -> Any:
    """Read a pickle without running any code in it.

    Args:
        path: Path of the file.
        allowed: Full names ("module.name") that may become inert objects.
        allowed_pattern: Regular expression of further allowed names.
        budget: Budget of the contents. The default is a new one.

    Returns:
        Contents of the pickle, made of numbers, strings, bytes, tuples, lists, dictionaries and inert objects.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file asks for another name, which the message gives, or is not a complete pickle.
    """
    try:
        budget = budget or Budget()
        if not check_file(path, budget):
            raise ValueError("it is empty")
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return parse_pickle(data, allowed, allowed_pattern=allowed_pattern, budget=budget)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} cannot be used: {error}") from error


def parse_pickle(
    data: bytes | mmap.mmap | io.BytesIO,
    allowed: Collection[str],
    *,
    allowed_pattern: str = "",
    load_persistent: Callable[[Any], InertObject] | None = None,
    budget: Budget | None = None,
) -> Any:
    """Read a pickle as `read_pickle` does, from bytes or from the position of a stream, which moves to its end.

    `load_persistent` returns the object of a persistent id.
    """
    classes: dict[str, type[InertObject]] = {}

    class Reader(_CheckedUnpickler):
        def find_class(self, module_name: str, global_name: str, /) -> type[InertObject]:
            name = f"{module_name}.{global_name}"
            if name not in allowed and not (allowed_pattern and re.fullmatch(allowed_pattern, name)):
                raise ValueError(_NOT_ALLOWED.format(name))
            return classes.setdefault(name, type("InertObject", (InertObject,), {"__slots__": (), "name": name}))

        def persistent_load(self, pid: Any, /) -> InertObject:
            if load_persistent is None:
                raise ValueError("it asks for something outside the file")
            return load_persistent(pid)

    try:
        stream = io.BytesIO(data) if isinstance(data, bytes) else data
        start = stream.tell()
        _scan_opcodes(stream, budget or Budget())
        stream.seek(start)
        return Reader(stream, encoding="latin1").load()
    except (ValueError, pickle.UnpicklingError, *READ_ERRORS) as error:
        raise ValueError(reason(error)) from error


def reason(error: Exception) -> str:
    """Return the message of an exception in one line, cut where it quotes the contents of a file."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."


def _scan_opcodes(stream: mmap.mmap | io.BytesIO, budget: Budget) -> None:
    """Raise ValueError if an opcode is unknown, not allowed, or requests more memory than the file has data for."""
    start = stream.tell()
    size = stream.seek(0, io.SEEK_END) or stream.tell()
    stream.seek(start)
    n_containers = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):  # type: ignore[arg-type]
        if opcode.name in _FORBIDDEN_OPCODES:
            raise ValueError(f"it has the opcode {opcode.name}, which no network, catalog or array needs")
        if opcode.name in _PUT_OPCODES and argument not in range(count + 1):
            raise ValueError(f"it keeps entry {argument} of a table of at most {count} entries")
        if opcode.name == "FRAME" and argument not in range(size):
            raise ValueError("it is truncated")
        if _CONTAINER_OPCODES.fullmatch(opcode.name):
            n_containers += 1
            budget.check(n_containers * _CONTAINER_BYTES, f"a pickle with {n_containers} lists and other containers")


def _check_keys(keys: Iterable[Any]) -> None:
    for key in keys:
        if isinstance(key, tuple) and any(isinstance(item, tuple) for item in key):
            raise ValueError("it has a nested tuple as a key")


def _checked(load: Callable[[Any], None], keys: slice) -> Callable[[Any], None]:
    """Return the handler of an opcode, after a check of the keys or set elements on the stack."""

    def load_checked(unpickler: Any) -> None:
        _check_keys(unpickler.stack[keys])
        load(unpickler)

    return load_checked


_PythonUnpickler: Any = pickle._Unpickler


class _CheckedUnpickler(_PythonUnpickler):
    """Unpickler in Python, so that keys and elements of sets can be checked before they are hashed."""

    dispatch = {
        **_PythonUnpickler.dispatch,
        pickle.SETITEM[0]: _checked(_PythonUnpickler.load_setitem, slice(-2, -1)),
        pickle.SETITEMS[0]: _checked(_PythonUnpickler.load_setitems, slice(0, None, 2)),
        pickle.DICT[0]: _checked(_PythonUnpickler.load_dict, slice(0, None, 2)),
        pickle.ADDITEMS[0]: _checked(_PythonUnpickler.load_additems, slice(None)),
        pickle.FROZENSET[0]: _checked(_PythonUnpickler.load_frozenset, slice(None)),
    }


def type_name(value: Any) -> str:
    """Return the name of an inert object, or the name of the type of any other value."""
    return value.name if isinstance(value, InertObject) else type(value).__name__


def dict_entries(value: Any) -> Mapping[Any, Any]:
    """Return the entries of a dictionary or of an inert dictionary. Raise ValueError for anything else."""
    if isinstance(value, InertObject) and value.name in DICTIONARIES:
        initial = value.args[0] if value.args else {}
        if not isinstance(initial, dict):
            _check_keys(key for key, _ in initial)
        return {**dict(initial), **value.items}
    if not isinstance(value, dict):
        raise ValueError(f"a dictionary was expected, got {type_name(value)}")
    return value


def to_array(value: Any) -> np.ndarray:
    """Build the array that an inert object describes: writable, in the byte order of this machine.

    A scalar of NumPy becomes a 0-d array.

    Raises:
        ValueError: If the object does not describe an array, its elements are not numbers, or its bytes do not match
            its shape.
    """
    name = type_name(value)
    if name.endswith(".multiarray.scalar"):
        (inert_dtype, data), shape, order = value.args, (), "C"
    elif name.endswith(".multiarray._reconstruct"):
        _, shape, inert_dtype, fortran, data = value.state
        order = "F" if fortran else "C"
    elif name.endswith(".numeric._frombuffer"):
        data, inert_dtype, shape, order = value.args
    else:
        raise ValueError(f"an array was expected, got {name}")
    dtype, data = _to_dtype(inert_dtype), to_bytes(data)
    check_numbers("an array has the invalid shape", shape)
    size = dtype.itemsize * math.prod(shape)
    if len(data) != size:
        raise ValueError(f"an array of shape {shape} of {dtype} needs {size} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order=order).astype(dtype.newbyteorder("="))


def check_numbers(message: str, numbers: Any) -> None:
    """Raise ValueError with the message and the numbers unless they are a few lengths, offsets or strides."""
    if len(numbers) > 2 * _MAX_NDIM + 1 or not all(type(n) is int and 0 <= n < _MAX_NUMBER for n in numbers):
        raise ValueError(f"{message} {reprlib.repr(numbers)}")


def to_bytes(value: Any) -> bytes | bytearray:
    """Return bytes. Old protocols store them as a string with one letter per byte and a call that encodes it."""
    if type_name(value) in ("_codecs.encode", "__builtin__.bytes"):
        value = value.args[0] if value.args else b""
    if isinstance(value, str):
        return value.encode("latin1")
    if not isinstance(value, bytes | bytearray):
        raise ValueError(f"bytes were expected, got {type_name(value)}")
    return value


def _to_dtype(value: Any) -> np.dtype:
    """Return the dtype of an inert `dtype("f4", ...)`, whose state `(3, "<", ...)` contains the byte order."""
    text = value.args[0] if isinstance(value, InertObject) and value.name == "numpy.dtype" and value.args else None
    state = value.state if isinstance(value, InertObject) else None
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else ""
    if not isinstance(text, str) or not isinstance(order, str) or not _NUMBER_DTYPE.fullmatch(order + text):
        elements = reprlib.repr(text).strip("'") if text else type_name(value)
        raise ValueError(f"an array must hold numbers, got elements of {elements}")
    return np.dtype(order + text)
