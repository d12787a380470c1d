# SPDX-License-Identifier: Apache-2.0
"""Image sources: the images to edit or to take parts from, given by seeds, latents or styles."""

from __future__ import annotations

import math
import os
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from zlib import error as DeflateError

import torch
from torch import Tensor

from ..core.checks import check_latent_seeds
from ..core.copies import Cached
from ..generators import Generator
from ..io.atomic import PathLike
from ..io.budget import Budget
from ..io.latents import Shapes, broadcast_latents, read_latents
from ..io.tensors import checksum
from ..io.unpickling import READ_ERRORS

CACHE_BYTES = 1 << 26  # bound of the cached latents of seeds
CHUNK = 1024  # rows that are checked at a time

_UNREADABLE = (ValueError, BadZipFile, DeflateError, *READ_ERRORS)


class ImageSource(ABC):
    """Images of one generator. Each image is a row with a name, a latent w and styles.

    The values of a row are computed independently of all other rows.

    Attributes:
        generator: Generator of the images.
    """

    generator: Generator

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, row: int) -> str:
        """Return the name of a row.

        The name is unique. It has no "_", which separates the words of file names.
        """

    @abstractmethod
    def row(self, name: str | int) -> int:
        """Return the row that a file of pairs gives as a name or as a number.

        Raises:
            ValueError: If there is no such row.
        """

    @abstractmethod
    def w(self, row: int) -> Tensor:
        """Return the latent of a row, [1, D] or [1, rows, D].

        Raises:
            ValueError: If the latents are unknown.
        """

    @property
    @abstractmethod
    def identity(self) -> Any:
        """JSON-serialisable identity of this source except for the names of its rows; a resumed job compares it."""

    def check_latents(self) -> None:
        """Check that the latents are known.

        Raises:
            ValueError: If there are images whose latents are unknown.
        """
        if len(self):
            self.w(0)

    def styles(self, row: int) -> Tensor:
        """Return the styles of a row, [1, S]."""
        return self.generator.styles(self.w(row))


class SeedLatents(ImageSource):
    """Images of seeds, named seed0000, seed0001 and so on.

    Args:
        generator: Generator of the images.
        seeds: Different seeds. A `range` takes no memory per seed, so it may contain all seeds.
        truncation: Truncation ψ, as in `Generator.latents`.

    Raises:
        ValueError: If a seed is repeated or out of range.
    """

    def __init__(self, generator: Generator, seeds: Sequence[int], *, truncation: float = 1.0) -> None:
        self._find = seeds.index
        if not isinstance(seeds, range):
            rows = {seed: row for row, seed in enumerate(seeds)}
            self._find = rows.__getitem__
            if len(rows) < len(seeds):
                raise ValueError(f"seeds must be different, got {', '.join(map(str, seeds))}")
        check_latent_seeds(seeds)
        self.generator: Generator = generator
        self.seeds: Sequence[int] = seeds
        self.truncation: float = truncation
        n_rows = max_cached_rows(math.prod(generator.w_shape), CACHE_BYTES)
        self._w = Cached(self._latent, n_rows)

    def __repr__(self) -> str:
        seeds = reprlib.repr(self.seeds)
        return f"SeedLatents({self.generator.name!r}, seeds={seeds}, truncation={self.truncation})"

    def __len__(self) -> int:
        return len(self.seeds)

    def name(self, row: int) -> str:
        return f"seed{self.seeds[row]:04}"

    def row(self, name: str | int) -> int:
        """Return the row of a seed, which may be given as 7, "7" or "seed0007".

        Raises:
            ValueError: If there is no such row.
        """
        try:
            return self._find(int(str(name).strip().removeprefix("seed")))
        except (KeyError, ValueError):
            raise ValueError(f"there is no image {name!r} among {len(self)} seeds") from None

    def w(self, row: int) -> Tensor:
        return self._w(row).clone()

    def _latent(self, row: int) -> Tensor:
        return self.generator.latents([self.seeds[row]], truncation=self.truncation)

    @property
    def identity(self) -> Any:
        return {"truncation": self.truncation}


