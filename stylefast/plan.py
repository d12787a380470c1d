# SPDX-License-Identifier: Apache-2.0
"""Plans: which edits to make, enumerated lazily and always in the same order, so that ten million cost no memory."""

from __future__ import annotations

import csv
import itertools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import Index, PathLike
from .images import Images
from .settings import DEFAULT, Query, Sequential, Simultaneous, Softmax

if TYPE_CHECKING:
    from .editing import StyleEditor

KINDS = {"sequential": Sequential, "simultaneous": Simultaneous, "softmax": Softmax}
FIELDS = ("target", "reference", "part", "epsilon", "rho", "strength", "query")
_QUOTED = 20  # bad lines that are kept to be reported


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
    targets: Images
    references: Images

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
        targets: Images,
        references: Images,
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


class Pairs(Plan):
    """The edits that a file lists, one a line; read whole and checked at once, then read again as edits are made.

    A .csv file begins with the names of its columns; a .jsonl file has an object a line. Columns or keys: target,
    reference and part; and, if wanted, query (sequential, simultaneous or softmax), epsilon, rho and strength.

    Args:
        editor: what makes the edits.
        path: the file.
        targets, references: the images that it may name.
        query: what a line that says nothing of it takes.
        strength: likewise.
        skip_bad: leave out the lines that are refused, and list the first of them in `refused`.

    Attributes:
        n_refused: how many lines were left out.
        refused: why, for the first 20 of them.

    Raises:
        FileNotFoundError; ValueError with the number of the first bad line and what is wrong with it: columns missing
        or unknown, no such image or part, a setting out of range, the same edit as an earlier line.
    """

    def __init__(
        self,
        editor: StyleEditor,
        path: PathLike,
        targets: Images,
        references: Images,
        *,
        query: Query = DEFAULT,
        strength: float = 1.0,
        skip_bad: bool = False,
    ) -> None:
        self.editor, self.path, self.targets, self.references = editor, Path(path), targets, references
        self.query, self.strength, self._skip_bad = query, strength, skip_bad
        if self.path.suffix not in (".csv", ".jsonl"):
            raise ValueError(f"a file of pairs must be .csv or .jsonl, got {self.path}")
        self.n_refused, self.refused, self._n = 0, list[str](), 0
        if len(targets):
            targets.w(0)  # raises if they have none
        for number, edit in self._checked():
            if isinstance(edit, Edit):
                self._n += 1
            elif not skip_bad:
                raise ValueError(f"{self.path}, line {number}: {edit}")
            else:
                self.n_refused += 1
                self.refused += [f"line {number}: {edit}"] if self.n_refused <= _QUOTED else []

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[Edit]:
        if self.n_refused:
            return (edit for _, edit in self._checked() if isinstance(edit, Edit))
        return (self._edit(fields) for _, fields in self._lines())

    def _checked(self) -> Iterator[tuple[int, Edit | ValueError]]:
        """Every line's number, and its edit or why there is none."""
        valid = lru_cache(1024)(lambda part, query: self.editor.query(part, query) is not None)
        with Index() as seen:
            for number, fields in self._lines():
                try:
                    edit = self._edit(fields)
                    valid(edit.part, edit.query)
                    if not seen.add(self.name(edit), str(number)):
                        raise ValueError(f"it is the same edit as line {seen.get(self.name(edit))}")
                except ValueError as error:
                    yield number, error
                else:
                    yield number, edit

    def _lines(self) -> Iterator[tuple[int, Any]]:
        """Every line's number and what it says, or why it cannot be read."""
        with open(self.path, encoding="utf-8-sig", errors="backslashreplace", newline="") as file:
            if self.path.suffix == ".jsonl":
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, _parsed(line)
                return
            rows = csv.DictReader(file)
            columns = rows.fieldnames or []
            if not set(FIELDS[:3]) <= set(columns) <= set(FIELDS):
                wanted = f"{', '.join(FIELDS[:3])} and may name {', '.join(FIELDS[3:])}"
                raise ValueError(f"{self.path}, line 1: it must name the columns {wanted}, got {', '.join(columns)}")
            for fields in rows:
                whole = None not in fields and None not in fields.values()
                yield rows.line_num, fields if whole else ValueError(f"it must have {len(columns)} cells")

    def _edit(self, fields: Any) -> Edit:
        """What a line says. Raises ValueError if it cannot be."""
        if isinstance(fields, ValueError):
            raise fields
        if not isinstance(fields, dict):
            raise ValueError(f"it must be an object, got {fields!r}")
        given = {name: value for name, value in fields.items() if value is not None and value != ""}
        if unknown := set(given) - set(FIELDS):
            raise ValueError(f"it may say {', '.join(FIELDS)}, got {', '.join(sorted(unknown))}")
        if missing := [name for name in FIELDS[:3] if name not in given]:
            raise ValueError(f"{missing[0]} is missing")
        target, reference = self.targets.row(given["target"]), self.references.row(given["reference"])
        strength = _number("strength", given.get("strength", self.strength))
        return Edit(target, reference, str(given["part"]), self._query(given), strength)

    def _query(self, given: dict[str, Any]) -> Query:
        query: Query = self.query
        if "query" in given and type(query) is not KINDS.get(given["query"]):
            if given["query"] not in KINDS:
                raise ValueError(f"query must be one of {', '.join(KINDS)}, got {given['query']!r}")
            query = KINDS[given["query"]]()
        budget = {name: _per_site(name, given[name]) for name in ("epsilon", "rho") if name in given}
        if budget and not isinstance(query, Sequential):
            raise ValueError(f"{', '.join(budget)} can be given for sequential queries only, not for {query.name}")
        return replace(query, **budget) if budget else query


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return ValueError(f"it is no JSON: {error}")


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return number


def _per_site(name: str, value: Any) -> float | tuple[float, ...]:
    return tuple(_number(name, each) for each in value) if isinstance(value, list) else _number(name, value)
