# SPDX-License-Identifier: Apache-2.0
"""Jobs, which write the edits of a plan as image files together with a manifest, and resume where they stopped."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from torch.distributed import ProcessGroup

from ..core.checks import check_choice, check_integer, check_type
from ..core.progress import progress_bar
from ..distributed import Ranks
from ..io.atomic import PathLike, make_folder, remove_leftovers
from ..io.images import FORMATS
from .batch_size import LARGEST, check_batch_size, fastest, unmeasured
from .download import Download, DownloadedImage
from .editor import StyleEditor
from .journal import Journal
from .listed import listed, refusal
from .manifest import PER_EDIT, REQUIRED, RESULTS, Entries, Entry, is_intact, merge, read_entries
from .options import JobOptions
from .originals import Originals
from .plan import Edit, Plan
from .renderer import EditBatch, EditRenderer
from .settings import engine_notes, pixel_settings
from .writer import ImageWriter


class Job:
    """Job that writes the edits of a plan as image files into a folder.

    Iterating over a job makes the edits and yields each rendered batch.

    The job keeps an existing image if the manifest or a journal of the folder has an entry for the same edit with the
    same metadata and inputs, the size of the file matches, and the file was not modified after the manifest or, if a
    journal lists it, after it was written. If the file was modified later, its checksum must match as well. All other
    edits are rendered in the same batches as in an uninterrupted job, so that a resumed job writes the same bytes. An
    image gets its name only after it has been written completely.

    After the last edit, `manifest.jsonl` lists the images of all jobs of the folder, each once: in the order of the
    plan if there are only images of this plan, otherwise in the order of the file names. Several processes can work in
    one folder at the same time if their jobs have the same settings.

    Args:
        editor: Editor that renders the edits.
        plan: Edits to make.
        directory: Folder for the images. It is created if necessary.
        options: Options of the job.
        metadata: Further fields of every line of the manifest, JSON-serialisable. They belong to the settings.
        shard: Shard `(i, n)`, counted from 0: the job makes every n-th batch, beginning with batch i. If n > 1, it
            does not write `manifest.jsonl`; a later job over all shards does.
        group: Process group whose ranks share the job. The default is this process alone. All ranks create the job
            with the same arguments.
        progress: Whether to show a progress bar, which appears after two seconds.

    Attributes:
        batch_size: Edits per batch. If it is chosen automatically, iterating sets it before the first batch.
        n_existing: Number of edits of this process whose images were kept.
        n_written: Number of images that this process has written.

    Raises:
        TypeError: If `options` has another type.
        ValueError: If an option or the shard is out of range, or `metadata` has a field of an edit. Iterating also
            raises it if the editor cannot make an edit, a line of the manifest or of a journal is not an entry, or
            another job is writing into the folder or has written an image of the same name, with other settings.
    """

    def __init__(
        self,
        editor: StyleEditor,
        plan: Plan,
        directory: PathLike,
        options: JobOptions = JobOptions(),
        *,
        metadata: Mapping[str, Any] | None = None,
        shard: tuple[int, int] = (0, 1),
        group: ProcessGroup | None = None,
        progress: bool = True,
    ) -> None:
        check_type("options", options, JobOptions, "JobOptions(batch_size=8)")
        check_choice("image_format", options.image_format, tuple(suffix.removeprefix(".") for suffix in FORMATS))
        check_integer("writers", options.writers, 1)
        if not 0 <= shard[0] < shard[1]:
            raise ValueError(f"shard must be (i, n) with 0 <= i < n, got {shard}")
        if reserved := {*PER_EDIT, *RESULTS, "engine", "job"} & {*(metadata or {})}:
            raise ValueError(f"metadata must not have fields that edits have, got {', '.join(sorted(reserved))}")
        self.editor: StyleEditor = editor
        self.plan: Plan = plan
        self.directory: Path = Path(directory)
        self.options: JobOptions = options
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.shard: tuple[int, int] = shard
        self.ranks: Ranks = Ranks(group)
        check_batch_size(options.batch_size)
        size = options.batch_size
        self.batch_size: int = unmeasured(editor.generator) if size == "auto" else size
        self.n_existing: int = 0
        self.n_written: int = 0
        self.render: EditRenderer = editor.renderer(
            plan,
            batch_size=LARGEST if size == "auto" else size,
            measure=options.measure,
            roi_mode=options.roi_mode,
        )
        self._progress = progress and self.ranks.rank == 0
        self._is_checked = self._has_begun = False

    def __repr__(self) -> str:
        return f"Job({str(self.directory)!r}, {self.plan!r}, shard={self.shard})"

    def check(self) -> None:
        """Check the plan with the editor, once. Iterating calls this method first.

        Raises:
            ValueError: If the editor cannot make an edit of the plan.
        """
        if not self._is_checked:
            self.editor.check(self.plan)
            self._is_checked = True

    @property
    def total(self) -> int:
        """Number of edits of this job's shard, over all ranks."""
        self.check()
        # A shard takes the batch size of the folder and never measures one, so it is known before the first batch.
        if self.shard[1] > 1 and self.options.batch_size == "auto" and not self._has_begun and self.directory.is_dir():
            with read_entries(self.directory, self.settings()) as entries:
                self.batch_size = entries.batch_size or self.batch_size
        shards = map(self._shard_of, range(self.ranks.size))
        return sum(self.plan.count(self.batch_size, shard) for shard in shards)

    def recorded_engine(self) -> tuple[str, int] | None:
        """Return the engine and the batch size of the job's images in the folder, or None if there are none.

        The job's images are those with its settings except for the engine. Those of its plan count first.
        """
        if not self.directory.is_dir():
            return None
        settings = self.settings()
        with read_entries(self.directory, settings) as entries:
            for edit, entry in listed(self.plan, entries, self.options.image_format) if entries.engine else ():
                if entry.is_of(self.describe(edit, settings)):
                    return entry.engine
            return entries.engine

    def __iter__(self) -> Iterator[EditBatch]:
        with closing(self.steps()) as steps:
            for batch in steps:
                if batch is not None:
                    yield batch

    def steps(self) -> Generator[EditBatch | None, None, None]:
        """Do what iterating does, and also yield None while no image is made, so that callers can end the job then.

        It yields None after each edit that is compared with the folder in advance, and after each batch that exists.
        """
        self.check()
        self.n_existing = self.n_written = 0
        settings = self.settings()
        make_folder(self.directory)
        if self.ranks.rank == 0:
            remove_leftovers(self.directory)
        with (
            Journal(self.directory, settings) as journal,
            read_entries(self.directory, settings) as entries,
            Originals(self.directory, self.plan, self.editor.generator, self.options) as originals,
        ):
            self._choose_batch_size(entries)
            self._has_begun = True
            yield from self._check_existing(entries, originals, settings)
            yield from self._run(entries, originals, journal, settings)
        self.ranks.gather(None)
        if self.shard[1] == 1 and self.ranks.rank == 0:
            originals.merge()
            merge(self.directory, map(self._file, self.plan), len(self.plan))

    def _choose_batch_size(self, entries: Entries) -> None:
        """Set the batch size if it is chosen automatically, on all ranks to the same value.

        Shards are not measured, because different sizes would give them other edits.
        """
        if self.options.batch_size != "auto":
            return
        if self.ranks.rank == 0:
            choose = unmeasured if self.shard[1] > 1 else partial(fastest, plan=self.plan)
            self.batch_size = entries.batch_size or choose(self.editor.generator)
        self.batch_size = self.ranks.broadcast(self.batch_size)

    def _check_existing(self, entries: Entries, originals: Originals, settings: dict[str, Any]) -> Iterator[None]:
        """Raise ValueError if the images of the plan would replace images with other settings. Yield after each edit.

        No rank returns before every rank has read the entries.
        """
        conflict = None
        if (entries.have_other_settings or originals.have_other_settings) and not self.options.overwrite:
            batches = self.plan.batches(self.batch_size, self._shard_of(self.ranks.rank))
            for edit in chain.from_iterable(batches):
                conflict = originals.conflict(edit)
                if (entry := entries.find(self._file(edit))) is not None:
                    conflict = refusal(self.directory, entry, self.describe(edit, settings)) or conflict
                if conflict is not None:
                    break
                yield
        for message in filter(None, self.ranks.gather(conflict)):
            raise ValueError(message)

    def _run(
        self, entries: Entries, originals: Originals, journal: Journal, settings: dict[str, Any]
    ) -> Iterator[EditBatch | None]:
        shard, options = self._shard_of(self.ranks.rank), self.options
        n_edits, notes = self.plan.count(self.batch_size, shard), engine_notes(self.editor.generator)

        def on_written() -> None:
            self.n_written += 1  # counted first, because the update of the bar may raise
            bar.update()

        with (
            progress_bar(n_edits, "edits", "image", shown=self._progress) as bar,
            ImageWriter(self.directory, journal, f".{options.image_format}", options.writers, on_written) as writer,
        ):
            for number, edits in enumerate(self.plan.batches(self.batch_size)):
                unedited = originals.first_needed(edits)
                if number % shard[1] != shard[0]:
                    continue
                descriptions = [self.describe(edit, settings) for edit in edits]
                missing = self._missing(descriptions, entries, journal, writer)
                self.n_existing += len(edits) - len(missing)
                bar.update(len(edits) - len(missing))
                if not missing:
                    originals.keep(unedited, self.render)
                    yield None
                    continue
                batch = self.render(edits)
                download = Download(batch)
                results = dict.fromkeys(REQUIRED) | {"batch_size": self.batch_size} | notes
                for i in missing:
                    writer.submit(DownloadedImage(download, i), descriptions[i] | results)
                # A GPU computes this batch while the host prepares the next one.
                writer.wait(2 * options.writers + (len(missing) if download.is_asynchronous else 0))
                originals.keep(unedited, self.render)
                yield batch
            writer.wait(0)

    def _missing(
        self, descriptions: list[dict[str, Any]], entries: Entries, journal: Journal, writer: ImageWriter
    ) -> list[int]:
        """Return the positions, in a batch, of the edits whose images are missing or not intact.

        Raises:
            ValueError: If an image has other settings.
        """
        usable: list[Entry | None] = []
        for description in descriptions:
            entry = entries.find(description["file"])
            if entry is not None and entry.description != description:
                reason = None if self.options.overwrite else refusal(self.directory, entry, description)
                if reason is not None:
                    raise ValueError(reason)
                entry = None
            is_measured = entry is not None and entry.fields["locality"] is not None
            usable.append(entry if is_measured or not self.options.measure else None)
        if not self.options.resume:
            return list(range(len(descriptions)))
        check = partial(is_intact, self.directory, verify=self.options.verify)
        modified = writer.pool.map(check, filter(None, usable))
        missing = []
        for i, entry in enumerate(usable):
            if entry is None or (time := next(modified)) is None:
                missing.append(i)
            elif time >= entry.modified:
                journal.add(entry.fields, time)  # so that its checksum need not be compared again
        return missing

    def _shard_of(self, rank: int) -> tuple[int, int]:
        return self.shard[0] * self.ranks.size + rank, self.shard[1] * self.ranks.size

    def _file(self, edit: Edit) -> str:
        return f"{self.plan.name(edit)}.{self.options.image_format}"

    def settings(self) -> dict[str, Any]:
        """Return the fields that all entries share.

        The field "job" is a hash of every input that determines the pixels and has no field of its own.
        """
        plan, editor = self.plan, self.editor
        identity = [*editor.identity, plan.targets.identity, plan.references.identity]
        settings = self.metadata | pixel_settings(editor.generator, identity)
        return json.loads(json.dumps(settings, allow_nan=False))

    def describe(self, edit: Edit, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of an entry that describe the edit."""
        target, reference = self.plan.targets.name(edit.target), self.plan.references.name(edit.reference)
        fields = {"file": self._file(edit), "target": target, "reference": reference, "part": edit.part}
        return json.loads(json.dumps(fields | edit.parameters, allow_nan=False)) | settings
