# SPDX-License-Identifier: Apache-2.0
"""Images to edit or to take parts from: seeds, latents or stored styles, in rows that are made when asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .files import PathLike, checksum
from .generators import Generator

KEPT = 1024  # latents of seeds that are not computed again
SEEDS = range(1 << 32)
_UNREADABLE = (ValueError, TypeError, KeyError, EOFError, RuntimeError, SafetensorError, UnpicklingError, BadZipFile)


class Images(ABC):
    """Images that one generator makes: rows with a name, a latent w and styles.

    What a row gives is computed for it alone, so it does not depend on which other rows are asked for.
    """

    generator: Generator

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, row: int) -> str:
        """The row's name, which no other row has; without "_", which separates the words of file names."""

    @abstractmethod
    def row(self, name: str | int) -> int:
        """The row of a name or number, as a file may give it. Raises ValueError if there is none."""

    @abstractmethod
    def w(self, row: int) -> Tensor:
        """The row's latent: [1, D] or [1, rows, D]. Raises ValueError if latents are not known."""

    @property
    @abstractmethod
    def origin(self) -> Any:
        """What else than names tells these rows from others, as JSON can hold it."""

    def styles(self, row: int) -> Tensor:
        """The row's styles: [1, S]."""
        return self.generator.styles(self.w(row))


class Seeds(Images):
    """The images of seeds, named seed0000, seed0001, ...

    Args:
        generator: whose images they are.
        seeds: different ones; a range costs no memory, not even that of all there are.
        truncation: as in `generator.latents`.

    Raises:
        ValueError: a seed twice, or out of range.
    """

    def __init__(self, generator: Generator, seeds: Sequence[int], *, truncation: float = 1.0) -> None:
        self._find = seeds.index
        if not isinstance(seeds, range):
            rows = {seed: row for row, seed in enumerate(seeds)}
            self._find = rows.__getitem__
            if len(rows) < len(seeds):
                raise ValueError(f"seeds must be different, got {', '.join(map(str, seeds))}")
        for seed in (*seeds[:1], *seeds[-1:]) if isinstance(seeds, range) else seeds:
            if seed not in SEEDS:
                raise ValueError(f"seeds must be in [0, 2**32), got {seed}")
        self.generator, self.seeds, self.truncation = generator, seeds, truncation
        self._w = lru_cache(KEPT)(lambda row: generator.latents([seeds[row]], truncation=truncation))

    def __len__(self) -> int:
        return len(self.seeds)

    def name(self, row: int) -> str:
        return f"seed{self.seeds[row]:04}"

    def row(self, name: str | int) -> int:
        """The row of a seed: 7, "7" or "seed0007"."""
        try:
            return self._find(int(str(name).strip().removeprefix("seed")))
        except (KeyError, ValueError):
            raise ValueError(f"there is no image {name!r} among {len(self)} seeds") from None

    def w(self, row: int) -> Tensor:
        return self._w(row)

    @property
    def origin(self) -> Any:
        return {"truncation": self.truncation}


