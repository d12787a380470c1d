# SPDX-License-Identifier: Apache-2.0
"""Latents from files of other tools: one or many, in W or W+, with or without image names. No code in a file is run."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .arrays import StoredArrays, open_npz, read_npy
from .budget import Budget
from .kinds import refusal, sniff
from .storages import take_tensor, tensor_view
from .tensors import open_tensors
from .torch_files import ALLOWED, read_objects
from .unpickling import DICTIONARIES, TENSORS, InertObject, dict_entries, read_pickle, to_array, type_name

# Names of latents in all formats, without regard to case. The first name that a dictionary has is used.
KEYS = (
    *("w", "ws", "w_plus", "wplus", "w+", "wp", "w_pivot", "w_opt", "projected_w", "projected_ws", "w_latents"),
    *("latent", "latents", "latent_code", "latent_codes", "latent_in", "latent_w", "dlatent", "dlatents", "wlatent"),
    *("wlatents", "code", "codes", "inverted_code", "inverted_codes"),
)
STYLES = ("styles", "style")  # styles [N, S], or latents in W+, whichever their shape says
_INPUTS = ("z", "zs")  # inputs of the mapping
_MAX_DEPTH = 4  # of lists


class Shapes(NamedTuple):
    """Shapes of the latents and styles of a generator.

    Attributes:
        w: Shape of one latent, (D,) or (rows, D).
        n_styles: Length S of one row of styles.
    """

    w: tuple[int, ...]
    n_styles: int


def read_latents(
    path: Path, shapes: Shapes, budget: Budget | None = None
) -> tuple[dict[str, Tensor], list[str] | None]:
    """Read the latents of a file.

    Args:
        path: A file of NumPy (.npy, .npz), torch.save, pickle or safetensors; its contents tell which. It contains a
            tensor, an array, a list of them, a dictionary with one of them under one of `KEYS` or `STYLES`, or a
            dictionary with one latent per image name.
        shapes: Shapes of the generator, which tell latents and styles under a name of `STYLES` apart.
        budget: Budget of the tensors that are read. The default is a new one.

    Returns:
        The tensors of the file by name, "w", "styles" or both, and the image names or None. With image names, "w" has
        one row per name.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is of another kind, is damaged, exceeds the budget, or contains no latents.
    """
    if reason := refusal(path, "latents"):
        raise ValueError(reason)
    budget = budget or Budget()
    kind = sniff(path)
    with ExitStack() as stack:
        if kind is None and path.suffix not in (".pkl", ".pickle"):
            raise ValueError(
                "latents must be in a .npy, .npz, .pt, .pth, .pkl or .safetensors file, got other contents"
            )
        name = "pickle" if kind is None else kind.name
        if name == "npy":
            content = read_npy(path, ALLOWED, budget)
        elif name == "npz":
            content = stack.enter_context(open_npz(path, ALLOWED, budget))
        elif name == "safetensors":
            content = stack.enter_context(open_tensors(path, budget))
        else:
            is_archive = name == "torch"
            content = read_objects(path, ALLOWED, budget) if is_archive else read_pickle(path, ALLOWED, budget=budget)
        if isinstance(content, Mapping) and len(content) == 1 and name in ("npz", "safetensors"):
            ((key, only),) = content.items()
            content = {key: only} if key.lower() in (*STYLES, *_INPUTS) else only
        return _Finder(shapes, budget).find(content)


def broadcast_latents(w: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Reshape latents to the shape that a generator takes.

    A tensor [D] is one image in W, a tensor [rows, D] one image in W+. If the generator takes (rows, D), the rows of an
    image in W are copies of its latent. If it takes (D,), equal rows are reduced to one.

    Args:
        w: Latents of shape [D], [rows, D], [N, D], [N, 1, D] or [N, rows, D]. Further dimensions of length one before
            the last two are removed.
        shape: Shape of one latent of the generator, (D,) or (rows, D).

    Returns:
        Latents of shape `[N, *shape]`. If `w` does not fit, it is returned with at most one dimension added or removed,
        and the caller has to check its shape.
    """
    while w.ndim > 3 and 1 in w.shape[:-2]:
        w = w.squeeze(max(i for i in range(w.ndim - 2) if w.shape[i] == 1))
    w = w[None] if w.ndim == 1 or (w.ndim == 2 and w.shape == shape) else w
    if len(shape) == 2:
        w = w[:, None] if w.ndim == 2 else w
        return w.expand(-1, *shape) if w.ndim == 3 and w.shape[1] == 1 and w.shape[2] == shape[1] else w
    return w[:, 0] if w.ndim == 3 and bool((w == w[:, :1]).all()) else w


