# SPDX-License-Identifier: Apache-2.0
"""Entries of a folder of edits: `manifest.jsonl` with one line per image, and the journals of unfinished jobs.

After the last edit of a plan, the entries of all journals are merged into `manifest.jsonl`, which keeps the entries of
earlier jobs, and the journals of ended processes are removed. If an image has several entries, the latest one counts.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from ..core.checks import check_integer
from ..io.atomic import atomic_write, writable_status
from ..io.index import DiskIndex
from ..io.private import folder_lock
from . import journal

NAME = "manifest.jsonl"
REQUIRED = ("bytes", "sha256", "locality")
RESULTS = (*REQUIRED, "box", "batch_size", "engine_difference")  # last fields; those before describe the edit
UNRECORDED = 4  # batch size of an entry of version 1, which does not record it: the default of that version
PER_EDIT = ("file", "target", "reference", "part", "query", "strength")  # all other fields are settings of the job
MAX_LINE = 1 << 24  # bytes
MAX_DIGITS = 300  # of an integer in an entry, so that it can be converted to a float
MAX_DEPTH = 100  # of objects and lists in an entry, so that functions can walk through them by recursion
_START = b'{"file": "'  # of the line of an entry

_FORMER_JOURNAL = re.compile(r"manifest\.\d{4,18}\.jsonl")  # of version 1, which is read but never removed


class Entry(NamedTuple):
    """Entry of an image.

    Attributes:
        fields: Fields of the entry.
        modified: Time in nanoseconds. An image that was last modified earlier is as its entry says.
    """

    fields: dict[str, Any]
    modified: int

    @property
    def description(self) -> dict[str, Any]:
        """Fields that describe the edit."""
        return {name: value for name, value in self.fields.items() if name not in RESULTS}

    @property
    def engine(self) -> tuple[str, int]:
        """Engine that made the image, and the number of edits of its batch."""
        return self.fields.get("engine", "eager"), self.fields.get("batch_size", UNRECORDED)

    def is_of(self, description: dict[str, Any]) -> bool:
        """Return whether the edit is the one of a description, by any engine."""
        return self.description | {"engine": None} == description | {"engine": None}


class Entries(DiskIndex):
    """Entries of the manifest and the journals of a folder, by the file name of the image.

    An incomplete last line, which a killed process may leave, is ignored.

    Args:
        directory: Folder of the images.
        settings: Settings of a job, with which those of the entries are compared.

    Attributes:
        have_other_settings: Whether an entry has other settings.
        batch_size: Number of edits of the batches in which images with the same settings were made: of the last such
            entry, or None without one.
        engine: Engine and `batch_size` of the last entry whose other settings are the same, or None without one.

    Raises:
        ValueError: If a line is not an entry. The message names the first such line.
    """

    def __init__(self, directory: Path, settings: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.have_other_settings: bool = False
        self.batch_size: int | None = None
        self.engine: tuple[str, int] | None = None
        self._settings = settings
        for path in _listings(directory):
            modified = path.stat().st_mtime_ns
            for number, line in _lines(path):
                fields, text = _parse(path, number, line)
                self._add(fields, modified, text)
        for path in journal.journals(directory):
            for number, modified, line in journal.read(path):
                self._add(_parse(path, number, line)[0], modified + 1, line)

    def find(self, file: str) -> Entry | None:
        """Return the entry of an image, or None."""
        if (value := self.get(file)) is None:
            return None
        modified, _, line = value.partition(" ")
        return Entry(json.loads(line), int(modified))

    def lines(self, files: Iterable[str] | None = None) -> Iterator[tuple[str, int, str]]:
        """Yield the file names, the times (as in `Entry`) and the lines of entries.

        Args:
            files: File names of the images. The default is all images, in the order of the names.

        Raises:
            KeyError: If an image has no entry.
        """
        for file, value in self.items() if files is None else ((file, self.get(file)) for file in files):
            if value is None:
                raise KeyError(file)
            modified, _, line = value.partition(" ")
            yield file, int(modified), line

    def in_order(self) -> Iterator[Entry]:
        """Yield all entries in the order of the file names."""
        return (Entry(json.loads(line), modified) for _, modified, line in self.lines())

    def _add(self, fields: dict[str, Any], modified: int, line: str) -> None:
        """Add an entry unless the image has an entry of a later time."""
        if self._settings is not None:
            settings = {name: value for name, value in fields.items() if name not in PER_EDIT and name not in RESULTS}
            batch_size = fields.get("batch_size", UNRECORDED)
            if settings == self._settings:
                self.batch_size = batch_size
            else:
                self.have_other_settings = True
            if settings | {"engine": None} == self._settings | {"engine": None}:
                self.engine = settings.get("engine", "eager"), batch_size
        file, value = fields["file"], f"{modified} {line}"
        if not self.add(file, value) and modified >= int((self.get(file) or "").partition(" ")[0]):
            self[file] = value


def read_entries(directory: Path, settings: dict[str, Any] | None = None) -> Entries:
    """Return the entries of a folder, in which no other process merges entries meanwhile."""
    with folder_lock(directory, shared=True):
        return Entries(directory, settings)


def latest_engine(directories: Iterable[Path]) -> str | None:
    """Return the engine of the manifest or journal that was written last, or None without one that can be read."""
    paths = (path for directory in directories for path in directory.glob("manifest*.jsonl") if path.is_file())
    with suppress(ValueError, OSError, RecursionError, AttributeError):  # AttributeError: the line is no object
        with open(max(paths, key=lambda path: path.stat().st_mtime_ns), "rb") as file:
            fields = _DECODER.decode(file.readline(MAX_LINE).decode())
        return fields.get("settings", fields).get("engine", "eager")  # a journal begins with the settings
    return None


def _listings(directory: Path) -> list[Path]:
    """Return the manifest and the journals of version 1, of which the last one modified counts."""
    former = (directory / name for name in os.listdir(directory) if _FORMER_JOURNAL.fullmatch(name))
    paths = [path for path in former if path.is_file() and not path.is_symlink() and _are_entries(path)]
    if writable_status(directory / NAME) is not None:
        paths.append(directory / NAME)
    return sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _are_entries(path: Path) -> bool:
    """Return whether a file has a line, and all lines are entries."""
    try:
        return sum(1 for number, line in _lines(path) if _parse(path, number, line)) > 0
    except ValueError:
        return False


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the numbers and contents of the lines of a file except for an entry that is cut off at the end.

    A complete last entry counts also without the end of its line, which some editors of text do not write.
    """
    with open(path, "rb") as file:
        number = 1
        while line := file.readline(MAX_LINE):
            if not line.endswith(b"\n") and len(line) < MAX_LINE and _is_cut_off(line):
                return
            yield number, line
            number += 1


