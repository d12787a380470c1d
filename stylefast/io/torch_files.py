# SPDX-License-Identifier: Apache-2.0
"""Files of torch.save, read as data: plain checkpoints by torch itself, whole modules as inert objects."""

from __future__ import annotations

import argparse
import os
import zipfile
import zlib
from collections.abc import Collection
from typing import Any

import torch

from .atomic import PathLike
from .unpickling import READ_ERRORS, InertObject, InertStorage, parse_pickle, torch_refusal

_NEW_MAGIC = b"PK\x03\x04"
_OLD_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_STORAGE_DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}


def is_archive(path: PathLike) -> bool:
    """Return whether a file was written by torch.save."""
    with open(path, "rb") as file:
        return file.read(len(_OLD_MAGIC)).startswith((_NEW_MAGIC, _OLD_MAGIC))


def read_archive(path: PathLike, *, mmap: bool = False) -> Any:
    """Read tensors, plain values and `argparse.Namespace` (which training scripts save) from a file of torch.save.

    Args:
        path: Path of the file.
        mmap: Whether to map tensors into memory instead of reading them, if the format of the file allows it.

    Returns:
        Contents of the file, with tensors on the CPU.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged or asks for another class or function, which the message names.
    """
    with open(path, "rb") as file:
        mmap = mmap and file.read(len(_NEW_MAGIC)) == _NEW_MAGIC
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch may raise any exception for a damaged file
        raise ValueError(f"{os.fspath(path)} cannot be used: {torch_refusal(error)}") from error


def read_objects(path: PathLike, allowed: Collection[str]) -> Any:
    """Read any file of torch.save as `read_pickle` reads pickles. A storage becomes an `InertStorage`.

    Args:
        path: Path of the file.
        allowed: Full names ("module.name") that may become inert objects.

    Returns:
        Plain values and inert objects, as `read_pickle` returns them.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file asks for another name or is damaged, or is not in the zip format of torch 1.6 and later.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (pickle_name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))

            def read_entry(name: str) -> bytes:
                if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"its entry {name} is compressed, which torch does not do")
                return archive.read(name)

            def load_storage(pid: Any) -> InertObject:
                _, storage_type, key, *_ = pid
                dtype = _STORAGE_DTYPES[storage_type.name]
                return InertStorage(dtype, read_entry(f"{pickle_name.removesuffix('data.pkl')}data/{key}"))

            return parse_pickle(read_entry(pickle_name), {*allowed, *_STORAGE_DTYPES}, load_persistent=load_storage)
    except (ValueError, *READ_ERRORS, zipfile.BadZipFile, NotImplementedError, zlib.error, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{os.fspath(path)} cannot be used: {error or type(error).__name__}") from error
