# SPDX-License-Identifier: Apache-2.0
"""Progress of long runs: a bar in a terminal or a notebook, a line per minute in a log."""

from __future__ import annotations

import math
import sys
from typing import Any, TextIO

from tqdm import tqdm

DELAY = 2.0  # seconds before a bar appears
INTERVAL = 60.0  # seconds between the lines of a log
LINE = "{desc}: {n_fmt} of {total_fmt}, {elapsed} elapsed, {remaining} remaining, {rate_fmt}"


class _Lines(tqdm):
    """Progress as lines. A file would keep every state of a bar."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        print(self, file=self.fp, flush=True)

    def close(self) -> None:
        self.last_print_t = -math.inf  # the base class then takes the bar for one that was never shown
        super().close()


def progress_bar(total: int, description: str, unit: str, *, shown: bool = True, done: int = 0) -> tqdm:
    """Return a progress bar on stderr.

    In a terminal and in a notebook, the bar appears after two seconds. Elsewhere, a line is printed every minute.

    Args:
        total: Number of units.
        description: Name of the work.
        unit: Name of a unit.
        shown: Whether to show progress at all.
        done: Number of units that are done already.
    """
    stderr: TextIO | None = sys.stderr  # None in a program without a console
    shown = shown and stderr is not None
    options: dict[str, Any] = {"total": total, "initial": done, "desc": description, "unit": unit, "disable": not shown}
    if stderr is None or stderr.isatty() or "ipykernel" in sys.modules:
        return tqdm(**options, delay=DELAY)
    return _Lines(**options, delay=INTERVAL, mininterval=INTERVAL, maxinterval=INTERVAL, bar_format=LINE)