def _is_cut_off(line: bytes) -> bool:
    """Return whether a line is the beginning of an entry."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return line.startswith(_START[: len(line)])
    return False


def _parse(path: Path, number: int, line: bytes | str) -> tuple[dict[str, Any], str]:
    """Return the fields and the text of a line. Raise ValueError if the line is not an entry."""
    try:
        text = line if isinstance(line, str) else line.decode()
        fields = _DECODER.decode(text)
        if not isinstance(fields, dict):
            raise ValueError("it is not a JSON object")
        _check_depth(fields)
        if missing := [name for name in ("file", *REQUIRED) if name not in fields]:
            raise ValueError(f"it has no {missing[0]}")
        if not isinstance(fields["file"], str):
            raise ValueError(f"file must be a name, got {fields['file']!r}")
        check_integer("batch_size", fields.get("batch_size", UNRECORDED), 1)
        fields["file"].encode()
    except (ValueError, TypeError, RecursionError) as error:
        hint = "correct it, or remove the file to have its edits made again"
        raise ValueError(f"{path}, line {number} is not an entry of an edit: {error}; {hint}") from error
    return fields, text.rstrip("\n")


def _integer(digits: str) -> int:
    if (n := len(digits.removeprefix("-"))) > MAX_DIGITS:
        raise ValueError(f"integers must have at most {MAX_DIGITS} digits, got {n}")
    return int(digits)


_DECODER = json.JSONDecoder(parse_int=_integer)


def _check_depth(fields: Any) -> None:
    """Raise ValueError if objects and lists are nested too deeply."""
    level = [fields]
    for _ in range(MAX_DEPTH):
        values = (each for value in level for each in (value.values() if isinstance(value, dict) else value))
        if not (level := [each for each in values if isinstance(each, (dict, list))]):
            return
    raise ValueError(f"objects and lists must be nested at most {MAX_DEPTH} deep")


def modified_at(directory: Path, file: str) -> int:
    """Return the time in nanoseconds at which an image was last modified, or 0 if it does not exist."""
    try:
        return os.stat(os.path.join(directory, file)).st_mtime_ns
    except OSError:  # such as a link that cannot be followed
        return 0


def is_intact(directory: Path, entry: Entry, verify: bool) -> int | None:
    """Compare an image with its entry.

    The size must match. The checksum must match as well if `verify` is set, or if the image was modified later than
    its entry says.

    Returns:
        Time in nanoseconds at which the image was last modified, or None if it does not match.
    """
    path = os.path.join(directory, entry.fields["file"])
    try:
        status = os.stat(path)
    except OSError:  # such as a link that cannot be followed
        return None
    if status.st_size != entry.fields["bytes"] or not stat.S_ISREG(status.st_mode):
        return None
    if status.st_mtime_ns < entry.modified and not verify:
        return status.st_mtime_ns
    return status.st_mtime_ns if sha256(Path(path).read_bytes()).hexdigest() == entry.fields["sha256"] else None


def merge(directory: Path, files: Iterable[str] = (), n_files: int = 0) -> None:
    """Write `manifest.jsonl` with the entries of all images of a folder, and remove the journals of ended processes.

    If the folder has no other entries, the lines are in the order of `files`, otherwise in the order of the file names.

    Args:
        directory: Folder of the images.
        files: File names of the images of a job, which all have entries.
        n_files: Number of these images.
    """
    with folder_lock(directory):
        finished = journal.finished(journal.journals(directory))  # before their entries are read
        with Entries(directory) as entries, atomic_write(directory / NAME) as temporary:
            modified = temporary.stat().st_mtime_ns
            with open(temporary, "w", encoding="utf-8") as lines:
                for file, recorded, line in entries.lines(files if len(entries) == n_files else None):
                    lines.write(f"{line}\n")
                    if modified_at(directory, file) >= recorded:
                        modified = min(modified, recorded)
            # An image that was not compared with its entry remains newer than the manifest.
            os.utime(temporary, ns=(modified, modified))
        journal.remove(finished)
