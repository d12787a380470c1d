# SPDX-License-Identifier: Apache-2.0
"""Texts of messages, also those that come from files or users."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

_MAX_LENGTH = 200


def printable(text: str) -> str:
    """Return the text with escapes in place of control characters, which could change what a terminal shows."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(text: str) -> str:
    """Return at most 200 characters of a text, with "..." in place of the others."""
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}..."


def suggestion(word: str, words: Iterable[str]) -> str:
    """Return "; did you mean 'eyes'?" with the known word that is closest to an unknown one, or "" if none is close."""
    close = difflib.get_close_matches(word, words, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def describe(error: BaseException) -> str:
    """Return the message of an error, without the number that the operating system gives it."""
    if isinstance(error, MemoryError):
        return f"there is not enough memory: {error}" if str(error) else "there is not enough memory"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        files = [os.fsdecode(file) for file in (error.filename, error.filename2) if file is not None]
        return f"{' -> '.join(files)}: {error.strerror[0].lower()}{error.strerror[1:]}"
    return str(error) or type(error).__name__
