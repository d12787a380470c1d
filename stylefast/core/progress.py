# SPDX-License-Identifier: Apache-2.0
"""Progress of long runs: a bar in a terminal or a notebook, a line per minute in a log, or calls of a function."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, TextIO, TypeAlias

from tqdm import tqdm

DELAY = 2.0  # seconds before a bar appears
INTERVAL = 60.0  # seconds between the lines of a log
Progress: TypeAlias = bool | Callable[[str, int, int], object]  # whether to show a bar, or a function to call instead
LINE = "{desc}: {n_fmt} of {total_fmt}, {elapsed} elapsed, {remaining} remaining, {rate_fmt}"


class _Lines(tqdm):
    """Progress as lines. A file would keep every state of a bar."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        print(self, file=self.fp, flush=True)

    def close(self) -> None:
        self.last_print_t = -math.inf  # the base class then takes the bar for one that was never shown
        super().close()


class _Calls(tqdm):
    """Progress as calls of a function, whose exceptions reach the caller of `update`.

    Args:
        function: Called with the name of the work, the number of units that are done, and the total.
        total: Number of units.
        description: Name of the work.
        done: Number of units that are done already.
    """

    def __init__(self, function: Callable[[str, int, int], object], total: int, description: str, done: int) -> None:
        super().__init__(total=total, initial=done, disable=True)
        self._function, self._description = function, description

    def update(self, n: float | None = 1) -> bool:
        self.n += n or 0
        self._function(self._description, int(self.n), int(self.total or 0))
        return True


def progress_bar(total: int, description: str, unit: str, *, shown: Progress = True, done: int = 0) -> tqdm:
    """Return a progress bar on stderr, or an object with its methods that calls a function.

    In a terminal and in a notebook, the bar appears after two seconds. Elsewhere, a line is printed every minute.

    Args:
        total: Number of units.
        description: Name of the work.
        unit: Name of a unit.
        shown: Whether to show progress at all; or a function that is called with the description, the number of units
            that are done, and the total after every step. An exception that it raises ends the work.
        done: Number of units that are done already.
    """
    if callable(shown):
        return _Calls(shown, total, description, done)
    stderr: TextIO | None = sys.stderr  # None in a program without a console
    shown = shown and stderr is not None
    options: dict[str, Any] = {"total": total, "initial": done, "desc": description, "unit": unit, "disable": not shown}
    if stderr is None or stderr.isatty() or "ipykernel" in sys.modules:
        return tqdm(**options, delay=DELAY)
    return _Lines(**options, delay=INTERVAL, mininterval=INTERVAL, maxinterval=INTERVAL, bar_format=LINE)
