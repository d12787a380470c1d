# SPDX-License-Identifier: Apache-2.0
"""Edits of a plan whose images a folder lists, and why some cannot be replaced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .journal import difference
from .manifest import Entries, Entry
from .plan import Edit, Grid, Plan


def listed(plan: Plan, entries: Entries, image_format: str) -> Iterator[tuple[Edit, Entry]]:
    """Yield the edits of a checked plan whose images have entries, and the entries.

    For a grid, the time depends on the number of its edits or of the entries, whichever is less.

    Args:
        plan: Checked plan.
        entries: Entries of a folder.
        image_format: Format of the images of the plan.
    """
    n_entries = len(entries)
    if isinstance(plan, Grid) and len(plan) > n_entries:
        for entry in entries.in_order():
            name, _, suffix = entry.fields["file"].rpartition(".")
            if suffix == image_format and (edit := plan.find(name)) is not None:
                yield edit, entry
        return
    for edit in plan if n_entries else ():
        if (entry := entries.find(f"{plan.name(edit)}.{image_format}")) is not None:
            yield edit, entry
            n_entries -= 1
            if n_entries == 0:
                return


def refusal(directory: Path, entry: Entry, description: dict[str, Any]) -> str | None:
    """Return why the image of an entry cannot be replaced, or None if it has the same settings or does not exist."""
    path = directory / description["file"]
    if entry.description == description or not path.exists():
        return None
    return (
        f"directory must not have images of the same names with other settings, got {path}: "
        f"{difference(entry.description, description)}; choose another folder, or replace them with overwrite=True "
        "(--overwrite)"
    )
