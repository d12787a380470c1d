# SPDX-License-Identifier: Apache-2.0
"""Journals, to which the processes of unfinished jobs append an entry for each image that they have written.

Every process has its own journal, such as `manifest.0001.<token>.jsonl`, and keeps it locked while it runs. The first
line has the token of the name and the settings of the job. Files that only look like journals are left alone.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..core.text import printable, shortened
from ..io.private import create, folder_lock, is_abandoned, is_token, remove_abandoned

MAX_DIFFERENCES = 6  # settings that a message names
OMITTED = {"engine": "eager", "float16_resolutions": 0}  # values of settings that entries do not store
_NAME = re.compile(r"manifest\.(\d{4,18})\.([0-9a-f]{24})\.jsonl")


class Journal:
    """Context of a new journal of this process. The journal is removed at the end if it has no entries.

    Args:
        directory: Folder of the images.
        settings: Fields that all entries of the job share.

    Raises:
        ValueError: If a job with other settings is writing into the folder. The message says how the settings differ.
        OSError: If the journal cannot be created.
    """

    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        with folder_lock(directory):
            others = journals(directory)
            for path in others:
                running = None if is_abandoned(path) is not False else _header(path).get("settings", settings)
                if running not in (None, settings):
                    raise ValueError(
                        f"directory must not be used by two jobs with different settings at the same time, got "
                        f"{directory}, where a running job has other settings: {difference(running, settings)}"
                    )
            number = max(map(_number, others), default=0) + 1
            name = f"manifest.{number:04}"
            self._path, self._descriptor = create(lambda token: directory / f"{name}.{token}.jsonl")
            self._size = self._start = 0
            try:
                self._append({"journal": self._path.name.split(".")[2], "settings": settings})
            except OSError:
                self.close()
                raise
            self._start = self._size

    def add(self, entry: dict[str, Any], modified: int) -> None:
        """Append an entry, which stays in the file even if this process is killed.

        Args:
            entry: Entry of an image.
            modified: Time in nanoseconds at which the image was last modified.
        """
        self._append([modified, entry])

    def close(self) -> None:
        """Close the file, and remove it if it has no entries."""
        if self._size == self._start:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _append(self, line: Any) -> None:
        content = (json.dumps(line, allow_nan=False) + "\n").encode()
        written = 0
        try:
            while written < len(content):
                written += os.write(self._descriptor, content[written:])
        except OSError as error:
            os.ftruncate(self._descriptor, self._size)  # no incomplete line, after which a later one would be invalid
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._size += len(content)


def journals(directory: Path) -> list[Path]:
    """Return the journals in a folder, in the order in which they were begun."""
    names = (name for name in os.listdir(directory) if (match := _NAME.fullmatch(name)) and is_token(match[2]))
    return sorted((directory / name for name in names if _is_journal(directory / name)), key=_number)


def finished(paths: list[Path]) -> list[Path]:
    """Return the journals to which no process appends any more; all if the file system has no locks."""
    return [path for path in paths if is_abandoned(path) is not False]


def remove(paths: list[Path]) -> None:
    """Remove finished journals."""
    for path in paths:
        if is_abandoned(path) is None:
            path.unlink(missing_ok=True)
        else:
            remove_abandoned(path)


def read(path: Path) -> Iterator[tuple[int, int, str]]:
    """Yield the number of each entry's line in a journal, the time at which the image was last modified, and the entry.

    Raises:
        ValueError: If a line is damaged. The message gives its number.
    """
    with suppress(FileNotFoundError), open(path, "rb") as lines:  # a journal without entries may just be removed
        lines.readline()
        for number, line in enumerate(lines, 2):
            if not line.endswith(b"\n"):
                return
            try:
                modified, entry = json.loads(line)
                yield number, int(modified), json.dumps(entry)
            except (ValueError, TypeError, OverflowError, RecursionError) as error:
                raise ValueError(
                    f"{path}, line {number} is not a line of a journal: {error}; remove the file"
                ) from error


def difference(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Return how stored settings differ from those of a job, for at most `MAX_DIFFERENCES` settings."""
    missing = object()
    names = [name for name in {**stored, **wanted} if stored.get(name, missing) != wanted.get(name, missing)]
    if names == ["job"]:
        return "its generator, catalog, options of the editor, truncation or latents are other ones"
    texts = (
        f"its {printable(shortened(name))} is {_text(stored, name)}, not {_text(wanted, name)}"
        for name in names[:MAX_DIFFERENCES]
        if name != "job"  # a hash, which differs because of the others
    )
    return ", ".join(texts)


def _text(settings: dict[str, Any], name: str) -> str:
    value = settings.get(name, OMITTED.get(name))
    return "missing" if value is None and name not in settings else shortened(json.dumps(value))


def _number(journal: Path) -> int:
    return int(journal.name.split(".")[1])


def _is_journal(path: Path) -> bool:
    """Return whether a file with the name of a journal begins like one. A process may be killed in the first line."""
    start = f'{{"journal": "{path.name.split(".")[2]}"'.encode()
    with suppress(FileNotFoundError):  # its process has just removed it
        if path.is_file() and not path.is_symlink():
            with open(path, "rb") as file:
                return start.startswith(file.read(len(start)))
    return False


def _header(path: Path) -> dict[str, Any]:
    with suppress(FileNotFoundError, ValueError), open(path, "rb") as file:
        return json.loads(file.readline())
    return {}
