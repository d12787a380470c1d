# SPDX-License-Identifier: Apache-2.0
"""Latents as users have them: one W or W+ or many, alone or by name, in the files of other tools; nothing is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from .torch_files import read_archive
from .unpickling import ARRAYS, DICTIONARIES, TENSORS, Record, array, members, parse, read_pickle, tensor

KEYS = ("w", "ws", "w_plus", "wp", "latent", "latents", "latent_code")  # of which the first that is there is taken
_NAMES = {*ARRAYS, *DICTIONARIES, *TENSORS}


def read_latents(path: Path) -> tuple[dict[str, Tensor], list[str] | None]:
    """Read "w", and of .safetensors also "styles".

    Args:
        path: .npy, .npz, .pt, .pth, .pkl or .safetensors with a tensor, an array, or a dictionary that has it under
            "w" or a name like it, or that has one latent for each image by its name.

    Returns:
        The tensors as they are in the file, latents by name one a row; and these names, if there are any.

    Raises:
        ValueError: no latents, or something that is no data.
    """
    if path.suffix == ".npy":
        return _found(_npy(path))
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return _found(arrays[arrays.files[0]] if len(arrays.files) == 1 else dict(arrays))
    if path.suffix in (".pt", ".pth"):
        return _found(read_archive(path, mmap=True))
    if path.suffix == ".pkl":
        return _found(read_pickle(path, _NAMES))
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        return {name: tensors[name] for name in ("w", "styles") if name in tensors}, None
    raise ValueError("latents must be a .npy, .npz, .pt, .pkl or .safetensors file")


def fit(w: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Latents for a generator that takes rows [D] or [rows, D].

    A lone [D] is one image in W, and a lone [rows, D] one in W+. Where the generator takes rows, [N, D] and [N, 1, D]
    give every row of an image the same latent; where it takes none, rows that are all the same become one.
    """
    w = w[None] if w.ndim == 1 or (w.ndim == 2 and w.shape == shape) else w
    if len(shape) == 2:
        w = w[:, None] if w.ndim == 2 else w
        return w.expand(-1, *shape) if w.ndim == 3 and w.shape[1] == 1 and w.shape[2] == shape[1] else w
    return w[:, 0] if w.ndim == 3 and bool((w == w[:, :1]).all()) else w


def _npy(path: Path) -> Any:
    """An array; what numpy has pickled is read as data."""
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = read(file)
        if not dtype.hasobject:
            return np.load(path, mmap_mode="c", allow_pickle=False)
        content = parse(file.read(), _NAMES).state[4]
        if not isinstance(content, list) or len(content) != 1:
            raise ValueError("an array of objects must hold one dictionary")
        return content[0]


def _found(content: Any) -> tuple[dict[str, Tensor], list[str] | None]:
    if not _is_dictionary(content):
        return {"w": _tensor(content)}, None
    entries = members(content)
    for key in KEYS:
        if key in entries:
            return {"w": _tensor(entries[key])}, None
    rows = {str(name): _row(str(name), entry) for name, entry in entries.items()}
    if not rows or len({row.shape for row in rows.values()}) != 1:
        shapes = {name: tuple(row.shape) for name, row in rows.items()}
        raise ValueError(f"latents by name must be of one shape, got {shapes}")
    return {"w": torch.stack(list(rows.values()))}, [Path(name).stem for name in rows]


def _row(name: str, entry: Any) -> Tensor:
    """The latent of one image, [D] or [rows, D]."""
    key = next((key for key in KEYS if key in members(entry)), None) if _is_dictionary(entry) else None
    row = _tensor(entry if key is None else members(entry)[key])
    row = row[0] if row.ndim > 1 and len(row) == 1 else row
    if row.ndim not in (1, 2):
        raise ValueError(f"the latent of {name} must be that of one image, got shape {tuple(row.shape)}")
    return row


def _is_dictionary(value: Any) -> bool:
    return isinstance(value, Mapping) or isinstance(value, Record) and value.name in DICTIONARIES


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Record):
        value = tensor(value) if value.name in TENSORS else array(value)
    if isinstance(value, list | tuple) and value:
        return torch.stack([_tensor(item) for item in value])
    if not isinstance(value, Tensor | np.ndarray):
        raise ValueError(f"latents must be a tensor, an array, or a dictionary with one, got {type(value).__name__}")
    return torch.as_tensor(value)
