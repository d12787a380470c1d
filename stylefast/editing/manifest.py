# SPDX-License-Identifier: Apache-2.0
"""Entries of a folder of edits: `manifest.jsonl` with one line per edit, and the journals of unfinished jobs.

Every process that renders edits has its own journal, `manifest.0001.jsonl` and so on, and appends an entry for each
image that it has written. After the last edit of a plan, the entries are merged into `manifest.jsonl` and the journals
are removed. If an image has several entries, the last one counts.
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
    """Entry of an image.

    Attributes:
        fields: Fields of the entry.
        modified: Time at which the manifest or journal with the entry was last modified, in nanoseconds.
    """

    fields: dict[str, Any]
    modified: int


class Entries(DiskIndex):
    """Entries of the manifest and the journals of a folder, by the file name of the image.

    An incomplete last line, which a killed process may leave, is ignored.

    Raises:
        ValueError: If a line is not an entry. The message names the first such line.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        for path in (directory / NAME, *_journals(directory)):
            if path.exists():
                self._read(path)

    def find(self, edit: dict[str, Any], measured: bool) -> Entry | None:
        """Return the entry of an edit.

        Args:
            edit: Fields that describe the edit.
            measured: Whether the entry must have a locality. If False, it must have none.

        Returns:
            The entry, or None if there is none or the image was made with other inputs or options.
        """
        modified, _, line = (self.get(edit["file"]) or "0 {}").partition(" ")
        fields = json.loads(line)
        same = {name: value for name, value in fields.items() if name not in RESULTS} == edit
        return Entry(fields, int(modified)) if same and (fields["locality"] is not None) == measured else None

    def line(self, file: str) -> str:
        """Return the line of the entry of an image.

        Raises:
            KeyError: If there is no entry.
        """
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
                    raise ValueError(f"{path}, line {number} is not an entry of an edit: {error}; {hint}") from error


def is_intact(directory: Path, entry: Entry, verify: bool) -> bool:
    """Return whether an image matches its entry.

    The size must match. The checksum must match as well if `verify` is set, or if the image was not modified before
    the manifest or journal with its entry.
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
    """New journal in a folder. No other process writes to this journal. The first entry creates the file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: IO[str] | None = None

    def add(self, entry: dict[str, Any]) -> None:
        """Append an entry, which stays in the file even if this process is killed."""
        if self._file is None:
            self._file = self._open()
        self._file.write(json.dumps(entry, allow_nan=False) + "\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> IO[str]:
        last = max((_number(path) for path in _journals(self._directory)), default=0)
        for number in itertools.count(last + 1):
            try:
                return open(self._directory / f"manifest.{number:04}.jsonl", "x", encoding="utf-8", buffering=1)
            except FileExistsError:  # another process has just created it
                continue
        raise AssertionError("itertools.count does not end")


def merge(directory: Path, files: Iterable[str]) -> None:
    """Write `manifest.jsonl` with the entries of these images, in this order, and remove the journals."""
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
