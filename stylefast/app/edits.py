# SPDX-License-Identifier: Apache-2.0
"""Edits of the tab Edit: what is requested, and what results."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from hashlib import blake2b
from operator import index
from typing import Any

from torch import Tensor

from ..editing import Edit, Sequential, Strategy
from ..editing.plan import MAX_NAME
from ..locality import Locality


@dataclass(frozen=True)
class Picture:
    """Image that can be edited, or from which parts can be taken. Pictures with the same key are equal.

    Args:
        key: Hashable identity of the picture.
        name: Name in file names.
        w: Latent, [1, D] or [1, rows, D].
        styles: Styles, [1, S].
    """

    key: Hashable
    name: str = field(compare=False)
    w: Tensor = field(compare=False, repr=False)
    styles: Tensor = field(compare=False, repr=False)


@dataclass(frozen=True)
class PartEdit:
    """One part of an edit.

    Args:
        part: Name of a part of the catalog.
        reference: Picture from which the part is taken.
        strength: Factor of the query of the part.
    """

    part: str
    reference: Picture
    strength: float = 1.0


@dataclass(frozen=True)
class EditRequest:
    """Edit of one target.

    Args:
        target: Picture to edit.
        parts: Parts to change, each once, at least one.
        query: Strategy that computes the query of every part.
        rgb: Whether to edit the toRGB sites too.
    """

    target: Picture
    parts: tuple[PartEdit, ...]
    query: Strategy
    rgb: bool = False

    @property
    def file_name(self) -> str:
        """Name of the image file. An edit of one part has the name that `stylefast edit` gives it."""
        first = self.parts[0]
        label = Edit(0, 0, first.part, self.query, first.strength).label
        parts = "_".join(f"{edit.part}_{edit.reference.name}" for edit in self.parts)
        name = f"{self.target.name}_{parts}_{label}.png"
        return name if len(name.encode()) <= MAX_NAME else f"{self.target.name}_{len(self.parts)}-parts_{label}.png"

    def check(self) -> None:
        """Raise ValueError if there is no part, a part is repeated, or a strength is not finite."""
        names = [edit.part for edit in self.parts]
        if not names:
            raise ValueError("parts must be at least one, got none")
        if len(set(names)) < len(names):
            raise ValueError(f"parts must be different, got {', '.join(map(repr, names))}")
        if not all(math.isfinite(edit.strength) for edit in self.parts):
            raise ValueError(f"strength must be a finite number, got {[edit.strength for edit in self.parts]}")


@dataclass(frozen=True)
class Keyed:
    """Tensor that is compared by a digest of its bytes."""

    digest: bytes
    tensor: Tensor = field(compare=False, repr=False)

    @classmethod
    def of(cls, tensor: Tensor) -> Keyed:
        return cls(blake2b(tensor.contiguous().cpu().numpy().tobytes(), digest_size=16).digest(), tensor)


@dataclass(frozen=True)
class Edited:
    """Result of an edit.

    Args:
        request: The edit.
        styles: Blended styles, [1, S].
        png: Contents of the image file.
        n_channels: Number of channels that each part moves.
        n_moved: Number of channels that the edit moves.
        seconds: Time of the edit, from the request to the contents of the file.
        is_new: Whether the image was synthesised for this edit. Otherwise it comes from the cache.
    """

    request: EditRequest
    styles: Keyed
    png: bytes
    n_channels: tuple[int, ...]
    n_moved: int
    seconds: float
    is_new: bool

    @property
    def notes(self) -> list[str]:
        """One sentence per part that moves no channel, though its strength is not 0."""
        pairs = zip(self.request.parts, self.n_channels, strict=True)
        return [_explain(edit.part, self.request.query) for edit, n in pairs if not n and edit.strength]


@dataclass(frozen=True)
class Change:
    """What an edit has changed.

    Args:
        locality: Locality of the edit, as `stylefast edit` measures it. The region of several parts is their union.
        heat: Contents of a PNG file with the CIELAB difference of every pixel.
    """

    locality: Locality
    heat: bytes


def to_integer(name: str, value: Any, stop: int, expected: str) -> int:
    """Return an input of the page as an int. Raise ValueError unless it is an integer in [0, stop)."""
    try:
        number = index(value)
    except TypeError:
        number = -1
    if not 0 <= number < stop:
        raise ValueError(f"{name} must be an integer in {expected}, got {'nothing' if value is None else repr(value)}")
    return number


def _explain(part: str, strategy: Strategy) -> str:
    if isinstance(strategy, Sequential):
        limits = f"rho = {strategy.rho:g} within epsilon = {strategy.epsilon:g}"
        return f"No channel of {part!r} has a contribution above {limits}; lower rho or raise epsilon."
    return f"No channel of {part!r} is selected; choose another strategy, or make the part of other clusters."
