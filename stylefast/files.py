# SPDX-License-Identifier: Apache-2.0
"""Files that appear under their name whole or not at all, and tensors in them that are checked when they are read."""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

PathLike: TypeAlias = str | os.PathLike[str]
T = TypeVar("T")


class Index:
    """A dictionary of strings on disk that is gone when it is closed: memory does not grow with it."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # a temporary file, unnamed
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("CREATE TABLE entry (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    def __setitem__(self, key: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO entry VALUES (?, ?)", (key, value))

    def add(self, key: str, value: str) -> bool:
        """Adds an entry; False, and nothing changes, if there is one of that key."""
        return self._db.execute("INSERT OR IGNORE INTO entry VALUES (?, ?)", (key, value)).rowcount == 1

    def get(self, key: str) -> str | None:
        """The value of a key; None if there is none."""
        found = self._db.execute("SELECT value FROM entry WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None


@contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """A temporary name beside `path`: renamed to it if the block ends well, else removed, and `path` left as it was.

    The temporary name follows from `path`: what a killed process left there, the next writer of `path` takes away.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_tensors(
    path: PathLike, kind: str, tensors: Mapping[str, Tensor], *, of: Mapping[str, Any] | None = None, **header: Any
) -> None:
    """Writes a safetensors file with a JSON header, whole or not at all; equal contents give equal bytes.

    Args:
        path: where.
        kind: what the file is, such as "stylefast-catalog-1".
        tensors: by name, any layout and device.
        of: what job the file belongs to, as JSON can hold it.
        header: what else it shall hold, likewise.
    """
    dense = torch.contiguous_format
    copies = {name: x.detach().to("cpu", copy=True, memory_format=dense) for name, x in tensors.items()}
    # The order in which safetensors writes several entries of metadata differs from process to process: one entry.
    metadata = {kind: json.dumps({"crc32": checksum(copies), "of": of, **header})}
    with replacing(path) as temporary:
        temporary.write_bytes(save(copies, metadata))  # save_file would have a temporary name of its own


def read_tensors(
    path: PathLike, kind: str, *, of: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file that `write_tensors` wrote.

    Raises: FileNotFoundError; ValueError that says why it cannot be used: it is a folder, truncated, foreign, damaged,
    or of another job than `of`, with the first thing that differs.
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
            raise ValueError("its contents do not have the checksum that was written with them")
        theirs = header.pop("of") or {}
        for name, value in (of or {}).items():
            if theirs.get(name) != value:
                raise ValueError(f"it is of another job: its {name} is {theirs.get(name)!r}, not {value!r}")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} cannot be used: {error}") from error
    return tensors, header


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of names and bytes."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        for rows in torch.atleast_1d(tensors[name]).split(4096):
            crc = zlib.crc32(rows.cpu().contiguous().flatten().view(torch.uint8).numpy().data, crc)
    return crc
