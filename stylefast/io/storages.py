# SPDX-License-Identifier: Apache-2.0
"""Tensors of torch in pickles: storages are read from the formats of torch.save, and inert objects become tensors."""

from __future__ import annotations

import io
import math
import mmap
import struct
import zipfile
import zlib
from collections.abc import Collection
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from .budget import Budget
from .unpickling import READ_ERRORS, TENSORS, InertObject, check_numbers, parse_pickle, reason, to_bytes, type_name

ZIP_MAGIC = b"PK\x03\x04"
MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # start of a stream
_CACHE = object()  # key of the elements in the items of an object that describes a storage
DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.storage.UntypedStorage": torch.uint8,
}


class InertStorage(InertObject):
    """Storage of a tensor: its elements, [n]."""

    __slots__ = ("elements",)
    name = "a storage"
    elements: Tensor | None

    @classmethod
    def of(cls, elements: Tensor | None) -> InertStorage:
        """Return a storage with these elements; None if they come later in the stream."""
        storage = cls()
        storage.elements = elements
        return storage


def elements_of(data: np.ndarray, dtype: torch.dtype, *, swap: bool = False) -> Tensor:
    """Return bytes [n] as elements of a dtype, without a copy where their address allows it.

    Raises:
        ValueError: If the bytes are no whole number of elements.
    """
    size = dtype.itemsize
    if len(data) % size:
        raise ValueError(f"a storage of {len(data)} bytes must be a multiple of element size {size}")
    if swap:
        data = data.reshape(-1, size)[:, ::-1].reshape(-1)
    if not len(data):
        return torch.empty(0, dtype=dtype, device="cpu")
    if not data.flags.writeable or data.ctypes.data % size:
        data = data.copy()
    return torch.from_numpy(data).view(dtype)


def read_stream(
    stream: mmap.mmap | io.BytesIO, data: np.ndarray, allowed: Collection[str], budget: Budget | None = None
) -> Any:
    """Read a file of torch.save before torch 1.6: five pickles, and the elements of the storages.

    Args:
        stream: The file, at its start.
        data: The same bytes, [n] uint8. The storages share their memory if it is writable.
        allowed: Full names ("module.name") that may become inert objects.
        budget: Budget of the contents. The default is a new one.

    Returns:
        Plain values and inert objects. A storage is an `InertStorage`.

    Raises:
        ValueError: If the file asks for another name or is damaged.
    """
    storages: dict[str, tuple[InertStorage, torch.dtype, int]] = {}

    def load_storage(pid: Any) -> InertObject:
        storage_type, key, _, n_elements, view = cast(tuple[Any, ...], (*pid, None)[1:6])
        if not isinstance(key, str) or view is not None:
            raise ValueError(
                "it has storages that are views of storages, which torch has not written since version 0.4"
            )
        check_numbers("a storage has the invalid length", (n_elements,))
        return storages.setdefault(key, (InertStorage.of(None), DTYPES[storage_type.name], n_elements))[0]

    for _ in range(3):  # magic number, version of the protocol, sizes of types
        parse_pickle(stream, ())
    content = parse_pickle(stream, {*allowed, *DTYPES}, load_persistent=load_storage, budget=budget)
    for key in parse_pickle(stream, ()):
        storage, dtype, n_elements = storages[key]
        (stored,) = struct.unpack("<q", stream.read(8))
        start = stream.tell()
        stop = start + n_elements * dtype.itemsize
        if stored != n_elements or stop > len(data):
            raise ValueError(f"a storage of {n_elements} elements is cut off or has another length, {stored}")
        storage.elements = elements_of(data[start:stop], dtype)
        stream.seek(stop)
    return content


def read_zip(archive: zipfile.ZipFile, data: np.ndarray, allowed: Collection[str], budget: Budget | None = None) -> Any:
    """Read a file of torch.save since torch 1.6, a zip archive. Arguments and result are those of `read_stream`."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise ValueError("it is a zip archive, but none of torch.save")
    folder = pickles[0].removesuffix("data.pkl")
    storages: dict[str, InertStorage] = {}

    def contents(name: str) -> np.ndarray:
        if folder + name not in entries:
            raise ValueError(f"it lacks its entry {name}")
        return _contents(entries[folder + name], data)

    big_endian = f"{folder}byteorder" in entries and contents("byteorder").tobytes() == b"big"

    def load_storage(pid: Any) -> InertObject:
        _, storage_type, key, *_ = pid
        if key not in storages:
            elements = elements_of(contents(f"data/{key}"), DTYPES[storage_type.name], swap=big_endian)
            storages[key] = InertStorage.of(elements)
        return storages[key]

    pickled = contents("data.pkl").tobytes()
    return parse_pickle(pickled, {*allowed, *DTYPES}, load_persistent=load_storage, budget=budget)


def _contents(entry: zipfile.ZipInfo, data: np.ndarray) -> np.ndarray:
    """Return the bytes of an entry of a zip archive as a view of the archive's bytes."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise ValueError(f"its entry {entry.filename} is compressed or encrypted, which torch does not do")
    n_name, n_extra = struct.unpack("<HH", data[entry.header_offset + 26 : entry.header_offset + 30].tobytes())
    start = entry.header_offset + 30 + n_name + n_extra
    contents = data[start : start + entry.file_size]
    if len(contents) != entry.file_size:
        raise ValueError(f"its entry {entry.filename} is cut off")
    if entry.CRC and zlib.crc32(contents.data) != entry.CRC:  # torch can leave out the checksum, which is then 0
        raise ValueError(f"its entry {entry.filename} does not match its checksum")
    return contents


