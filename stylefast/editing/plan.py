# SPDX-License-Identifier: Apache-2.0
"""Plans: which edits to make, enumerated lazily and always in the same order, so that ten million cost no memory."""

from __future__ import annotations

import itertools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from .sources import ImageSource
from .strategies import DEFAULT, Query, Sequential


@dataclass(frozen=True)
class Edit:
    """One edit: rows of a plan's targets and references, the part, the query, and what multiplies the query."""

    target: int
    reference: int
    part: str
    query: Query
    strength: float = 1.0

    @property
    def label(self) -> str:
        """The query's name, and a checksum of the settings if there is more to them than the name tells."""
        query = self.query
        told: Query = type(query)()
        if isinstance(query, Sequential) and isinstance(query.epsilon, (int, float)):
            told = Sequential(float(f"{query.epsilon:g}"))
        if (query, self.strength) == (told, 1):
            return query.name
        return f"{query.name}-{blake2b(json.dumps(self.settings).encode(), digest_size=8).hexdigest()}"

    @property
    def settings(self) -> dict[str, Any]:
        """Query and strength, as JSON can hold them."""
        query = {"kind": type(self.query).__name__.lower(), **asdict(self.query)}
        return {"query": query, "strength": self.strength}


class Plan(ABC):
    """Edits of some images in a fixed order; no two have the same file name.

    Attributes:
        editor: what makes them.
        targets, references: the images that their rows mean.
    """

    editor: StyleEditor
    targets: ImageSource
    references: ImageSource

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[Edit]: ...

    def batches(self, size: int, share: tuple[int, int] = (0, 1)) -> Iterator[list[Edit]]:
        """The edits by `size`; of share (i, n) every n-th batch from the i-th on, so that shares have whole batches."""
        edits = iter(self)
        for number in itertools.count():
            chunk = list(itertools.islice(edits, size))
            if not chunk:
                return
            if number % share[1] == share[0]:
                yield chunk

    def count(self, size: int, share: tuple[int, int]) -> int:
        """How many edits `batches` gives."""
        whole, rest = divmod(len(self), size)
        mine = len(range(share[0], whole, share[1])) * size
        return mine + (rest if whole % share[1] == share[0] else 0)

    def name(self, edit: Edit) -> str:
        """A name that no other edit of the plan has. Raises ValueError if it cannot be that of a file."""
        target, reference = self.targets.name(edit.target), self.references.name(edit.reference)
        name = f"{target}_{edit.part}_{reference}_{edit.label}"
        if Path(name).name != name:
            raise ValueError(f"names of images and parts must have no separators, got {name!r}")
        return name


class Grid(Plan):
    """Every target with every reference, part and query: all pairs, or one to many; the last runs fastest.

    Args:
        editor: what makes the edits.
        targets, references: images.
        parts: one or several parts of the catalog.
        queries: one or several settings.
        strength: multiplies the queries.

    Raises:
        ValueError: an unknown part, a setting out of range or twice, no part or query, targets without latents.
    """

    def __init__(
        self,
        editor: StyleEditor,
        targets: ImageSource,
        references: ImageSource,
        parts: str | Sequence[str],
        queries: Query | Sequence[Query] = DEFAULT,
        *,
        strength: float = 1.0,
    ) -> None:
        self.editor, self.targets, self.references = editor, targets, references
        self.parts = [parts] if isinstance(parts, str) else list(parts)
        self.queries = list(queries) if isinstance(queries, Sequence) else [queries]
        self.strength = strength
        if not self.parts or not self.queries:
            raise ValueError("parts and queries must each name at least one")
        if not math.isfinite(strength):
            raise ValueError(f"strength must be a finite number, got {strength}")
        edits = [Edit(0, 0, part, query, strength) for part in self.parts for query in self.queries]
        for edit in edits:
            editor.query(edit.part, edit.query)  # raises
        if any(edit in edits[:i] for i, edit in enumerate(edits)):
            raise ValueError(f"parts and queries must be different, got {self.parts} and {self.queries}")
        if len(targets):
            targets.w(0)  # raises if they have none

    def __len__(self) -> int:
        return len(self.targets) * len(self.references) * len(self.parts) * len(self.queries)

    def __iter__(self) -> Iterator[Edit]:
        rows = range(len(self.targets)), range(len(self.references))
        for t, r, part, query in itertools.product(*rows, self.parts, self.queries):
            yield Edit(t, r, part, query, self.strength)
