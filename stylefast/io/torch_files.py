# SPDX-License-Identifier: Apache-2.0
"""Files that torch.save wrote, read as data: plain checkpoints by torch itself, whole modules as inert records."""

from __future__ import annotations

import argparse
import os
import zipfile
import zlib
from collections.abc import Collection
from typing import Any

import torch

from .atomic import PathLike
from .unpickling import FLAWS, Record, Storage, parse, refusal

_ARCHIVES = (b"PK\x03\x04", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")  # new format, and old
STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}


def is_archive(path: PathLike) -> bool:
    """Whether torch.save wrote a file."""
    with open(path, "rb") as file:
        return file.read(14).startswith(_ARCHIVES)


def read_archive(path: PathLike, *, mmap: bool = False) -> Any:
    """What torch.save wrote: tensors and plain values alone, and the namespace of arguments that training leaves.

    Args:
        path: the file.
        mmap: leave tensors on disk until they are read, where the file's format allows it.

    Raises: FileNotFoundError; ValueError that gives the name of anything else that the file asks for.
    """
    with open(path, "rb") as file:
        mmap = mmap and file.read(4) == _ARCHIVES[0]
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch's reader raises whatever a damaged file makes it stumble over
        raise ValueError(f"{os.fspath(path)} cannot be used: {refusal(error)}") from error


def read_objects(path: PathLike, allowed: Collection[str]) -> Any:
    """What torch.save wrote of objects that are no plain values, read as `read_pickle` does; storages become records.

    Raises: ValueError, as `read_pickle` does, or because the file is not in torch's newer format.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (pickled,) = (name for name in archive.namelist() if name.endswith("data.pkl"))

            def entry(name: str) -> bytes:
                if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"its entry {name} is compressed, which torch does not do")
                return archive.read(name)

            def stored(pid: Any) -> Record:
                _, kind, key, *_ = pid
                return Storage(STORAGES[kind.name], entry(f"{pickled.removesuffix('data.pkl')}data/{key}"))

            return parse(entry(pickled), {*allowed, *STORAGES}, stored=stored)
    except (ValueError, *FLAWS, zipfile.BadZipFile, NotImplementedError, zlib.error, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{os.fspath(path)} cannot be used: {error or type(error).__name__}") from error
