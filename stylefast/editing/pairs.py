# SPDX-License-Identifier: Apache-2.0
"""Plans that are listed in a file, one edit per line."""

from __future__ import annotations

import codecs
import csv
import json
import math
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ..core.text import printable
from ..io.atomic import PathLike
from ..io.index import DiskIndex
from .plan import Edit, Plan, check_sources
from .sources import ImageSource
from .strategies import STRATEGIES, Sequential, Strategy

REQUIRED = ("target", "reference", "part")
OPTIONAL = ("epsilon", "rho", "strength", "query")
MAX_REPORTED = 20  # largest number of refused lines that are kept with their reasons


MAX_LINE = 1 << 20  # largest number of characters of a line
MAX_REASON = 400  # characters of a reason that are shown
ENCODINGS = (  # byte order marks, where the longer one comes before its beginning
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class _Unusable(NamedTuple):
    """Line that cannot be parsed, with the reason."""

    reason: str


Row: TypeAlias = str | dict[str, str] | _Unusable  # a line of JSON, or the cells of a line of CSV by column


class Pairs(Plan):
    """Plan of the edits that are listed in a file, one per line.

    A .csv file begins with a line of column names, and a .jsonl file has one JSON object per line. The columns (or
    keys) target, reference and part are required. The columns query (sequential, simultaneous or softmax), epsilon,
    rho and strength are optional, and their values may be empty. The file is UTF-8, or UTF-16 or UTF-32 with a byte
    order mark. Every line is parsed on its own, so that a bad line does not affect the others.

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
        self._is_csv = self.path.suffix.lower() == ".csv"
        if not self._is_csv and self.path.suffix.lower() != ".jsonl":
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
                continue
            try:
                edit = self._edit(row)
            except ValueError as error:  # the file has changed since it was checked
                raise ValueError(f"{self.path}, line {number}: {_reason(error)}") from error
            yield edit

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
                        raise ValueError(f"{self.path}, line {number}: {_reason(error)}") from error
                    self._refused_lines.append(number)
                    self.refused += [f"line {number}: {_reason(error)}"] if self.n_refused <= MAX_REPORTED else []
                else:
                    n_edits += 1
        self._n_edits = n_edits

    def _rows(self) -> Iterator[tuple[int, Row]]:
        """Yield the numbers and the contents of the lines. Raise ValueError if the column names are wrong."""
        lines = _lines(self.path)
        if not self._is_csv:
            yield from lines
            return
        number, header = next(lines, (1, ""))
        columns = _cells(header)
        if isinstance(columns, _Unusable):
            raise ValueError(f"{self.path}, line {number}: {_reason(columns.reason)}")
        if not set(REQUIRED) <= set(columns) <= {*REQUIRED, *OPTIONAL} or len(set(columns)) < len(columns):
            expected = f"{', '.join(REQUIRED)} and may name {', '.join(OPTIONAL)}"
            reason = _reason(f"it must name the columns {expected}, each once, got {', '.join(columns)}")
            raise ValueError(f"{self.path}, line {number}: {reason}")
        for number, line in lines:
            cells = _cells(line)
            if isinstance(cells, _Unusable):
                yield number, cells
            elif len(cells) != len(columns):
                yield number, _Unusable(f"it must have {len(columns)} cells, got {len(cells)}")
            else:
                yield number, dict(zip(columns, cells, strict=True))

    def _edit(self, row: Row) -> Edit:
        """Return the edit that a line describes. Raise ValueError if it describes none."""
        if isinstance(row, _Unusable):
            raise ValueError(row.reason)
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
        if kind is not None:
            if not isinstance(kind, str) or kind not in STRATEGIES:
                raise ValueError(f"query must be one of {', '.join(STRATEGIES)}, got {kind!r}")
            if type(strategy) is not STRATEGIES[kind]:
                strategy = STRATEGIES[kind]()
        budget = {name: _per_site(name, fields[name]) for name in ("epsilon", "rho") if name in fields}
        if budget and not isinstance(strategy, Sequential):
            names, allowed = ", ".join(budget), "the sequential strategy only"
            raise ValueError(f"{names} can be given for {allowed}, not for {strategy.name}")
        if budget and strategy == Sequential():
            return Sequential(budget.get("epsilon"), budget.get("rho"))  # not the default share of the largest
        return replace(strategy, **budget) if budget else strategy


def _lines(path: Path) -> Iterator[tuple[int, str | _Unusable]]:
    """Yield the numbers and the contents of the lines of a file except for blank ones."""
    if path.exists() and not path.is_file():
        raise ValueError(f"a list of edits must be a regular file, which can be read twice, got {path}")
    with open(path, "rb") as file:
        start = file.read(4)
    encoding = next((name for mark, name in ENCODINGS if start.startswith(mark)), "utf-8-sig")
    errors = "surrogateescape" if encoding == "utf-8-sig" else "replace"
    with open(path, encoding=encoding, errors=errors, newline="") as file:
        number = 0
        while line := file.readline(MAX_LINE):
            number += 1
            if len(line) == MAX_LINE and not line.endswith(("\r", "\n")):
                while (line := file.readline(MAX_LINE)) and not line.endswith(("\r", "\n")):
                    pass
                yield number, _Unusable(f"it must have at most {MAX_LINE:,} characters")
            elif "\0" in line:
                yield number, _Unusable("it must not have NUL characters, as UTF-16 without a byte order mark has")
            elif not _is_unicode(line):
                yield number, _Unusable(f"it must be UTF-8, got {line.strip().encode(errors='surrogateescape')!r}")
            elif line.strip():
                yield number, line


def _is_unicode(text: str) -> bool:
    """Return whether a text has no surrogates, which stand for bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cells(line: str | _Unusable) -> list[str] | _Unusable:
    """Return the cells of a line of CSV, without blanks around them."""
    if isinstance(line, _Unusable):
        return line
    try:
        return [cell.strip() for row in csv.reader([line], strict=True, skipinitialspace=True) for cell in row]
    except csv.Error as error:
        is_open = "unexpected end of data" in str(error)
        return _Unusable("it must close its quote" if is_open else f"it is not CSV: {error}")


def _reason(error: object) -> str:
    """Return the text of an error, shortened and with control characters escaped."""
    text = str(error)
    text = text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."
    return printable(text).replace("\n", r"\n")


def _parse_json(line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"it must be a JSON object, got {fields!r}")
    return fields


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return number


def _per_site(name: str, value: Any) -> float | tuple[float, ...]:
    return tuple(_number(name, item) for item in value) if isinstance(value, list) else _number(name, value)