class Stored(Images):
    """Images whose latents, styles or both are tensors.

    Args:
        generator: whose images they are.
        w: [N, D] or [N, rows, D], as `generator.latents` gives them. Targets need them.
        styles: [N, S], as `generator.styles` gives them; None has them computed from w.
        names: N different ones; default 0, 1, ... "_" becomes "-".

    Raises:
        TypeError, ValueError: another shape or device; NaN or Inf; neither w nor styles; names that are not different,
            or cannot be part of a file name.
    """

    def __init__(
        self,
        generator: Generator,
        w: Tensor | None = None,
        *,
        styles: Tensor | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        given: dict[Any, Tensor] = {k: x for k, x in (("w", w), ("styles", styles)) if x is not None}
        for argument, tensor in given.items():
            generator.check(argument, tensor)
            for begin in range(0, len(tensor), KEPT):
                finite = tensor[begin : begin + KEPT].flatten(1).isfinite().all(1)
                if not finite.all():
                    row = begin + int(finite.int().argmin())
                    raise ValueError(f"{argument} must be finite, got NaN or Inf in row {row}")
        counts = {len(tensor) for tensor in given.values()}
        if len(counts) != 1:
            raise ValueError(f"images need w, styles or both, with equally many rows, got {sorted(counts)} rows")
        self.generator, self._given, self._n = generator, given, counts.pop()
        self._names = [(str(i) if names is None else names[i]).replace("_", "-") for i in range(self._n)]
        self._rows = {name: row for row, name in enumerate(self._names)}
        if len(self._rows) < self._n:
            raise ValueError(f"images must have different names, got {', '.join(self._names)}")
        for name in self._names:
            if not name or Path(name).name != name:
                raise ValueError(f"names of images must be parts of file names, got {name!r}")

    @classmethod
    def load(cls, path: PathLike, generator: Generator) -> Stored:
        """Latents or styles from a file, without running what is inside; rows are named after it.

        w of .npy, .npz (the array "w", or its only one) or .pt (a tensor): [N, D], or [N, rows, D]; w and styles of
        .safetensors. Where the generator takes rows, an N x D array gives every row of an image the same latent.

        Raises: FileNotFoundError; ValueError that names the file and says why it cannot be used.
        """
        path = Path(path)
        try:
            arrays = {name: torch.as_tensor(array) for name, array in _read(path).items()}
            if (w := arrays.get("w")) is not None and w.ndim == 2 and len(generator.w_shape) == 2:
                arrays["w"] = w[:, None].expand(-1, *generator.w_shape)
            on = {name: array.to(generator.device, torch.float32) for name, array in arrays.items()}
            n = max((len(array) for array in on.values()), default=0)
            return cls(generator, on.get("w"), styles=on.get("styles"), names=[f"{path.stem}-{i:04}" for i in range(n)])
        except _UNREADABLE as error:
            raise ValueError(f"{path} cannot be used: {error}") from error

    def __len__(self) -> int:
        return self._n

    def name(self, row: int) -> str:
        return self._names[row]

    def row(self, name: str | int) -> int:
        """The row of a name, or of its own number."""
        text = str(name).strip().replace("_", "-")
        row = self._rows.get(text, int(text) if text.isdecimal() else self._n)
        if row >= self._n:
            raise ValueError(f"there is no image {name!r} among {self._n}, which begin with {self._names[:1]}")
        return row

    def w(self, row: int) -> Tensor:
        if "w" not in self._given:
            raise ValueError("latents w of these images must be known, got their styles alone")
        return self._given["w"][row : row + 1]

    def styles(self, row: int) -> Tensor:
        return self._given["styles"][row : row + 1] if "styles" in self._given else super().styles(row)

    @property
    def origin(self) -> Any:
        return {"crc32": checksum(self._given)}


class LatentBatches:
    """The latents of seeds as a stream, made anew whenever it is read.

    Args:
        generator, seeds, truncation: as in `generator.latents`.
        size: seeds a batch.
    """

    def __init__(self, generator: Generator, seeds: Sequence[int], *, truncation: float = 1.0, size: int = 64) -> None:
        self.generator, self.seeds, self.truncation, self.size = generator, seeds, truncation, size

    def __iter__(self) -> Iterator[Tensor]:
        for begin in range(0, len(self.seeds), self.size):
            yield self.generator.latents(self.seeds[begin : begin + self.size], truncation=self.truncation)


def _read(path: Path) -> dict[str, Any]:
    """The arrays w and styles of a file."""
    if path.suffix == ".npy":
        return {"w": np.load(path, mmap_mode="c", allow_pickle=False)}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {"w": arrays["w" if len(arrays.files) != 1 else arrays.files[0]]}
    if path.suffix in (".pt", ".pth"):
        return {"w": torch.load(path, map_location="cpu", weights_only=True, mmap=True)}
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        return {name: tensors[name] for name in ("w", "styles") if name in tensors}
    raise ValueError("latents must be a .npy, .npz, .pt or .safetensors file")
