# SPDX-License-Identifier: Apache-2.0
"""Edits on disk: an image each, made once, and a manifest that says how each was made and how local it is."""

from __future__ import annotations

import io
import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.distributed import ProcessGroup
from tqdm import tqdm

from ..distributed import Ranks
from ..io import png
from ..io.atomic import PathLike, atomic_write
from ..io.images import FORMATS, to_bytes
from ..io.tensors import checksum
from .manifest import WRITTEN, Journal, Records, is_intact, merge
from .plan import Edit, Plan
from .renderer import EditBatch, EditRenderer


class Job:
    """Makes the edits of a plan as image files of a folder; iterating does the work and gives each batch that is made.

    An edit that the folder's manifest lists, made in the same way, and whose file has the recorded size and checksum,
    is not made again; all others are, in the same batches, so that a job that was stopped goes on to the same bytes.
    Files appear under their name when they are whole. When all edits of the plan are there, `manifest.jsonl` lists
    them in the plan's order.

    Args:
        plan: the edits.
        directory: where to write; made if need be.
        settings: what else every line of the manifest shall say, as JSON can hold it; an edit made with others is made
            again.
        suffix: names the image format: ".png", ".jpg" or ".webp".
        batch_size, measure, roi_mode: as in `StyleEditor.edit`.
        writers: threads that encode and write; twice as many images wait for them at most.
        share: (i, n) makes every n-th batch from the i-th on and leaves the manifest to a job for all.
        group: process group whose ranks share the job; all call it with the same arguments.
        resume: False makes all edits, whatever the manifest lists.
        progress: show a progress bar if it takes longer than two seconds.

    Attributes:
        total: edits of this job's share, of all ranks' together.
        found: of this process' edits, how many were there already.
        made: how many were made and written.

    Raises:
        ValueError: an unknown suffix, batch_size, writers or share out of range; a line of a manifest that is none.
    """

    def __init__(
        self,
        plan: Plan,
        directory: PathLike,
        *,
        settings: Mapping[str, Any] | None = None,
        suffix: str = ".png",
        batch_size: int = 4,
        measure: bool = False,
        roi_mode: str = "union",
        writers: int = 2,
        share: tuple[int, int] = (0, 1),
        group: ProcessGroup | None = None,
        resume: bool = True,
        progress: bool = True,
    ) -> None:
        if suffix not in FORMATS:
            raise ValueError(f"suffix must be one of {', '.join(FORMATS)}, got {suffix!r}")
        if writers < 1:
            raise ValueError(f"writers must be >= 1, got {writers}")
        if not 0 <= share[0] < share[1]:
            raise ValueError(f"share must be (i, n) with 0 <= i < n, got {share}")
        self.plan, self.directory, self.suffix, self.writers = plan, Path(directory), suffix, writers
        self.make = EditRenderer(plan, batch_size=batch_size, measure=measure, roi_mode=roi_mode)
        self.batch_size, self.resume, self.measure = batch_size, resume, measure
        self.ranks, self.share = Ranks(group), share
        self.progress = progress and self.ranks.rank == 0
        self.found = self.made = 0
        self.total = sum(plan.count(batch_size, self._share_of(rank)) for rank in range(self.ranks.size))
        self._settings = {**(settings or {}), **plan.editor.generator.precision, "job": _digest(plan)}

    def __iter__(self) -> Iterator[EditBatch]:
        self.found = self.made = 0
        self.directory.mkdir(parents=True, exist_ok=True)
        mine = self._share_of(self.ranks.rank)
        total = self.plan.count(self.batch_size, mine)
        with Records(self.directory) as records:
            self.ranks.gather(None)  # all have read before one writes
            with tqdm(total=total, desc="edits", unit="image", delay=2, disable=not self.progress) as bar:
                yield from self._run(records, mine, bar)
        self.ranks.gather(None)
        if self.share[1] == 1 and self.ranks.rank == 0:
            merge(self.directory, map(self._file, self.plan))

    def _share_of(self, rank: int) -> tuple[int, int]:
        return self.share[0] * self.ranks.size + rank, self.share[1] * self.ranks.size

    def _run(self, records: Records, mine: tuple[int, int], bar: Any) -> Iterator[EditBatch]:
        journal, pool = Journal(self.directory), ThreadPoolExecutor(self.writers, "stylefast-write")
        waiting: deque[tuple[dict[str, Any], Future[dict[str, Any]]]] = deque()

        def finish(most: int) -> None:
            while len(waiting) > most:
                record, written = waiting[0]
                journal.add(record | written.result())
                self.made += 1
                waiting.popleft()
                bar.update()

        try:
            for edits in self.plan.batches(self.batch_size, mine):
                described = list(map(self._describe, edits))
                known = [records.of(each, self.measure) if self.resume else None for each in described]
                intact = pool.map(partial(is_intact, self.directory), [each for each in known if each])
                places = [place for place, each in enumerate(known) if not (each and next(intact))]
                self.found += len(edits) - len(places)
                bar.update(len(edits) - len(places))
                if not places:
                    continue
                batch = self.make(edits)
                images = batch.images.cpu()
                for place in places:
                    record = described[place] | dict.fromkeys(WRITTEN) | {"locality": _locality(batch, place)}
                    waiting.append((record, written := Future()))  # first: submit may be interrupted once it has begun
                    pool.submit(_fulfil, written, self._write, images[place : place + 1], self._file(edits[place]))
                finish(2 * self.writers)
                yield batch
            finish(0)
        finally:
            pool.shutdown()  # what is made is written, whatever has happened
            for record, written in waiting:
                if written.done() and written.exception() is None:
                    journal.add(record | written.result())
                    self.made += 1
            journal.close()

    def _write(self, image: Tensor, file: str) -> dict[str, Any]:
        encoded = self._encode(to_bytes(image)[0].numpy())
        with atomic_write(self.directory / file) as temporary:
            temporary.write_bytes(encoded)
        return {"bytes": len(encoded), "sha256": sha256(encoded).hexdigest()}

    def _encode(self, pixels: np.ndarray) -> bytes:
        if self.suffix == ".png":
            return png.encode(pixels)
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, **FORMATS[self.suffix])
        return encoded.getvalue()

    def _file(self, edit: Edit) -> str:
        return self.plan.name(edit) + self.suffix

    def _describe(self, edit: Edit) -> dict[str, Any]:
        """What a record says of an edit."""
        target, reference = self.plan.targets.name(edit.target), self.plan.references.name(edit.reference)
        described = {"file": self._file(edit), "target": target, "reference": reference, "part": edit.part}
        return json.loads(json.dumps(described | edit.settings | self._settings, allow_nan=False))


def _digest(plan: Plan) -> str:
    """Of all that an edit's image follows from, but for what its record says itself."""
    editor, catalog = plan.editor, plan.editor.catalog
    known = [editor.generator.fingerprint, catalog.parts, catalog.features, catalog.layer, editor.rgb, editor.transform]
    tensors = {"centroids": catalog.centroids, "contributions": catalog.contributions}
    text = json.dumps([*known, checksum(tensors), plan.targets.origin, plan.references.origin])
    return blake2b(text.encode(), digest_size=8).hexdigest()


def _locality(batch: EditBatch, i: int) -> dict[str, float | None] | None:
    if batch.locality is None:
        return None
    values = {name: float(column[i]) for name, column in batch.locality._asdict().items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _fulfil(future: Future[Any], function: Callable[..., Any], *arguments: Any) -> None:
    try:
        future.set_result(function(*arguments))
    except BaseException as error:
        future.set_exception(error)
