# SPDX-License-Identifier: Apache-2.0
"""Run of a batch in a thread, with its progress, and the prediction of its time."""

from __future__ import annotations

import html
import itertools
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from threading import Event, Lock, Thread

import torch

from ..editing import Grid, Job, Plan
from ..io.images import encode, to_uint8
from .batching import Batch
from .workspace import Workspace

LOOKING = "looking for existing edits"
INTERVAL = 0.5  # seconds between two looks at the progress of a run
TRACK = "height: 8px; border-radius: 4px; background: var(--border-color-primary); overflow: hidden; margin: 4px 0"
FILL = "height: 100%; background: var(--color-accent); transition: width 0.2s"


class Stopwatch:
    """Times of edits on this machine, each measured when it is needed first.

    Args:
        workspace: What all pages share.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._seconds: dict[tuple[int, str, str], tuple[float, float]] = {}
        self._lock = Lock()

    def predict(self, batch: Batch, job: Job, n_existing: int = 0) -> float:
        """Return the predicted duration of a job in seconds. If necessary, measure one forward pass of its edits.

        The duration is that of an edit times the number of edits, plus that of a new image times the number of targets
        and references, whose styles and labels are computed once. It is reduced by the share of the edits that exist.
        """
        key = batch.batch_size, batch.image_format, self._workspace.generator.engine.name
        if n_existing == len(job.plan):
            return 0.0
        with self._lock:
            if key not in self._seconds:
                self._seconds[key] = _measure(job, batch)
        per_edit, per_image = self._seconds[key]
        share = 1 - n_existing / len(job.plan)
        return share * (per_edit * len(job.plan) + per_image * n_images(job.plan))


def n_images(plan: Plan) -> int:
    """Return the number of different targets and references of a checked plan."""
    if isinstance(plan, Grid):
        return len(plan.targets) + len(plan.references)
    targets, references = set(), set()
    for edit in plan:
        targets.add(edit.target)
        references.add(edit.reference)
    return len(targets) + len(references)


def _measure(job: Job, batch: Batch) -> tuple[float, float]:
    """Return the seconds of an edit, and those of a target or reference that is used for the first time.

    A first pass is not timed, because it also prepares the generator. Of two equal passes, the shorter one counts,
    because other programs may delay the other.
    """
    edits = list(itertools.islice(job.plan, batch.batch_size))
    job.render(edits)
    render, times = job.editor.renderer(job.plan, batch_size=batch.batch_size, measure=True), [time.perf_counter()]
    references = {edit.reference for edit in edits}
    for _ in range(3):  # after the first time, styles, labels and unedited images are cached
        for image in to_uint8(render(edits).images):
            encode(image, f".{batch.image_format}")
        while references:  # their unedited images are kept beside the edits
            render.original(job.plan.references, references.pop())
        times.append(time.perf_counter())
    first, *later = (end - begin for begin, end in itertools.pairwise(times))
    n_new = len({edit.target for edit in edits}) + len({edit.reference for edit in edits})
    return min(later) / len(edits), max(0.0, first - min(later)) / n_new


@dataclass(frozen=True)
class Progress:
    """State of a batch that is being made.

    Args:
        n_done: Number of edits whose images are there.
        n_edits: Number of all edits.
        seconds: Predicted seconds until the end, or None if no edit has been made.
        message: Why the batch waits, or "".
        is_complete: Whether all images and the manifest have been written.
    """

    n_done: int
    n_edits: int
    seconds: float | None = None
    message: str = ""
    is_complete: bool = False


class Run:
    """Run of a job in a thread of its own, because a job must stay in one thread.

    Args:
        job: Checked job.
        workspace: What all pages share. Only one heavy task runs at a time.
    """

    def __init__(self, job: Job, workspace: Workspace) -> None:
        self._job, self._workspace, self._stop = job, workspace, Event()
        self._progress, self._error = Progress(0, job.total), None
        self._thread = Thread(target=self._work, name="stylefast-batch", daemon=True)

    def cancel(self) -> None:
        """End the run after the current batch. A later run of the same job makes the rest."""
        self._stop.set()

    def states(self) -> Iterator[Progress]:
        """Start the run, and yield its progress a few times per second until it has ended.

        Closing the iterator cancels the run.
        """
        self._thread.start()
        try:
            while self._thread.is_alive():
                yield self._progress
                self._thread.join(INTERVAL)
        finally:
            self.cancel()
            self._thread.join()
        if self._error is not None:
            raise self._error
        yield self._progress

    def _work(self) -> None:
        try:
            with self._workspace.heavy_task("the batch of another page", self._wait):
                self._make()
        except _Cancelled:
            pass
        except BaseException as error:  # raised again by `states`
            self._error = error

    def _wait(self, sentence: str) -> None:
        self._progress = replace(self._progress, message=sentence)
        if self.is_stopped:
            raise _Cancelled

    def _make(self) -> None:
        torch.get_num_threads()  # a new thread takes the number of the process only now
        job, last, working = self._job, time.perf_counter(), 0.0
        with closing(job.steps()) as steps:
            for batch in steps:
                now = time.perf_counter()
                working, last = working + (0 if batch is None else now - last), now
                seconds = working / job.n_written * self._n_missing if job.n_written else None
                message = "" if seconds is not None or batch is not None else LOOKING
                self._progress = Progress(job.total - self._n_missing, job.total, seconds, message)
                if self.is_stopped and self._n_missing:
                    break
            else:
                self._progress = Progress(job.total, job.total, is_complete=True)
                return
        self._progress = Progress(job.total - self._n_missing, job.total)

    @property
    def is_stopped(self) -> bool:
        """Whether the run ends early."""
        return self._stop.is_set() or self._workspace.is_closing.is_set()

    @property
    def _n_missing(self) -> int:
        return self._job.total - self._job.n_existing - self._job.n_written


class _Cancelled(Exception):
    """The run was cancelled while it waited for another task."""


def bar(state: Progress, has_ended: bool = False) -> str:
    """Return a bar with the progress of a batch as HTML."""
    share = 100 * state.n_done / max(1, state.n_edits)
    text = f"{state.n_done:,} of {state.n_edits:,} edits"
    if state.is_complete:
        text += " · complete"
    elif has_ended:
        text += " · cancelled, and Run makes the rest"
    elif state.message:
        text += f" · {state.message}"
    elif state.seconds is not None:
        text += f" · about {duration(state.seconds)} left"
    return (
        f'<div role="progressbar" aria-valuenow="{share:.0f}" aria-valuemin="0" aria-valuemax="100" style="{TRACK}">'
        f'<div style="{FILL}; width: {share:.1f}%"></div></div><p class="hint">{html.escape(text)}</p>'
    )


def duration(seconds: float) -> str:
    """Return a duration for people, such as "40 s", "12 min", "3.5 h" or "10 days"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:,.0f} days"
