# SPDX-License-Identifier: Apache-2.0
"""Dictionary on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class DiskIndex:
    """Dictionary of strings in a temporary file, so that it takes no memory. Leaving `with` deletes the file.

    All methods raise OSError if the folder for temporary files has no space.
    """

    def __init__(self) -> None:
        with _os_errors():
            self._db = sqlite3.connect("", isolation_level=None)  # an unnamed temporary file
            self._db.execute("PRAGMA journal_mode = OFF")
            self._db.execute("CREATE TABLE entry (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    def __setitem__(self, key: str, value: str) -> None:
        with _os_errors():
            self._db.execute("INSERT OR REPLACE INTO entry VALUES (?, ?)", (key, value))

    def __len__(self) -> int:
        with _os_errors():
            return self._db.execute("SELECT count(*) FROM entry").fetchone()[0]

    def add(self, key: str, value: str) -> bool:
        """Add an entry and return True. If the key exists, change nothing and return False."""
        with _os_errors():
            return self._db.execute("INSERT OR IGNORE INTO entry VALUES (?, ?)", (key, value)).rowcount == 1

    def get(self, key: str) -> str | None:
        """Return the value of a key, or None if the key does not exist."""
        with _os_errors():
            row = self._db.execute("SELECT value FROM entry WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield the keys and their values, in the order of the keys."""
        with _os_errors():
            yield from self._db.execute("SELECT key, value FROM entry ORDER BY key")


@contextmanager
def _os_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(f"the folder for temporary files must have space for an index of the edits: {error}") from error
