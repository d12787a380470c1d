# SPDX-License-Identifier: Apache-2.0
"""What a folder of edits holds: `manifest.jsonl`, a line an edit, and journals of jobs that are not at their end.

Every process that makes edits appends a line for each file that it has written to a journal of its own,
`manifest.0001.jsonl` and so on. When all edits of a plan are there, their lines become `manifest.jsonl` and the
journals go. The last line about a file counts.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..io.atomic import atomic_write
from ..io.index import DiskIndex

NAME = "manifest.jsonl"
WRITTEN = ("bytes", "sha256", "locality")  # what a record says of the file, after what it says of the edit


class Records(DiskIndex):
    """The lines of a folder's manifest and journals, by file name.

    Raises: ValueError that names the first line that is no record of an edit. A last line that was not finished, as a
    killed process leaves it, is passed over.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        for path in (directory / NAME, *_journals(directory)):
            if path.exists():
                self._read(path)

    def of(self, edit: dict[str, Any], measured: bool) -> dict[str, Any] | None:
        """The record of an edit as it would be made now; None if there is none, or of the file as made otherwise."""
        record = json.loads(self.get(edit["file"]) or "{}")
        same = {name: value for name, value in record.items() if name not in WRITTEN} == edit
        return record if same and (record["locality"] is not None) == measured else None

    def _read(self, path: Path) -> None:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    record = json.loads(line)
                    if missing := [name for name in ("file", *WRITTEN) if name not in record]:
                        raise ValueError(f"it does not say {missing[0]}")
                    if not isinstance(record["file"], str):
                        raise ValueError(f"file must be a name, got {record['file']!r}")
                    self[record["file"]] = line.decode().rstrip("\n")
                except (ValueError, TypeError) as error:
                    hint = "mend it, or remove the file to have its edits made again"
                    raise ValueError(f"{path}, line {number} is no record of an edit: {error}; {hint}") from error


def is_intact(directory: Path, record: dict[str, Any]) -> bool:
    """Whether a file is there, with the size and the checksum of its record."""
    path = directory / record["file"]
    if not path.is_file() or path.stat().st_size != record["bytes"]:
        return False
    return sha256(path.read_bytes()).hexdigest() == record["sha256"]


class Journal:
    """A new journal in a folder, which no other process writes to; there is none before the first record."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._file = directory, None

    def add(self, record: dict[str, Any]) -> None:
        """Appends a line, which is there even if this process is killed."""
        if self._file is None:
            self._file = self._open()
        self._file.write(json.dumps(record, allow_nan=False) + "\n")

    def close(self) -> None:
        """Ends the journal."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> Any:
        last = max((_number(path) for path in _journals(self._directory)), default=0)
        for number in itertools.count(last + 1):
            try:
                return open(self._directory / f"manifest.{number:04}.jsonl", "x", encoding="utf-8", buffering=1)
            except FileExistsError:  # another process was faster
                continue


def merge(directory: Path, files: Iterable[str]) -> None:
    """Writes `manifest.jsonl` with the lines about these files, in their order, and removes the journals."""
    with (
        Records(directory) as records,
        atomic_write(directory / NAME) as temporary,
        open(temporary, "w", encoding="utf-8") as lines,
    ):
        for file in files:
            lines.write(f"{records.get(file)}\n")
    for path in _journals(directory):
        path.unlink()


def _journals(directory: Path) -> list[Path]:
    return sorted(directory.glob("manifest.[0-9]*.jsonl"), key=_number)


def _number(journal: Path) -> int:
    return int(journal.name.split(".")[1])
