# SPDX-License-Identifier: Apache-2.0
"""Dictionary on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


class DiskIndex:
    """Dictionary of strings in a temporary file, so that it takes no memory. Leaving `with` deletes the file.

    All methods raise OSError if the folder for temporary files has no space.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # an unnamed temporary file
        self._execute("PRAGMA journal_mode = OFF")
        self._execute("CREATE TABLE entry (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    def __setitem__(self, key: str, value: str) -> None:
        self._execute("INSERT OR REPLACE INTO entry VALUES (?, ?)", key, value)

    def __len__(self) -> int:
        return self._execute("SELECT count(*) FROM entry").fetchone()[0]

    def add(self, key: str, value: str) -> bool:
        """Add an entry and return True. If the key exists, change nothing and return False."""
        return self._execute("INSERT OR IGNORE INTO entry VALUES (?, ?)", key, value).rowcount == 1

    def get(self, key: str) -> str | None:
        """Return the value of a key, or None if the key does not exist."""
        row = self._execute("SELECT value FROM entry WHERE key = ?", key).fetchone()
        return row[0] if row else None

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield the keys and their values, in the order of the keys."""
        yield from self._execute("SELECT key, value FROM entry ORDER BY key")

    def _execute(self, statement: str, *values: str) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise OSError(f"the folder for temporary files must have space for an index, got: {error}") from error
