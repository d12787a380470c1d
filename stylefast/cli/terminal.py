# SPDX-License-Identifier: Apache-2.0
"""Texts of the commands: results on stdout, remarks on stderr, errors as one line."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Mapping

from ..core.text import printable


def say(text: str) -> None:
    """Print a result. Control characters from files are escaped."""
    print(printable(text))


def remark(text: str) -> None:
    """Print a remark on stderr, after the results before it. Control characters from files are escaped."""
    sys.stdout.flush()
    print(printable(text), file=sys.stderr, flush=True)


def name_options(error: Exception, flags: Mapping[str, str]) -> Exception:
    """Return the error with a message that begins with an option as the user writes it.

    Args:
        error: Error of an argument, whose message begins with the name of the argument.
        flags: Option of each argument.
    """
    match = re.match(r"(\w+)(?= must )", str(error))
    if match is None or match[0] not in flags:
        return error
    return type(error)(flags[match[0]] + str(error)[match.end() :])


def print_whole_text() -> None:
    """Escape characters that the encoding of the terminal lacks, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_output() -> None:
    """Discard what is still to be printed, after the reader of a pipe has closed it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