class StoredLatents(ImageSource):
    """Images whose latents, styles or both are given as tensors.

    Args:
        generator: Generator of the images.
        w: Latents of shape [N, D] or [N, rows, D], as `Generator.latents` returns them. Targets need latents.
        styles: Styles of shape [N, S], as `Generator.styles` returns them. By default they are computed from `w`.
        names: N different names. The default is 0, 1 and so on. Every "_" is replaced by "-".

    Raises:
        TypeError: If `w` or `styles` is not a floating-point tensor.
        ValueError: If `w` or `styles` has another shape or device or is not finite, both are missing, or names are
            equal or cannot be part of a file name.
    """

    def __init__(
        self,
        generator: Generator,
        w: Tensor | None = None,
        *,
        styles: Tensor | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        tensors: dict[str, Tensor] = {}
        if w is not None:
            generator.check("w", w)
            tensors["w"] = w
        if styles is not None:
            generator.check("styles", styles)
            tensors["styles"] = styles
        for argument, tensor in tensors.items():
            _check_finite(argument, tensor)
        counts = {len(tensor) for tensor in tensors.values()}
        if len(counts) != 1:
            raise ValueError(f"images need w, styles or both, with equally many rows, got {sorted(counts)} rows")
        self.generator: Generator = generator
        self._tensors, self._n = tensors, counts.pop()
        self._names = [(str(i) if names is None else names[i]).replace("_", "-") for i in range(self._n)]
        self._rows = {name: row for row, name in enumerate(self._names)}
        if len(self._rows) < self._n:
            raise ValueError(f"images must have different names, got {reprlib.repr(self._names)}")
        for name in self._names:
            if name in ("", ".") or os.path.basename(name) != name:
                raise ValueError(f"names of images must be parts of file names, got {name!r}")

    @classmethod
    def load(
        cls, path: PathLike | Sequence[PathLike], generator: Generator, *, max_bytes: int | None = None
    ) -> StoredLatents:
        """Read latents or styles from files. No code in a file is run.

        A .npz (such as projected_w.npz of NVlabs' projector), .npy, .pt, .pth, .pkl or .safetensors file may hold an
        array, a tensor, a list of them, a dictionary with one of them under a usual name such as `w` or `latents`, or a
        dictionary with one per image name. Under `styles`, the shape tells whether it holds styles [N, S] or latents.
        Latents in W are broadcast to the rows of W+. Truncation is not applied.

        The rows get the image names in the file. If it has none, they get the name of the file and a number.

        Args:
            path: One file or several. With several files, the numbered names of the rows begin with the name of the
                folder of the file.
            generator: Generator of the images.
            max_bytes: Limit of the memory that the tensors of one file may take. The default is the environment
                variable STYLEFAST_MAX_BYTES, else 4 GB.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If a file cannot be used. The message names the file and the reason.
        """
        if isinstance(path, str | os.PathLike):
            return cls._load(Path(path), generator, Budget(max_bytes), several=False)
        files: list[StoredLatents] = [
            cls._load(Path(file), generator, Budget(max_bytes), several=True) for file in path
        ]
        w, styles = (
            torch.cat([file._tensors[key] for file in files]) if all(key in file._tensors for file in files) else None
            for key in ("w", "styles")
        )
        return cls(generator, w, styles=styles, names=[name for file in files for name in file._names])

    @classmethod
    def _load(cls, path: Path, generator: Generator, budget: Budget, *, several: bool) -> StoredLatents:
        try:
            tensors, names = read_latents(path, Shapes(generator.w_shape, generator.style_width), budget)
            if "w" in tensors:
                tensors["w"] = broadcast_latents(tensors["w"], generator.w_shape)
            tensors = {name: tensor.to(generator.device, torch.float32) for name, tensor in tensors.items()}
            for argument in ("w", "styles"):
                if argument in tensors:  # checked before the rows are named: a tensor without elements can have 10^18
                    generator.check(argument, tensors[argument])
            n = max((len(tensor) for tensor in tensors.values()), default=0)
            stem = f"{path.parent.name}-{path.stem}" if several else path.stem
            names = names or [f"{stem}-{i:04}" for i in range(n)]
            return cls(generator, tensors.get("w"), styles=tensors.get("styles"), names=names)
        except _UNREADABLE as error:
            prefix = f"{path} cannot be used: "
            raise ValueError(prefix + (str(error) or type(error).__name__).removeprefix(prefix)) from error

    def __repr__(self) -> str:
        shapes = "".join(f", {name}={list(tensor.shape)}" for name, tensor in self._tensors.items())
        return f"StoredLatents({self.generator.name!r}{shapes}, names={reprlib.repr(self._names)})"

    def __len__(self) -> int:
        return self._n

    def name(self, row: int) -> str:
        return self._names[row]

    def row(self, name: str | int) -> int:
        """Return the row with a name, or else the row with a number.

        Raises:
            ValueError: If there is no such row.
        """
        exact = str(name).replace("_", "-")
        text = exact if exact in self._rows else exact.strip()
        row = self._rows.get(text, int(text) if text.isdecimal() and len(text) < 20 else self._n)
        if row >= self._n:
            raise ValueError(f"there is no image {name!r} among {self._n} images, named {reprlib.repr(self._names)}")
        return row

    def w(self, row: int) -> Tensor:
        if "w" not in self._tensors:
            raise ValueError("latents w of these images must be known, got only their styles")
        return self._tensors["w"][row : row + 1]

    def styles(self, row: int) -> Tensor:
        return self._tensors["styles"][row : row + 1] if "styles" in self._tensors else super().styles(row)

    @property
    def identity(self) -> Any:
        return {"crc32": checksum(self._tensors)}


def _check_finite(argument: str, tensor: Tensor) -> None:
    for begin in range(0, len(tensor), CHUNK):
        finite = tensor[begin : begin + CHUNK].flatten(1).isfinite().all(1)
        if not finite.all():
            row = begin + int(finite.int().argmin())
            raise ValueError(f"{argument} must be finite, got NaN or Inf in row {row}")


def max_cached_rows(n_elements: int, n_bytes: int) -> int:
    """Return the number of rows that fit in a cache of `n_bytes`: 8 bytes per element and 1,024 per row for objects."""
    return max(1, n_bytes // (8 * n_elements + 1024))
