# SPDX-License-Identifier: Apache-2.0
"""Message of a command that the user interrupts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from .terminal import remark


@contextmanager
def report_interrupt(message: Callable[[], str]) -> Iterator[None]:
    """End the command with the message and exit status 130 if the user interrupts the block."""
    try:
        yield
    except KeyboardInterrupt:
        remark(f"stylefast: interrupted: {message()}")
        raise typer.Exit(130) from None