class _Finder:
    """Finds latents in the contents of a file."""

    def __init__(self, shapes: Shapes, budget: Budget) -> None:
        self._shapes, self._budget = shapes, budget
        self._leaves: dict[int, Tensor] = {}  # tensors of objects that can occur many times

    def find(self, content: Any, *, is_inner: bool = False) -> tuple[dict[str, Tensor], list[str] | None]:
        if not _is_dictionary(content):
            return {"w": self._tensor(content)}, None
        entries = _entries(content)
        found = _first(entries, KEYS)
        if found is not None and _is_dictionary(entries[found]) and not is_inner:
            return self.find(entries[found], is_inner=True)
        tensors = {} if found is None else {"w": self._tensor(entries[found])}
        if (styles := _first(entries, STYLES)) is not None:
            tensors |= self._styles(styles, entries[styles], "w" in tensors)
        if tensors:
            return tensors, None
        self._check_foreign(entries)
        only = next(iter(entries.values())) if len(entries) == 1 else None
        if _is_dictionary(only) and not is_inner:
            tensors, names = self.find(only, is_inner=True)
            is_row = (
                names is None and tensors.keys() == {"w"} and len(broadcast_latents(tensors["w"], self._shapes.w)) == 1
            )
            if not is_row:
                return tensors, names
        if isinstance(entries, StoredArrays):
            self._budget.check(entries.n_bytes, "all arrays")
        rows = {str(name): self._row(str(name), entry) for name, entry in entries.items()}
        if not rows or len({row.shape for row in rows.values()}) != 1:
            shapes = reprlib.repr({name: tuple(row.shape) for name, row in rows.items()})
            names = f"one of the names {', '.join(KEYS)}, or one latent of the same shape per image name"
            raise ValueError(f"latents must be under {names}, got {shapes}")
        return {"w": torch.stack(list(rows.values()))}, [Path(name).stem for name in rows]

    def _styles(self, name: str, value: Any, has_latents: bool) -> dict[str, Tensor]:
        """Return what is stored as styles: styles [N, S], or latents, which many tools call styles."""
        w_shape, n_styles = self._shapes
        letters = f"latents {['N', *w_shape]} or styles {['N', n_styles]} of this generator".replace("'", "")
        if isinstance(value, list | tuple) or _is_dictionary(value):
            n = len(_entries(value) if _is_dictionary(value) else value)
            raise ValueError(
                f"{name} must be one array of {letters}, got {n} values; if they are the styles of one layer each, "
                "concatenate them along the channels, in the order of the generator's sites"
            )
        tensor = self._tensor(value)
        if tensor.shape[-1:] == (n_styles,) and tensor.ndim <= 2:
            return {"styles": tensor if tensor.ndim == 2 else tensor[None]}
        latents = broadcast_latents(tensor, w_shape)
        if has_latents or latents.shape[1:] != w_shape:
            raise ValueError(f"{name} must be {letters}, got {tuple(tensor.shape)}")
        return {"w": latents}

    def _check_foreign(self, entries: Mapping[Any, Any]) -> None:
        for group in (entries, *filter(_is_dictionary, entries.values())):
            if any(isinstance(name, str) and name.endswith((".weight", ".bias")) for name in _entries(group)):
                hint = "convert it with `stylefast convert`, and give the result as the network"
                raise ValueError(f"it holds the weights of a network, not latents; {hint}")
        if _first(entries, _INPUTS) is not None and len(entries) <= 4:
            hint = "the mapping of the network computes w from them, as Generator.latents does for seeds"
            raise ValueError(f"it holds latents z, not w; {hint}")

    def _row(self, name: str, entry: Any) -> Tensor:
        """Return the latent of one image, [D] or [rows, D]."""
        if _is_dictionary(entry):
            entries = _entries(entry)
            found = _first(entries, (*KEYS, *STYLES))
            if found is None:
                got = reprlib.repr(sorted(map(str, entries)))
                raise ValueError(f"{name} must hold a latent under one of the names {', '.join(KEYS)}, got {got}")
            entry = entries[found]
        row = self._tensor(entry)
        while row.ndim > 1 and len(row) == 1:
            row = row[0]
        if row.ndim not in (1, 2):
            raise ValueError(f"the latent of {name} must have shape [D] or [rows, D], got {tuple(row.shape)}")
        return row

    def _tensor(self, value: Any) -> Tensor:
        if isinstance(value, list | tuple) and value:
            self._budget.take(4 * _count(value, {}, _MAX_DEPTH), "a list of latents")
            return _stack(value)
        if type_name(value) in TENSORS:
            return _check_real(take_tensor(value, self._budget))
        if isinstance(value, Tensor | np.ndarray):  # the container has taken the size
            return _leaf(value)
        tensor = self._leaves.get(id(value))
        if tensor is None:
            tensor = self._leaves[id(value)] = _leaf(value)
        self._budget.take(tensor.numel() * tensor.itemsize, f"an array of shape {tuple(tensor.shape)}")
        return tensor


