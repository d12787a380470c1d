# SPDX-License-Identifier: Apache-2.0
"""Plans that are listed in a file, one edit per line."""

from __future__ import annotations

import csv
import json
import math
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ..io.atomic import PathLike
from ..io.index import DiskIndex
from .plan import Edit, Plan, check_sources
from .sources import ImageSource
from .strategies import STRATEGIES, Sequential, Strategy

REQUIRED = ("target", "reference", "part")
OPTIONAL = ("epsilon", "rho", "strength", "query")
MAX_REPORTED = 20  # largest number of refused lines that are kept with their reasons


class _WrongCells(NamedTuple):
    """Line of CSV with more or fewer cells than columns."""

    n_columns: int


Row: TypeAlias = str | dict[Any, Any] | _WrongCells  # a line of JSON, or the cells of a line of CSV by column


class Pairs(Plan):
    """Plan of the edits that are listed in a file, one per line.

    A .csv file begins with a line of column names, and a .jsonl file has one JSON object per line. The columns (or
    keys) target, reference and part are required. The columns query (sequential, simultaneous or softmax), epsilon,
    rho and strength are optional, and their values may be empty.

    The file is read when the plan is checked, and again whenever its edits are enumerated.

    Args:
        path: Path of the file.
        targets: Images that the file may name as targets.
        references: Images that the file may name as references.
        query: Strategy of the lines without a query. Its epsilon and rho also apply to lines that name the same
            strategy but no epsilon or rho. A line that names another strategy starts from the defaults of that
            strategy.
        strength: Strength of the lines without a strength.
        skip_bad: Whether `check` skips lines that describe no possible edit. Otherwise the first such line is an error.

    Attributes:
        n_refused: Number of lines that were skipped.
        refused: First 20 skipped lines, with the reasons.

    Raises:
        TypeError: If `targets` or `references` is not an image source.
        ValueError: If the file is neither .csv nor .jsonl.
        RuntimeError: If `len` is called before the plan is checked.
    """

    def __init__(
        self,
        path: PathLike,
        targets: ImageSource,
        references: ImageSource,
        *,
        query: Strategy = Sequential(),
        strength: float = 1.0,
        skip_bad: bool = False,
    ) -> None:
        check_sources(targets, references)
        self.targets: ImageSource = targets
        self.references: ImageSource = references
        self.path: Path = Path(path)
        self.query: Strategy = query
        self.strength: float = strength
        self.skip_bad: bool = skip_bad
        if self.path.suffix not in (".csv", ".jsonl"):
            raise ValueError(f"a file of pairs must be .csv or .jsonl, got {self.path}")
        self.refused: list[str] = []
        self._refused_lines = array("Q")  # ascending
        self._n_edits: int | None = None

    def __repr__(self) -> str:
        images = f"targets={self.targets!r}, references={self.references!r}"
        return f"Pairs({str(self.path)!r}, {images}, query={self.query!r}, strength={self.strength})"

    @property
    def n_refused(self) -> int:
        return len(self._refused_lines)

    def __len__(self) -> int:
        if self._n_edits is None:
            raise RuntimeError(f"{self.path} has not been read yet: call StyleEditor.check with this plan first")
        return self._n_edits

    def __iter__(self) -> Iterator[Edit]:
        refused = iter(self._refused_lines)
        next_refused = next(refused, None)
        for number, row in self._rows():
            if number == next_refused:
                next_refused = next(refused, None)
            else:
                yield self._edit(row)

    def check(self, query: Callable[[str, Strategy], object]) -> None:
        """Read the whole file and check every line.

        Args:
            query: Function that raises ValueError if it cannot compute the query of a part and a strategy, such as
                `StyleEditor.query`.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the targets have no latents, or a column is missing or unknown. Unless `skip_bad` is set,
                also if a line names an unknown image or part, has a parameter out of range, or repeats an edit. The
                message gives the number of the first such line.
        """
        self.targets.check_latents()
        self.refused, self._refused_lines, n_edits = [], array("Q"), 0
        check_query = lru_cache(1024)(lambda part, strategy: query(part, strategy) is not None)
        with DiskIndex() as line_of:
            for number, row in self._rows():
                try:
                    edit = self._edit(row)
                    check_query(edit.part, edit.query)
                    name = self.name(edit)
                    if not line_of.add(name, str(number)):
                        raise ValueError(f"it is the same edit as line {line_of.get(name)}")
                except ValueError as error:
                    if not self.skip_bad:
                        raise ValueError(f"{self.path}, line {number}: {error}") from error
                    self._refused_lines.append(number)
                    self.refused += [f"line {number}: {error}"] if self.n_refused <= MAX_REPORTED else []
                else:
                    n_edits += 1
        self._n_edits = n_edits

    def _rows(self) -> Iterator[tuple[int, Row]]:
        """Yield the numbers and the contents of the lines. Raise ValueError if the column names are wrong."""
        with open(self.path, encoding="utf-8-sig", errors="backslashreplace", newline="") as file:
            if self.path.suffix == ".jsonl":
                yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
                return
            rows = csv.DictReader(file)
            columns = rows.fieldnames or []
            if not set(REQUIRED) <= set(columns) <= {*REQUIRED, *OPTIONAL}:
                expected = f"{', '.join(REQUIRED)} and may name {', '.join(OPTIONAL)}"
                raise ValueError(f"{self.path}, line 1: it must name the columns {expected}, got {', '.join(columns)}")
            for cells in rows:
                if None in cells or None in cells.values():
                    yield rows.line_num, _WrongCells(len(columns))
                else:
                    yield rows.line_num, cells

    def _edit(self, row: Row) -> Edit:
        """Return the edit that a line describes. Raise ValueError if it describes none."""
        if isinstance(row, _WrongCells):
            raise ValueError(f"it must have {row.n_columns} cells")
        fields = _parse_json(row) if isinstance(row, str) else row
        fields = {name: value for name, value in fields.items() if value is not None and value != ""}
        if unknown := fields.keys() - {*REQUIRED, *OPTIONAL}:
            allowed = ", ".join((*REQUIRED, *OPTIONAL))
            raise ValueError(f"it may have the fields {allowed}, got {', '.join(sorted(map(str, unknown)))}")
        if missing := [name for name in REQUIRED if name not in fields]:
            raise ValueError(f"{missing[0]} is missing")
        target, reference = self.targets.row(fields["target"]), self.references.row(fields["reference"])
        strength = _number("strength", fields.get("strength", self.strength))
        return Edit(target, reference, str(fields["part"]), self._strategy(fields), strength)

    def _strategy(self, fields: Mapping[str, Any]) -> Strategy:
        strategy, kind = self.query, fields.get("query")
        if kind is not None and type(strategy) is not STRATEGIES.get(kind):
            if kind not in STRATEGIES:
                raise ValueError(f"query must be one of {', '.join(STRATEGIES)}, got {kind!r}")
            strategy = STRATEGIES[kind]()
        budget = {name: _per_site(name, fields[name]) for name in ("epsilon", "rho") if name in fields}
        if budget and not isinstance(strategy, Sequential):
            names, allowed = ", ".join(budget), "the sequential strategy only"
            raise ValueError(f"{names} can be given for {allowed}, not for {strategy.name}")
        return replace(strategy, **budget) if budget else strategy


def _parse_json(line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"it must be a JSON object, got {fields!r}")
    return fields


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return number


def _per_site(name: str, value: Any) -> float | tuple[float, ...]:
    return tuple(_number(name, item) for item in value) if isinstance(value, list) else _number(name, value)
