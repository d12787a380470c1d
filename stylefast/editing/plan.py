# SPDX-License-Identifier: Apache-2.0
"""Plans: which edits to make, enumerated lazily and always in the same order, so that ten million need no memory."""

from __future__ import annotations

import itertools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..core.checks import check_type
from .sources import ImageSource
from .strategies import Sequential, Strategy


@dataclass(frozen=True)
class Edit:
    """One edit: rows of a plan's targets and references, the part, the query's strategy, and the query's factor."""

    target: int
    reference: int
    part: str
    query: Strategy
    strength: float = 1.0

    @property
    def label(self) -> str:
        """The strategy's name; with a hash of its parameters if any of them differs from what the name implies."""
        implied: Strategy = type(self.query)()
        if isinstance(self.query, Sequential) and isinstance(self.query.epsilon, (int, float)):
            implied = Sequential(float(f"{self.query.epsilon:g}"))
        if (self.query, self.strength) == (implied, 1):
            return self.query.name
        return f"{self.query.name}-{blake2b(json.dumps(self.parameters).encode(), digest_size=8).hexdigest()}"

    @property
    def parameters(self) -> dict[str, Any]:
        """The strategy with its parameters, and the strength; JSON-serialisable."""
        strategy = {"kind": type(self.query).__name__.lower(), **asdict(self.query)}
        return {"query": strategy, "strength": self.strength}


class Plan(ABC):
    """Edits of some images in a fixed order; no two of them have the same file name.

    A plan is data: `StyleEditor.check` says whether an editor can make its edits, `Job` makes them.

    Attributes:
        targets: the images to edit; `Edit.target` is a row of them.
        references: the images to take parts from; `Edit.reference` is a row of them.
    """

    targets: ImageSource
    references: ImageSource

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[Edit]: ...

    @abstractmethod
    def check(self, query: Callable[[str, Strategy], object]) -> None:
        """Raises ValueError for the first edit that cannot be made.

        Args:
            query: raises ValueError for a part and a strategy that give no query; see `StyleEditor.query`.
        """

    def batches(self, size: int, shard: tuple[int, int] = (0, 1)) -> Iterator[list[Edit]]:
        """The edits in batches of `size`; of shard (i, n) every n-th batch, beginning with batch i."""
        edits = iter(self)
        for number in itertools.count():
            batch = list(itertools.islice(edits, size))
            if not batch:
                return
            if number % shard[1] == shard[0]:
                yield batch

    def count(self, size: int, shard: tuple[int, int]) -> int:
        """The number of edits that `batches` yields."""
        n_full, rest = divmod(len(self), size)
        n_edits = len(range(shard[0], n_full, shard[1])) * size
        return n_edits + (rest if n_full % shard[1] == shard[0] else 0)

    def name(self, edit: Edit) -> str:
        """The file name of an edit, without suffix. Raises ValueError if it contains a path separator."""
        target, reference = self.targets.name(edit.target), self.references.name(edit.reference)
        name = f"{target}_{edit.part}_{reference}_{edit.label}"
        if Path(name).name != name:
            raise ValueError(f"names of images and parts must have no separators, got {name!r}")
        return name


class Grid(Plan):
    """Every target with every reference, part and query: all pairs, or one to many; queries vary fastest.

    Args:
        targets: the images to edit.
        references: the images to take parts from.
        parts: one or several parts of the catalog.
        queries: one or several strategies.
        strength: factor of every query.

    Raises:
        TypeError: targets or references are no image source, or a query is no strategy.

    Example:
        >>> plan = Grid(SeedLatents(generator, [1, 2]), SeedLatents(generator, [7]), ["eyes"], Sequential(0.25))
        >>> for batch in Job(editor, plan, "out"): ...
    """

    def __init__(
        self,
        targets: ImageSource,
        references: ImageSource,
        parts: str | Sequence[str],
        queries: Strategy | Sequence[Strategy] = Sequential(),
        *,
        strength: float = 1.0,
    ) -> None:
        check_sources(targets, references)
        self.targets: ImageSource = targets
        self.references: ImageSource = references
        self.parts: list[str] = [parts] if isinstance(parts, str) else list(parts)
        strategies = queries if isinstance(queries, Sequence) else (queries,)
        if isinstance(strategies, str) or not all(map(callable, strategies)):
            raise TypeError(f"queries must be strategies, such as Sequential(), got {queries!r}")
        self.queries: list[Strategy] = list(strategies)
        self.strength: float = strength

    def __len__(self) -> int:
        return len(self.targets) * len(self.references) * len(self.parts) * len(self.queries)

    def __iter__(self) -> Iterator[Edit]:
        rows = range(len(self.targets)), range(len(self.references))
        for target, reference, part, query in itertools.product(*rows, self.parts, self.queries):
            yield Edit(target, reference, part, query, self.strength)

    def check(self, query: Callable[[str, Strategy], object]) -> None:
        """Raises ValueError for an unknown part, a parameter out of range, a part or query that is missing or repeated,
        and targets without latents."""
        if not self.parts or not self.queries:
            raise ValueError("parts and queries must each name at least one")
        if not math.isfinite(self.strength):
            raise ValueError(f"strength must be a finite number, got {self.strength}")
        pairs = list(itertools.product(self.parts, self.queries))
        for part, strategy in pairs:
            query(part, strategy)
        if any(pair in pairs[:i] for i, pair in enumerate(pairs)):
            raise ValueError(f"parts and queries must be different, got {self.parts} and {self.queries}")
        self.targets.check_latents()


def check_sources(targets: ImageSource, references: ImageSource) -> None:
    """Raises TypeError unless both are image sources."""
    for name, source in (("targets", targets), ("references", references)):
        check_type(name, source, ImageSource, "SeedLatents(generator, seeds) or StoredLatents(generator, w)")
