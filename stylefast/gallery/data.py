# SPDX-License-Identifier: Apache-2.0
"""Data of the page: scripts of at most 10,000 edits each, which a page may load from the disk, unlike JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..io.atomic import atomic_write
from ..io.images import FORMATS
from .shown import WHOLE, ShownEdit

LENGTH = 10_000  # edits per script
NAMES = ("targets", "parts", "references", "queries")
FIGURES = ("inside", "outside", "ratio")
SUFFIXES = ["", *(suffix.removeprefix(".") for suffix in FORMATS)]  # the first one is that of a missing file


class Script:
    """Edits of one script, as columns. Names are numbers of rows of the script's lists of names."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, int]] = {kind: {} for kind in NAMES}
        self._labels: dict[str, int] = {}
        self._columns: dict[str, list[Any]] = {
            name: [] for name in (*NAMES, *FIGURES, "label", "suffix", "boxes", "originals", "shown")
        }
        self._files: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._columns["shown"])

    def add(self, edit: ShownEdit, *, is_shown: bool) -> None:
        """Add an edit, and whether it has a preview."""
        if edit.label is None:
            self._files[len(self)] = edit.stem
        columns = self._columns
        for kind, name in zip(NAMES, edit.names, strict=True):
            columns[kind].append(_number_of(name, self._names[kind]))
        for name, figure in zip(FIGURES, edit.figures, strict=True):
            columns[name].append(figure)
        columns["label"].append(_number_of(edit.label or "", self._labels))
        columns["suffix"].append(SUFFIXES.index(edit.image_format))
        columns["boxes"].append(0 if edit.box == WHOLE else [round(1000 * edge) for edge in edit.box])
        present = ["" if path is None else path.suffix.removeprefix(".") for path in edit.originals]
        columns["originals"].append(len(SUFFIXES) * SUFFIXES.index(present[0]) + SUFFIXES.index(present[1]))
        columns["shown"].append(int(is_shown))

    def write(self, path: Path) -> None:
        """Write the script, which passes its edits to the function `addEdits` of the page."""
        lists = {kind: list(names) for kind, names in self._names.items()}
        data = {"names": lists, "labels": list(self._labels), "columns": self._columns, "files": self._files}
        with atomic_write(path) as temporary:
            temporary.write_text(f"addEdits({script_json(data)});\n", encoding="ascii")


def script_json(value: Any) -> str:
    """Return JSON that is also safe in a script of an HTML page."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _number_of(name: str, numbers: dict[str, int]) -> int:
    return numbers.setdefault(name, len(numbers))