def to_tensor(value: Any) -> Tensor:
    """Build the tensor that an inert object describes, with memory of its own.

    Raises:
        ValueError: If the object does not describe a tensor, the tensor lies outside its storage, or it has more
            elements than its storage.
    """
    view, n_stored = tensor_view(value)
    if view.numel() > n_stored:
        raise ValueError(f"a tensor of shape {tuple(view.shape)} has more elements than its storage, {n_stored}")
    return view.clone(memory_format=torch.contiguous_format)


def tensor_view(value: Any) -> tuple[Tensor, int]:
    """Return the tensor that an inert object describes as a view of its storage, and the storage's number of elements.

    Raises:
        ValueError: If the object does not describe a tensor, or the tensor lies outside its storage.
    """
    if not isinstance(value, InertObject) or value.name not in TENSORS:
        raise ValueError(f"a tensor was expected, got {type_name(value)}")
    if value.name.endswith("_rebuild_parameter") and value.args:
        if type_name(value.args[0]).endswith("_rebuild_parameter"):
            raise ValueError("a tensor was expected, got a parameter of a parameter")
        return tensor_view(value.args[0])
    if "_rebuild_tensor" not in value.name or len(value.args) < 4:
        raise ValueError(f"a tensor was expected, got {type_name(value)} with {len(value.args)} arguments")
    if len(value.args) > 6 and value.args[6]:  # the metadata of _rebuild_tensor_v2: bits that change the values
        raise ValueError("a tensor has torch's negative or conjugate bit; save tensor.resolve_neg().resolve_conj()")
    elements = _elements(value.args[0])
    offset, shape, strides = value.args[1:4]
    numbers = (offset, *shape, *strides)
    check_numbers("a tensor has the invalid offset, shape and strides", numbers)
    if len(shape) != len(strides):
        raise ValueError(f"a tensor has the invalid offset, shape and strides {numbers}")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if last >= len(elements) and 0 not in shape:
        raise ValueError(f"a tensor of shape {tuple(shape)} ends at element {last} of {len(elements)}")
    if math.prod(shape) * elements.itemsize >= 1 << 62:
        raise ValueError(f"a tensor of shape {tuple(shape)} has more elements than its storage, {len(elements)}")
    if 0 in shape:
        return elements.new_empty(shape), len(elements)
    return elements.as_strided(shape, strides, offset), len(elements)


def take_tensor(value: Any, budget: Budget) -> Tensor:
    """Return the tensor that an inert object describes as a view of its storage, after its size fits a budget.

    Raises:
        ValueError: As in `tensor_view`, or if the budget is exceeded.
    """
    view, _ = tensor_view(value)
    budget.take(view.numel() * view.itemsize, f"a tensor of shape {tuple(view.shape)}")
    return view


def _elements(value: Any) -> Tensor:
    """Return the elements of a storage, [n]."""
    if isinstance(value, InertStorage) and value.elements is not None:
        return value.elements
    if isinstance(value, InertObject) and _CACHE in value.items:
        return value.items[_CACHE]
    if not isinstance(value, InertObject) or not value.name.endswith("_load_from_bytes") or len(value.args) != 1:
        raise ValueError(f"a tensor's storage was expected, got {type_name(value)}")
    try:
        stream = io.BytesIO(to_bytes(value.args[0]))
        data = np.frombuffer(stream.getbuffer(), np.uint8)
        if bytes(data[: len(ZIP_MAGIC)]) == ZIP_MAGIC:
            storage = read_zip(zipfile.ZipFile(stream), data, ())
        else:
            storage = read_stream(stream, data, ())
        if not isinstance(storage, InertStorage) or storage.elements is None:
            raise ValueError(f"it holds {type_name(storage)}")
    except (ValueError, zipfile.BadZipFile, *READ_ERRORS) as error:
        raise ValueError(f"a tensor's storage cannot be read: {reason(error)}") from error
    value.items[_CACHE] = storage.elements
    return storage.elements
