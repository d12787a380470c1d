# SPDX-License-Identifier: Apache-2.0
"""A dictionary on disk."""

from __future__ import annotations

import sqlite3
from typing import TypeVar

T = TypeVar("T")


class DiskIndex:
    """A dictionary of strings on disk that is gone when it is closed: memory does not grow with it."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # a temporary file, unnamed
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("CREATE TABLE entry (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    def __setitem__(self, key: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO entry VALUES (?, ?)", (key, value))

    def add(self, key: str, value: str) -> bool:
        """Adds an entry; False, and nothing changes, if there is one of that key."""
        return self._db.execute("INSERT OR IGNORE INTO entry VALUES (?, ?)", (key, value)).rowcount == 1

    def get(self, key: str) -> str | None:
        """The value of a key; None if there is none."""
        found = self._db.execute("SELECT value FROM entry WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None
