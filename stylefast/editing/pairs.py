# SPDX-License-Identifier: Apache-2.0
"""Plans that a file lists, one edit per line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..io.atomic import PathLike
from ..io.index import DiskIndex
from .plan import Edit, Plan
from .sources import ImageSource
from .strategies import DEFAULT, Query, Sequential, Simultaneous, Softmax

KINDS = {"sequential": Sequential, "simultaneous": Simultaneous, "softmax": Softmax}


FIELDS = ("target", "reference", "part", "epsilon", "rho", "strength", "query")


_QUOTED = 20  # bad lines that are kept to be reported


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
        targets: ImageSource,
        references: ImageSource,
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
        with DiskIndex() as seen:
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
