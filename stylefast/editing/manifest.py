# SPDX-License-Identifier: Apache-2.0
"""The contents of a folder of edits: `manifest.jsonl` with one line per edit, and the journals of unfinished jobs.

Every process that renders edits has a journal of its own, `manifest.0001.jsonl` and so on, to which it appends the
entry of each image that it has written. When all edits of a plan are there, their entries become `manifest.jsonl` and
the journals are removed. The last entry of a file counts.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..io.atomic import atomic_write
from ..io.index import DiskIndex

NAME = "manifest.jsonl"
RESULTS = ("bytes", "sha256", "locality")  # the last fields of an entry; the fields before them describe the edit


class Entry(NamedTuple):
    """The entry of an image, and when the file that holds the entry was last modified, in nanoseconds."""

    fields: dict[str, Any]
    modified: int


class Entries(DiskIndex):
    """The entries of a folder's manifest and journals, by file name.

    An unfinished last line, as a killed process leaves it, is ignored.

    Raises: ValueError that names the first line that is no entry.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        for path in (directory / NAME, *_journals(directory)):
            if path.exists():
                self._read(path)

    def find(self, edit: dict[str, Any], measured: bool) -> Entry | None:
        """The entry whose fields describe this edit; None if there is none, or if the image was made otherwise."""
        modified, _, line = (self.get(edit["file"]) or "0 {}").partition(" ")
        fields = json.loads(line)
        same = {name: value for name, value in fields.items() if name not in RESULTS} == edit
        return Entry(fields, int(modified)) if same and (fields["locality"] is not None) == measured else None

    def line(self, file: str) -> str:
        """The line of the entry of a file. Raises KeyError if there is none."""
        if (value := self.get(file)) is None:
            raise KeyError(file)
        return value.partition(" ")[2]

    def _read(self, path: Path) -> None:
        modified = path.stat().st_mtime_ns
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    fields = json.loads(line)
                    if missing := [name for name in ("file", *RESULTS) if name not in fields]:
                        raise ValueError(f"it has no {missing[0]}")
                    if not isinstance(fields["file"], str):
                        raise ValueError(f"file must be a name, got {fields['file']!r}")
                    text = line.decode().rstrip("\n")
                    self[fields["file"]] = f"{modified} {text}"
                except (ValueError, TypeError) as error:
                    hint = "correct it, or remove the file to have its edits made again"
                    raise ValueError(f"{path}, line {number} is no entry of an edit: {error}; {hint}") from error


def is_intact(directory: Path, entry: Entry, verify: bool) -> bool:
    """Whether an image is as its entry says.

    Its size must match. Its checksum must match as well if `verify` is set, or if the image was not modified before its
    entry was written.
    """
    path = directory / entry.fields["file"]
    if not path.is_file():
        return False
    status = path.stat()
    if status.st_size != entry.fields["bytes"]:
        return False
    if status.st_mtime_ns < entry.modified and not verify:
        return True
    return sha256(path.read_bytes()).hexdigest() == entry.fields["sha256"]


class Journal:
    """A new journal in a folder, to which no other process writes; the file appears with the first entry."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: IO[str] | None = None

    def add(self, entry: dict[str, Any]) -> None:
        """Appends an entry, which is kept even if this process is killed."""
        if self._file is None:
            self._file = self._open()
        self._file.write(json.dumps(entry, allow_nan=False) + "\n")

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> IO[str]:
        last = max((_number(path) for path in _journals(self._directory)), default=0)
        for number in itertools.count(last + 1):
            try:
                return open(self._directory / f"manifest.{number:04}.jsonl", "x", encoding="utf-8", buffering=1)
            except FileExistsError:  # another process has created it meanwhile
                continue
        raise AssertionError("itertools.count does not end")


def merge(directory: Path, files: Iterable[str]) -> None:
    """Writes `manifest.jsonl` with the entries of these files, in their order, and removes the journals."""
    with (
        Entries(directory) as entries,
        atomic_write(directory / NAME) as temporary,
        open(temporary, "w", encoding="utf-8") as lines,
    ):
        for file in files:
            lines.write(f"{entries.line(file)}\n")
    for path in _journals(directory):
        path.unlink()


def _journals(directory: Path) -> list[Path]:
    return sorted(directory.glob("manifest.[0-9]*.jsonl"), key=_number)


def _number(journal: Path) -> int:
    return int(journal.name.split(".")[1])
