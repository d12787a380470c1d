# SPDX-License-Identifier: Apache-2.0
"""`stylefast gallery`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..gallery import write_gallery
from .terminal import say


def gallery(
    outdir: Annotated[Path, typer.Argument(help="Folder of edits that `stylefast edit` has written.")],
) -> None:
    """Write a web page that shows a folder of edits: gallery.html, which a browser opens from the disk.

    The page compares the part before and after each edit, and sorts and filters the edits. If the command is run again,
    it makes only what has changed. It also shows the finished edits of a job that has not ended.
    """
    written = write_gallery(outdir)
    n, problems = written.n_edits, written.n_problems
    say(f"{written.page} shows {n:,} {'edit' if n == 1 else 'edits'}; open it in a browser")
    if problems:
        images = "1 image, which is" if problems == 1 else f"{problems:,} images, which are"
        say(f"It lists {images} missing or damaged")
    if not written.has_originals:
        say("It has no target beside some edits: run the same `stylefast edit` command with --originals to get them")