def _count(value: Any, counts: dict[int, int], depth: int) -> int:
    """Return the number of elements of nested lists. A value that occurs many times is counted once, by `counts`."""
    if isinstance(value, int | float):
        return 1
    if id(value) not in counts:
        if not isinstance(value, list | tuple):
            tensor = tensor_view(value)[0] if type_name(value) in TENSORS else _leaf(value)
            counts[id(value)] = max(1, tensor.numel())
        elif depth == 0:
            raise ValueError(f"latents must be lists of at most {_MAX_DEPTH} levels, got more")
        else:
            counts[id(value)] = sum(_count(item, counts, depth - 1) for item in value)
    return counts[id(value)]


def _stack(value: Any) -> Tensor:
    if isinstance(value, list | tuple) and value:
        if all(isinstance(item, int | float) for item in value):
            return torch.tensor(value, dtype=torch.float32, device="cpu")
        return torch.stack([_stack(item) for item in value])
    return _leaf(value)


def _leaf(value: Any) -> Tensor:
    """Return a tensor, an array, or an inert object that describes one, as a tensor."""
    if isinstance(value, InertObject):
        value = tensor_view(value)[0] if value.name in TENSORS else to_array(value)
    if not isinstance(value, Tensor | np.ndarray):
        raise ValueError(
            f"latents must be a tensor, an array, or a dictionary or list with them, got {type_name(value)}"
        )
    if isinstance(value, np.ndarray):
        value = value.astype(value.dtype.newbyteorder("="), copy=False)
        value = torch.from_numpy(value if min(value.strides, default=0) >= 0 else value.copy())
    return _check_real(value)


def _check_real(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        raise ValueError(f"latents must be real numbers, got {tensor.dtype}")
    return tensor


def _first(entries: Mapping[Any, Any], names: tuple[str, ...]) -> Any:
    """Return the key of the first of the names that the entries have, without regard to case; None without any."""
    keys = {key.lower(): key for key in entries if isinstance(key, str)}
    return next((keys[name] for name in names if name in keys), None)


def _is_dictionary(value: Any) -> bool:
    return isinstance(value, Mapping) or type_name(value) in DICTIONARIES


def _entries(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else dict_entries(value)
