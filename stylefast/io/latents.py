# SPDX-License-Identifier: Apache-2.0
"""Latents from files of other tools: one or many, in W or W+, with or without image names. No code in a file is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from .torch_files import read_archive
from .unpickling import (
    ARRAYS,
    DICTIONARIES,
    TENSORS,
    InertObject,
    dict_entries,
    parse_pickle,
    read_pickle,
    to_array,
    to_tensor,
    type_name,
)

KEYS = ("w", "ws", "w_plus", "wp", "latent", "latents", "latent_code")  # the first key that a dictionary has is used
_ALLOWED = {*ARRAYS, *DICTIONARIES, *TENSORS}


def read_latents(path: Path) -> tuple[dict[str, Tensor], list[str] | None]:
    """Read the latents of a file.

    Args:
        path: A .npy, .npz, .pt, .pth, .pkl or .safetensors file. It contains a tensor, an array, a dictionary with one
            of them under one of `KEYS`, or a dictionary with one latent per image name.

    Returns:
        The tensors of the file by name, and the image names or None. The tensors are the latents "w". A .safetensors
        file may have the styles "styles", with or without "w". With image names, "w" has one row per name.

    Raises:
        ValueError: If the file has another suffix, contains no latents, or contains anything other than data.
    """
    if path.suffix == ".npy":
        return _find_latents(_read_npy(path))
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return _find_latents(arrays[arrays.files[0]] if len(arrays.files) == 1 else dict(arrays))
    if path.suffix in (".pt", ".pth"):
        return _find_latents(read_archive(path, mmap=True))
    if path.suffix == ".pkl":
        return _find_latents(read_pickle(path, _ALLOWED))
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        return {name: tensors[name] for name in ("w", "styles") if name in tensors}, None
    raise ValueError("latents must be a .npy, .npz, .pt, .pkl or .safetensors file")


def broadcast_latents(w: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Reshape latents to the shape that a generator takes.

    A tensor [D] is one image in W, a tensor [rows, D] one image in W+. If the generator takes (rows, D), the rows of an
    image in W are copies of its latent. If it takes (D,), equal rows are reduced to one.

    Args:
        w: Latents of shape [D], [rows, D], [N, D], [N, 1, D] or [N, rows, D].
        shape: Shape of one latent of the generator, (D,) or (rows, D).

    Returns:
        Latents of shape `[N, *shape]`. If `w` does not fit, it is returned with at most one dimension added or removed,
        and the caller has to check its shape.
    """
    w = w[None] if w.ndim == 1 or (w.ndim == 2 and w.shape == shape) else w
    if len(shape) == 2:
        w = w[:, None] if w.ndim == 2 else w
        return w.expand(-1, *shape) if w.ndim == 3 and w.shape[1] == 1 and w.shape[2] == shape[1] else w
    return w[:, 0] if w.ndim == 3 and bool((w == w[:, :1]).all()) else w


def _read_npy(path: Path) -> Any:
    """Return the array of a .npy file, or the dictionary if the file contains a pickled dictionary."""
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        is_first = version == (1, 0)
        read_header = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
        _, _, dtype = read_header(file)
        if not dtype.hasobject:
            return np.load(path, mmap_mode="c", allow_pickle=False)
        elements = parse_pickle(file.read(), _ALLOWED).state[4]
        if not isinstance(elements, list) or len(elements) != 1:
            raise ValueError("an array of objects must hold one dictionary")
        return elements[0]


def _find_latents(content: Any) -> tuple[dict[str, Tensor], list[str] | None]:
    if not _is_dictionary(content):
        return {"w": _to_tensor(content)}, None
    entries = dict_entries(content)
    for key in KEYS:
        if key in entries:
            return {"w": _to_tensor(entries[key])}, None
    rows = {str(name): _to_row(str(name), entry) for name, entry in entries.items()}
    if not rows or len({row.shape for row in rows.values()}) != 1:
        shapes = {name: tuple(row.shape) for name, row in rows.items()}
        raise ValueError(f"latents of all names must have the same shape, got {shapes}")
    return {"w": torch.stack(list(rows.values()))}, [Path(name).stem for name in rows]


def _to_row(name: str, entry: Any) -> Tensor:
    """Return the latent of one image, [D] or [rows, D]."""
    if _is_dictionary(entry):
        entries = dict_entries(entry)
        entry = next((entries[key] for key in KEYS if key in entries), entry)
    row = _to_tensor(entry)
    row = row[0] if row.ndim > 1 and len(row) == 1 else row
    if row.ndim not in (1, 2):
        raise ValueError(f"the latent of {name} must have shape [D] or [rows, D], got {tuple(row.shape)}")
    return row


def _is_dictionary(value: Any) -> bool:
    return isinstance(value, Mapping) or type_name(value) in DICTIONARIES


def _to_tensor(value: Any) -> Tensor:
    if isinstance(value, InertObject):
        value = to_tensor(value) if value.name in TENSORS else to_array(value)
    if isinstance(value, list | tuple) and value:
        return torch.stack([_to_tensor(item) for item in value])
    if not isinstance(value, Tensor | np.ndarray):
        raise ValueError(f"latents must be a tensor, an array, or a dictionary with one, got {type(value).__name__}")
    return value if isinstance(value, Tensor) else torch.from_numpy(value)
