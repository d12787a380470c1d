# SPDX-License-Identifier: Apache-2.0
"""Tensors in safetensors files, which are written atomically and verified by a checksum when they are read.

The checksum covers the format, the JSON header, and the names, dtypes, shapes and bytes of the tensors. In files of the
former version, which have the entry "crc32" in place of "checksum", it covers the names and bytes of the tensors only.
"""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..core.text import shortened
from .atomic import PathLike, atomic_write, remove_leftovers
from .budget import Budget, check_file
from .kinds import Wanted, refusal
from .unpickling import reason

_UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, RecursionError, MemoryError)
MAX_HEADER = 1 << 24  # bytes
_WANTED: dict[str, Wanted] = {"stylefast-catalog": "catalog", "stylefast-stylegan": "network"}
_SIZES = {"U8": 1, "I8": 1, "BOOL": 1, "F16": 2, "BF16": 2, "I16": 2, "F32": 4, "I32": 4, "F64": 8, "I64": 8}


def write_tensors(
    path: PathLike,
    kind: str,
    tensors: Mapping[str, Tensor],
    *,
    provenance: Mapping[str, Any] | None = None,
    **header: Any,
) -> None:
    """Write tensors and a JSON header to a safetensors file, atomically. Equal contents give equal bytes.

    Temporary files that a killed process left in the folder are removed.

    Args:
        path: Path of the file.
        kind: Format and version of the file, such as "stylefast-catalog-1".
        tensors: Tensors by name, with any strides and on any device.
        provenance: JSON-serialisable description of the inputs that the tensors were computed from.
        **header: Further JSON-serialisable entries of the header.

    Raises:
        ValueError: If the header is too long to be read again.
    """
    copies = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    entries = json.loads(json.dumps({"of": provenance, **header}))
    # One metadata entry, because safetensors writes several entries in an order that differs between processes.
    metadata = {kind: json.dumps({"checksum": _checksum(kind, entries, copies), **entries})}
    if len(metadata[kind]) > MAX_HEADER // 2:  # the other half is for escapes and for the names of tensors
        raise ValueError(f"the header of a file must have at most {MAX_HEADER // 2} bytes, got {len(metadata[kind])}")
    with atomic_write(path) as temporary:
        remove_leftovers(temporary.parent)
        temporary.write_bytes(save(copies, metadata))  # save_file would choose its own temporary name


def read_tensors(
    path: PathLike,
    kind: str,
    *,
    provenance: Mapping[str, Any] | None = None,
    budget: Budget | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the header of a file written by `write_tensors`.

    Args:
        path: Path of the file.
        kind: Expected format and version.
        provenance: Entries that the provenance of the file must have.
        budget: Budget of the tensors. The default is a new one.

    Returns:
        The tensors by name, and the entries of the header without checksum and provenance.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the path is no regular file, the file is truncated or damaged, exceeds the budget, or has another
            format or provenance. The message names the first entry of the provenance that differs.
    """
    try:
        wanted = _WANTED.get(kind.rpartition("-")[0].rstrip("0123456789"))
        if wanted and (refused := refusal(path, wanted)):
            raise ValueError(refused)
        with open_tensors(path, budget or Budget()) as stored:
            if kind not in stored.metadata:
                raise ValueError(_other_format(kind, list(stored.metadata)))
            header = json.loads(stored.metadata[kind])
            tensors = {name: stored[name] for name in sorted(stored)}
        if not isinstance(header, dict) or ("checksum" in header) == ("crc32" in header) or "of" not in header:
            raise ValueError("its header is not one of this format")
        is_former = "crc32" in header
        expected = header.pop("crc32" if is_former else "checksum")
        if expected != (checksum(tensors) if is_former else _checksum(kind, header, tensors)):
            raise ValueError("its contents do not match its checksum")
        stored_provenance = header.pop("of") or {}
        for name, value in (provenance or {}).items():
            if stored_provenance.get(name) != value:
                texts = (shortened(repr(x)) for x in (stored_provenance.get(name), value))
                raise ValueError(f"it has another provenance: its {name} is {', not '.join(texts)}")
    except _UNREADABLE as error:
        raise ValueError(f"{os.fspath(path)} cannot be used: {error or type(error).__name__}") from error
    return tensors, header


class StoredTensors(Mapping[str, Tensor]):
    """Tensors of an open safetensors file. A tensor is read when it is used.

    Attributes:
        metadata: Metadata of the file.
    """

    def __init__(self, file: Any, budget: Budget) -> None:
        self._file, self._budget = file, budget
        self._names = dict.fromkeys(file.keys())
        self.metadata: dict[str, str] = file.metadata() or {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        stored = self._file.get_slice(name)
        shape, size = stored.get_shape(), _SIZES.get(stored.get_dtype(), 8)
        self._budget.take(math.prod(shape) * size, f"tensor {name[:60]} of shape {tuple(shape)}")
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def open_tensors(path: PathLike, budget: Budget) -> Iterator[StoredTensors]:
    """Return a context manager that opens any safetensors file.

    Args:
        path: Path of the file.
        budget: Budget from which the sizes of the tensors are taken.

    Yields:
        The tensors of the file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the path is no regular file, the file or its header is cut off or too long, or it is damaged.
    """
    size = check_file(path, budget)
    with open(path, "rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
    if size < 8 or n_header > size - 8:
        raise ValueError("it is no safetensors file, or is cut off")
    if n_header > MAX_HEADER:
        raise ValueError(f"its header must have at most {MAX_HEADER} bytes, got {n_header}")
    try:
        with safe_open(path, framework="pt") as file:
            yield StoredTensors(file, budget)
    except SafetensorError as error:
        raise ValueError(reason(error)) from error


def _other_format(kind: str, formats: list[str]) -> str:
    """Return the reason why a file with other formats is refused, with what to do if a later version wrote it."""
    name, _, version = kind.rpartition("-")
    for other in formats:
        if (match := re.fullmatch(rf"{re.escape(name)}-(\d{{1,9}})", other)) and int(match[1]) > int(version):
            return f"its format is {other}, which a later version of stylefast wrote, not {kind}; update stylefast"
    return f"its format is {', '.join(formats)[:200] or None}, not {kind}"


def _checksum(kind: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    layout = {name: [str(tensors[name].dtype), *tensors[name].shape] for name in sorted(tensors)}
    return checksum(tensors, zlib.crc32(json.dumps([kind, header, layout]).encode()))


def checksum(tensors: Mapping[str, Tensor], crc: int = 0) -> int:
    """Return the CRC-32 of the names and bytes of tensors, in the order of their names, continued from `crc`."""
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        for rows in torch.atleast_1d(tensors[name]).split(4096):
            crc = zlib.crc32(rows.cpu().contiguous().flatten().view(torch.uint8).numpy().data, crc)
    return crc
