# SPDX-License-Identifier: Apache-2.0
"""Tensors in safetensors files, which are written atomically and verified by a checksum when they are read."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .atomic import PathLike, atomic_write, remove_leftovers


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
    """
    copies = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    # One metadata entry, because safetensors writes several entries in an order that differs between processes.
    metadata = {kind: json.dumps({"crc32": checksum(copies), "of": provenance, **header})}
    with atomic_write(path) as temporary:
        remove_leftovers(temporary.parent)
        temporary.write_bytes(save(copies, metadata))  # save_file would choose its own temporary name


def read_tensors(
    path: PathLike, kind: str, *, provenance: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the header of a file written by `write_tensors`.

    Args:
        path: Path of the file.
        kind: Expected format and version.
        provenance: Entries that the provenance of the file must have.

    Returns:
        The tensors by name, and the entries of the header without checksum and provenance.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the path is a folder, the file is truncated or damaged, or it has another format or provenance.
            The message names the first entry of the provenance that differs.
    """
    try:
        if os.path.isdir(path):
            raise ValueError("it is a folder")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if kind not in metadata:
                raise ValueError(f"its format is {', '.join(metadata) or None}, not {kind}")
            header = json.loads(metadata[kind])
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        if checksum(tensors) != header.pop("crc32"):
            raise ValueError("its contents do not match its checksum")
        stored_provenance = header.pop("of") or {}
        for name, value in (provenance or {}).items():
            if stored_provenance.get(name) != value:
                stored_value = stored_provenance.get(name)
                raise ValueError(f"it has another provenance: its {name} is {stored_value!r}, not {value!r}")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} cannot be used: {error}") from error
    return tensors, header


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """Return the CRC-32 of the names and bytes of tensors, in the order of their names."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        for rows in torch.atleast_1d(tensors[name]).split(4096):
            crc = zlib.crc32(rows.cpu().contiguous().flatten().view(torch.uint8).numpy().data, crc)
    return crc
