# SPDX-License-Identifier: Apache-2.0
"""The gallery of a folder of edits: a page, its data and its previews."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ..core.progress import progress_bar
from ..core.text import printable
from ..editing.manifest import Entries, read_entries
from ..editing.originals import FOLDER as ORIGINALS
from ..io.atomic import PathLike, atomic_write, remove_leftovers
from .data import LENGTH, SUFFIXES, Script, script_json
from .previews import Previews
from .shown import ShownEdit, shown_edit

PAGE = "gallery.html"
FOLDER = "gallery"
PAGE_SIZE = 60
BLOCK = 256  # entries in memory
MAX_PROBLEMS = 200  # that the page lists
RESOURCES = Path(__file__).parent
_SCRIPT = re.compile(r"(\d{4,9})\.js")


class Gallery(NamedTuple):
    """Gallery that was written.

    Attributes:
        page: Path of the page.
        n_edits: Number of edits in it.
        n_problems: Number of images that are missing or damaged. The page lists the first 200.
        has_originals: Whether there is an unedited target for every edit.
    """

    page: Path
    n_edits: int
    n_problems: int
    has_originals: bool


def write_gallery(directory: PathLike, *, progress: bool = True) -> Gallery:
    """Write `gallery.html` into a folder of edits, with data and previews in the folder `gallery`.

    A browser opens the page from the disk. The edits are those of the manifest and of the journals of unfinished jobs.
    Previews that exist are kept if the images have not changed, so that a second gallery takes little time. The same
    folder gives the same files. Memory does not grow with the number of edits.

    Args:
        directory: Folder that a `Job` has written.
        progress: Whether to show a progress bar, which appears after two seconds.

    Returns:
        The gallery.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the folder has no edits, or a line of the manifest or of a journal is not an entry.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a folder")
    folder = directory / FOLDER
    with read_entries(directory) as entries:
        if not (n_edits := len(entries)):
            raise ValueError(f"directory must have edits, as `stylefast edit` writes them, got {directory}")
        summary = _Summary()
        n_scripts = _write_data(directory, entries, summary, n_edits if progress else 0)
        _remove_old(folder, entries, n_scripts)
    with atomic_write(directory / PAGE) as temporary:
        temporary.write_text(_page(directory, n_scripts, summary), encoding="utf-8", errors="replace")
    return Gallery(directory / PAGE, n_edits, summary.n_problems, summary.n_without_target == 0)


@dataclass
class _Summary:
    """Counts of edits, and the first problems as pairs of a file and a reason."""

    n_without_target: int = 0
    n_unmeasured: int = 0
    n_problems: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    damaged_originals: set[str] = field(default_factory=set)

    def add(self, edit: ShownEdit) -> None:
        self.n_without_target += edit.originals[0] is None
        self.n_unmeasured += edit.figures[0] is None and edit.figures[1] is None

    def add_problem(self, file: str, reason: str) -> None:
        """Add a problem. A damaged target or reference, which several edits can have, counts once."""
        if file.startswith(f"{ORIGINALS}/"):
            if file in self.damaged_originals:
                return
            self.damaged_originals.add(file)
        self.n_problems += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append((file, reason))


def _write_data(directory: Path, entries: Entries, summary: _Summary, n_shown: int) -> int:
    """Write the previews and the scripts. Return the number of scripts."""
    previews, script, n_scripts = Previews(directory, directory / FOLDER / "previews"), Script(), 0
    n_threads = len(os.sched_getaffinity(0))
    with (
        ThreadPoolExecutor(n_threads, "stylefast-preview") as pool,
        progress_bar(n_shown, "gallery", "edit", shown=n_shown > 0) as bar,
    ):
        for block in _blocks(entries):
            edits = list(_shown(directory, block, summary))
            for edit, problems in zip(edits, pool.map(previews.make, edits), strict=True):
                summary.add(edit)
                for path, reason in problems.items():
                    summary.add_problem(path.relative_to(directory).as_posix(), reason)
                script.add(edit, is_shown=directory / edit.file not in problems)
                if len(script) == LENGTH:
                    script.write(_script_path(directory, n_scripts))
                    script, n_scripts = Script(), n_scripts + 1
            bar.update(len(block))
    if len(script):
        script.write(_script_path(directory, n_scripts))
        n_scripts += 1
    return n_scripts


def _blocks(entries: Entries) -> Iterator[list[dict[str, Any]]]:
    fields = (entry.fields for entry in entries.in_order())
    while block := list(islice(fields, BLOCK)):
        yield block


def _shown(directory: Path, block: list[dict[str, Any]], summary: _Summary) -> Iterator[ShownEdit]:
    """Yield the edits of a block that can be shown. The others are problems."""
    for fields in block:
        try:
            yield shown_edit(directory, fields)
        except ValueError as error:
            summary.add_problem(fields["file"], str(error))


def _script_path(directory: Path, number: int) -> Path:
    return directory / FOLDER / "data" / f"{number:04}.js"


def _remove_old(folder: Path, entries: Entries, n_scripts: int) -> None:
    """Remove the scripts that the page does not load, and the previews of images that are no longer listed."""
    for name in os.listdir(folder / "data") if n_scripts else ():
        if (match := _SCRIPT.fullmatch(name)) and int(match[1]) >= n_scripts:
            (folder / "data" / name).unlink()
    for image_format in SUFFIXES[1:]:
        with suppress(FileNotFoundError):
            remove_leftovers(folder / "previews" / image_format)
            for place in os.scandir(folder / "previews" / image_format):
                stem, suffix = os.path.splitext(place.name)
                if suffix == ".jpg" and not stem.startswith(".") and entries.get(f"{stem}.{image_format}") is None:
                    os.unlink(place.path)


def _page(directory: Path, n_scripts: int, summary: _Summary) -> str:
    """Return the page, whose style sheet and program stand in it."""
    name = printable(directory.resolve().name)
    meta = {
        "name": name,
        "pageSize": PAGE_SIZE,
        "suffixes": SUFFIXES,
        "withoutTarget": summary.n_without_target,
        "unmeasured": summary.n_unmeasured,
        "nProblems": summary.n_problems,
        "problems": [(printable(file), printable(reason)) for file, reason in summary.problems],
    }
    data = "\n".join(f'<script src="{FOLDER}/data/{number:04}.js"></script>' for number in range(n_scripts))
    values = {
        "title": html.escape(f"{name}: gallery of edits"),
        "style": (RESOURCES / "page.css").read_text(encoding="utf-8"),
        "program": (RESOURCES / "page.js").read_text(encoding="utf-8"),
        "meta": script_json(meta),
        "data": data,
    }
    template = (RESOURCES / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)
