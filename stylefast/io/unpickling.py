# SPDX-License-Identifier: Apache-2.0
"""Pickles read as data: each class or function that a pickle names becomes an inert object if its name is allowed.

There are three safeguards:

- Before loading, the opcodes are scanned, so that a small file cannot request a large amount of memory.
- During loading, every name becomes a class that stores arguments and state and runs nothing.
- After loading, tensors and arrays are built only from inert objects whose names, types, sizes and strides agree.
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
)
_NOT_ALLOWED = "it asks for {}, which is not on the list of allowed names"
_FORBIDDEN_OPCODES = {"INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER"}
_PUT_OPCODES = {"PUT", "BINPUT", "LONG_BINPUT"}
_NUMBER_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
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


class InertStorage(InertObject):
    """Dtype and bytes of the storage of a tensor."""

    __slots__ = ()
    name = "a storage"


def read_pickle(path: PathLike, allowed: Collection[str], *, allowed_pattern: str = "") -> Any:
    """Read a pickle without running any code in it.

    Args:
        path: Path of the file.
        allowed: Full names ("module.name") that may become inert objects.
        allowed_pattern: Regular expression of further allowed names.

    Returns:
        Contents of the pickle, made of numbers, strings, bytes, tuples, lists, dictionaries and inert objects.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file asks for another name, which the message gives, or is not a complete pickle.
    """
    try:
        return parse_pickle(Path(path).read_bytes(), allowed, allowed_pattern=allowed_pattern)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} cannot be used: {error}") from error


def parse_pickle(
    data: bytes,
    allowed: Collection[str],
    *,
    allowed_pattern: str = "",
    load_persistent: Callable[[Any], InertObject] | None = None,
) -> Any:
    """Read a pickle from bytes as `read_pickle` does; `load_persistent` returns the object of a persistent id."""
    classes: dict[str, type[InertObject]] = {}

    class Reader(pickle.Unpickler):
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
        _scan_opcodes(data)
        return Reader(io.BytesIO(data), encoding="latin1").load()
    except (pickle.UnpicklingError, *READ_ERRORS) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _scan_opcodes(data: bytes) -> None:
    """Raise ValueError if an opcode is unknown, not allowed, or requests more memory than the file has data for."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name in _FORBIDDEN_OPCODES:
            raise ValueError(f"it has the opcode {opcode.name}, which no network, catalog or array needs")
        if opcode.name in _PUT_OPCODES and argument not in range(count + 1):
            raise ValueError(f"it keeps entry {argument} of a table of at most {count} entries")


def type_name(value: Any) -> str:
    """Return the name of an inert object, or the name of the type of any other value."""
    return value.name if isinstance(value, InertObject) else type(value).__name__


def dict_entries(value: Any) -> Mapping[Any, Any]:
    """Return the entries of a dictionary or of an inert dictionary. Raise ValueError for anything else."""
    if isinstance(value, InertObject) and value.name in DICTIONARIES:
        initial = value.args[0] if value.args else {}
        return {**dict(initial), **value.items}
    if not isinstance(value, dict):
        raise ValueError(f"a dictionary was expected, got {type_name(value)}")
    return value


def to_tensor(value: Any) -> Tensor:
    """Build the tensor that an inert object describes, with memory of its own.

    Raises:
        ValueError: If the object does not describe a tensor, or the tensor lies outside its storage.
    """
    if not isinstance(value, InertObject) or value.name not in TENSORS:
        raise ValueError(f"a tensor was expected, got {type_name(value)}")
    if value.name.endswith("_rebuild_parameter"):
        return to_tensor(value.args[0])
    if not value.name.endswith("_rebuild_tensor_v2") or len(value.args) < 4:
        raise ValueError(f"a tensor was expected, got {type_name(value)} with {len(value.args)} arguments")
    flat = _to_flat_tensor(value.args[0])
    offset, shape, strides = value.args[1:4]
    numbers = (offset, *shape, *strides)
    if not all(type(n) is int and 0 <= n < _MAX_NUMBER for n in numbers) or len(shape) != len(strides):
        raise ValueError(f"a tensor has the invalid offset, shape and strides {numbers}")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if 0 not in shape else 0
    if last >= len(flat) and 0 not in shape:
        raise ValueError(f"a tensor of shape {tuple(shape)} ends at element {last} of {len(flat)}")
    if math.prod(shape) > len(flat):
        raise ValueError(f"a tensor of shape {tuple(shape)} has more elements than its storage, {len(flat)}")
    return flat.as_strided(shape, strides, offset).clone(memory_format=torch.contiguous_format)


def _to_flat_tensor(value: Any) -> Tensor:
    """Return the elements of a storage, [n]."""
    if isinstance(value, InertStorage):
        dtype, data = value.args
        return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype, device="cpu")
    if not isinstance(value, InertObject) or not value.name.endswith("_load_from_bytes") or len(value.args) != 1:
        raise ValueError(f"a tensor's storage was expected, got {type_name(value)}")
    try:
        storage = torch.load(io.BytesIO(_to_bytes(value.args[0])), map_location="cpu", weights_only=True)
        return torch.empty(0, dtype=storage.dtype, device="cpu").set_(storage)
    except Exception as error:  # torch may raise any exception for damaged bytes
        raise ValueError(f"a tensor's storage cannot be read: {torch_refusal(error)}") from error


def torch_refusal(error: Exception) -> str:
    """Return the reason why torch did not read a file, in one line."""
    if asked := re.search(r"GLOBAL `?([\w.]+\.\w+)`?", str(error)):
        return _NOT_ALLOWED.format(asked[1])
    line = re.search(r"(?<=WeightsUnpickler error: ).+", str(error)) or re.search(r".+", str(error))
    return line[0] if line else type(error).__name__


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
    dtype, data = _to_dtype(inert_dtype), _to_bytes(data)
    if not all(type(n) is int and 0 <= n < _MAX_NUMBER for n in shape):
        raise ValueError(f"an array has the invalid shape {shape}")
    size = dtype.itemsize * math.prod(shape)
    if len(data) != size:
        raise ValueError(f"an array of shape {shape} of {dtype} needs {size} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order=order).astype(dtype.newbyteorder("="))


def _to_bytes(value: Any) -> bytes | bytearray:
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
        raise ValueError(f"an array must hold numbers, got elements of {text or type_name(value)}")
    return np.dtype(order + text)
