# SPDX-License-Identifier: Apache-2.0
"""Plans, which enumerate edits lazily and always in the same order, so that memory does not grow with their number."""

from __future__ import annotations

import itertools
import json
import math
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

from ..core.checks import check_type
from .sources import ImageSource
from .strategies import Sequential, Strategy

MAX_NAME = 250  # bytes of a file name without its suffix, of which file systems allow 255 with the suffix


@dataclass(frozen=True)
class Edit:
    """One edit of a plan.

    Args:
        target: Row of the plan's targets.
        reference: Row of the plan's references.
        part: Name of the part.
        query: Strategy that computes the query.
        strength: Factor of the query.
    """

    target: int
    reference: int
    part: str
    query: Strategy
    strength: float = 1.0

    @property
    def label(self) -> str:
        """Name of the strategy, with a hash if the name does not imply all parameters and the strength."""
        implied: Strategy = type(self.query)()
        if (
            self.query != implied
            and isinstance(self.query, Sequential)
            and isinstance(self.query.epsilon, (int, float))
        ):
            implied = Sequential(float(f"{self.query.epsilon:g}"))
        if (self.query, self.strength) == (implied, 1):
            return self.query.name
        return f"{self.query.name}-{blake2b(json.dumps(self.parameters).encode(), digest_size=8).hexdigest()}"

    @property
    def parameters(self) -> dict[str, Any]:
        """JSON-serialisable description of the strategy, its parameters and the strength."""
        fields = asdict(self.query, dict_factory=lambda items: {name: x for name, x in items if x is not None})
        strategy = {"kind": type(self.query).__name__.lower(), **fields}
        return {"query": strategy, "strength": self.strength}


class Plan(ABC):
    """Edits in a fixed order. All of them have different file names.

    A plan is data. `StyleEditor.check` checks whether an editor can make its edits, and `Job` makes them.

    Attributes:
        targets: Images to edit. `Edit.target` is one of their rows.
        references: Images to take parts from. `Edit.reference` is one of their rows.
    """

    targets: ImageSource
    references: ImageSource

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[Edit]: ...

    @abstractmethod
    def check(self, query: Callable[[str, Strategy], object]) -> None:
        """Check that all edits can be made.

        Args:
            query: Function that raises ValueError if it cannot compute the query of a part and a strategy, such as
                `StyleEditor.query`.

        Raises:
            ValueError: If an edit cannot be made. The message describes the first such edit.
        """

    def batches(self, size: int, shard: tuple[int, int] = (0, 1)) -> Iterator[list[Edit]]:
        """Yield every n-th batch of `size` edits, beginning with batch i, for the shard (i, n)."""
        edits = iter(self)
        for number in itertools.count():
            batch = list(itertools.islice(edits, size))
            if not batch:
                return
            if number % shard[1] == shard[0]:
                yield batch

    def count(self, size: int, shard: tuple[int, int]) -> int:
        """Return the number of edits that `batches` yields."""
        n_full, rest = divmod(len(self), size)
        n_edits = len(range(shard[0], n_full, shard[1])) * size
        return n_edits + (rest if n_full % shard[1] == shard[0] else 0)

    def name(self, edit: Edit) -> str:
        """Return the file name of an edit, without suffix.

        Raises:
            ValueError: If the name contains a path separator or characters that the locale lacks, or is too long.
        """
        target, reference = self.targets.name(edit.target), self.references.name(edit.reference)
        name = f"{target}_{edit.part}_{reference}_{edit.label}"
        if len(name) > MAX_NAME // 4 and len(name.encode()) > MAX_NAME:
            raise ValueError(
                f"names of images and parts must give file names of at most {MAX_NAME} bytes, got {name!r}"
            )
        if os.path.basename(name) != name:
            raise ValueError(f"names of images and parts must not contain path separators, got {name!r}")
        try:
            os.fsencode(name)
        except UnicodeEncodeError:
            raise ValueError(f"names of files must exist in this locale, got {name!r}; set LC_ALL=C.UTF-8") from None
        return name


class Grid(Plan):
    """Plan of the edits of every target with every reference, part and strategy, in this order.

    Strategies vary fastest.

    Args:
        targets: Images to edit.
        references: Images to take parts from.
        parts: One or several parts of the catalog.
        queries: One or several strategies.
        strength: Factor of every query.

    Raises:
        TypeError: If `targets` or `references` is not an image source, or `queries` has an element that is not a
            strategy.

    Example::

        plan = Grid(SeedLatents(generator, [1, 2]), SeedLatents(generator, [7]), ["eyes"], Sequential(0.25))
        for batch in Job(editor, plan, "out"):
            ...
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

    def __repr__(self) -> str:
        images = f"targets={self.targets!r}, references={self.references!r}"
        return f"Grid({images}, parts={self.parts}, queries={self.queries}, strength={self.strength})"

    def __len__(self) -> int:
        return len(self.targets) * len(self.references) * len(self.parts) * len(self.queries)

    def __iter__(self) -> Iterator[Edit]:
        references, strategies = range(len(self.references)), list(itertools.product(self.parts, self.queries))
        strength = self.strength
        for target in range(len(self.targets)):  # itertools.product would keep all rows in memory
            for reference in references:
                for part, query in strategies:
                    yield Edit(target, reference, part, query, strength)

    def find(self, name: str) -> Edit | None:
        """Return the edit with a file name, or None. The time does not depend on the number of images.

        Args:
            name: File name without suffix, as `name` returns it. Names of images do not contain "_".
        """
        target, _, rest = name.partition("_")
        for part, query in itertools.product(self.parts, self.queries):
            if not rest.startswith(f"{part}_"):
                continue
            reference = rest.removeprefix(f"{part}_").partition("_")[0]
            with suppress(ValueError):  # there is no such image
                edit = Edit(self.targets.row(target), self.references.row(reference), part, query, self.strength)
                if self.name(edit) == name:
                    return edit
        return None

    def check(self, query: Callable[[str, Strategy], object]) -> None:
        """Check that all edits can be made.

        Args:
            query: Function that raises ValueError if it cannot compute the query of a part and a strategy, such as
                `StyleEditor.query`.

        Raises:
            ValueError: If a part is unknown, a parameter is out of range, there are no parts or no strategies, a part
                with a strategy is repeated, there are 2**63 edits or more, or the targets have no latents.
        """
        if not self.parts or not self.queries:
            raise ValueError("parts and queries must each name at least one")
        if not math.isfinite(self.strength):
            raise ValueError(f"strength must be a finite number, got {self.strength}")
        pairs = list(itertools.product(self.parts, self.queries))
        for part, strategy in pairs:
            query(part, strategy)
        if any(pair in pairs[:i] for i, pair in enumerate(pairs)):
            raise ValueError(f"parts and queries must be different, got {self.parts} and {self.queries}")
        if (n_edits := len(self.targets) * len(self.references) * len(pairs)) > sys.maxsize:  # the limit of len()
            raise ValueError(f"targets and references must give fewer than 2**63 edits, got {n_edits:,}")
        self.targets.check_latents()


def check_sources(targets: ImageSource, references: ImageSource) -> None:
    """Raise TypeError unless both are image sources."""
    for name, source in (("targets", targets), ("references", references)):
        check_type(name, source, ImageSource, "SeedLatents(generator, seeds) or StoredLatents(generator, w)")
