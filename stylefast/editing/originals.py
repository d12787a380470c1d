# SPDX-License-Identifier: Apache-2.0
"""The unedited targets and references of a job's edits, which are kept beside the edits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..generators import Generator
from ..io.atomic import make_folder, remove_leftovers
from ..io.images import FORMATS
from ..io.index import DiskIndex
from .download import Download, DownloadedImage
from .journal import Journal, difference
from .manifest import REQUIRED, is_intact, merge, read_entries
from .options import JobOptions
from .plan import Edit, Plan
from .renderer import EditBatch, EditRenderer
from .settings import pixel_settings
from .sources import ImageSource
from .writer import ImageWriter

FOLDER = "originals"
KINDS = ("targets", "references")  # subfolders, because a target and a reference of one name can be different images
MAX_PENDING = 2  # images of a source that wait for its writer


def find_original(directory: Path, kind: str, name: str, image_format: str) -> Path | None:
    """Return the file of the unedited target or reference of an edit, or None if the folder has none.

    Args:
        directory: Folder of the edits.
        kind: "targets" or "references".
        name: Name of the image, as in the manifest.
        image_format: Format to look for first, such as "png".
    """
    folder = directory / FOLDER / kind
    for suffix in sorted(FORMATS, key=lambda suffix: suffix != f".{image_format}"):
        if (path := folder / f"{name}{suffix}").is_file():
            return path
    return None


class Originals:
    """Context in which a process of a job writes the unedited images of the plan's edits, each once.

    The images of one image source are in a folder of their own, with a manifest that lists them. A source whose latents
    are unknown has no images. Of several processes of the job, the one whose batch is the first of the plan that needs
    an image writes it.

    Args:
        directory: Folder of the edits.
        plan: Plan of the edits.
        generator: Generator of the images.
        options: Options of the job. Without `originals`, nothing is written.
    """

    def __init__(self, directory: Path, plan: Plan, generator: Generator, options: JobOptions) -> None:
        sources = dict(zip(KINDS, (plan.targets, plan.references), strict=True)) if options.originals else {}
        self._kept: dict[str, _Images] = {
            kind: _Images(directory / FOLDER / kind, source, generator, options)
            for kind, source in sources.items()
            if _has_latents(source)
        }
        self._resources = ExitStack()

    def __enter__(self) -> Originals:
        with ExitStack() as stack:
            for images in self._kept.values():
                stack.enter_context(images.opened())
            self._resources = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._resources.__exit__(*error)  # type: ignore[arg-type]

    @property
    def have_other_settings(self) -> bool:
        """Whether a folder has an image with other settings, such as another truncation."""
        return any(images.have_other_settings for images in self._kept.values())

    def conflict(self, edit: Edit) -> str | None:
        """Return why an image of an edit cannot be written, or None if it can."""
        conflicts = (self._kept[kind].conflict(row) for kind, row in self._rows(edit))
        return next(filter(None, conflicts), None)

    def first_needed(self, edits: Iterable[Edit]) -> list[tuple[str, int]]:
        """Return the kinds and rows of the images that the edits need and no earlier edit of the plan has needed.

        All processes call this method for all batches of the plan, in order.
        """
        rows = (pair for edit in edits for pair in self._rows(edit))
        return [(kind, row) for kind, row in rows if self._kept[kind].is_new(row)]

    def keep(self, rows: Iterable[tuple[str, int]], render: EditRenderer) -> None:
        """Write the images of rows unless they exist and are intact."""
        for kind, row in rows:
            self._kept[kind].keep(row, render)

    def merge(self) -> None:
        """Write the manifests of the folders, after all processes have written their images."""
        for images in self._kept.values():
            merge(images.folder)

    def _rows(self, edit: Edit) -> Iterator[tuple[str, int]]:
        pairs = zip(KINDS, (edit.target, edit.reference), strict=True)
        return ((kind, row) for kind, row in pairs if kind in self._kept)


class _Images:
    """Images of one source in a folder."""

    def __init__(self, folder: Path, source: ImageSource, generator: Generator, options: JobOptions) -> None:
        self.folder = folder
        self._source, self._options = source, options
        self._settings: dict[str, Any] = pixel_settings(generator, [generator.fingerprint, source.identity])

    def opened(self) -> ExitStack:
        """Open the journal, the entries and the writer of the folder. Leaving the returned context closes them."""
        make_folder(self.folder)
        remove_leftovers(self.folder)
        with ExitStack() as stack:
            journal = stack.enter_context(Journal(self.folder, self._settings))
            self._entries = stack.enter_context(read_entries(self.folder, self._settings))
            self._needed = stack.enter_context(DiskIndex())
            suffix = f".{self._options.image_format}"
            self._writer = stack.enter_context(ImageWriter(self.folder, journal, suffix, 1, lambda: None))
            return stack.pop_all()

    @property
    def have_other_settings(self) -> bool:
        return self._entries.have_other_settings

    def is_new(self, row: int) -> bool:
        return self._needed.add(self._file(row), "")

    def conflict(self, row: int) -> str | None:
        """Return why the image of a row cannot be written: it exists with other settings."""
        file = self._file(row)
        entry = self._entries.find(file)
        description = {"file": file, **self._settings}
        if self._options.overwrite or entry is None or entry.description == description:
            return None
        if not (path := self.folder / file).exists():
            return None
        return (
            f"directory must not have unedited images of the same names with other settings, got {path}: "
            f"{difference(entry.description, description)}; choose another folder, replace them with overwrite=True "
            "(--overwrite), or leave them out with originals=False (--no-originals)"
        )

    def keep(self, row: int, render: EditRenderer) -> None:
        """Write the image of a row unless it exists and is intact."""
        if (conflict := self.conflict(row)) is not None:
            raise ValueError(conflict)
        file = self._file(row)
        entry, description = self._entries.find(file), {"file": file, **self._settings}
        if self._options.resume and entry is not None and entry.description == description:
            is_kept = is_intact(self.folder, entry, self._options.verify) is not None
        else:
            is_kept = False
        if is_kept:
            return
        image = render.original(self._source, row)
        download = Download(EditBatch([], image.new_empty(0, 0), image))
        self._writer.submit(DownloadedImage(download, 0), description | dict.fromkeys(REQUIRED))
        self._writer.wait(MAX_PENDING)

    def _file(self, row: int) -> str:
        return f"{self._source.name(row)}.{self._options.image_format}"


def _has_latents(source: ImageSource) -> bool:
    try:
        source.check_latents()
    except ValueError:
        return False
    return True
