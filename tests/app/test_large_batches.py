# SPDX-License-Identifier: Apache-2.0
"""Batches of very many edits: their description, existing edits that a run skips, and a run that fails midway."""

from __future__ import annotations

import errno
import os
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("gradio")

from stylefast.app import running  # noqa: E402
from stylefast.app.batch_tab import GRID  # noqa: E402
from stylefast.app.batching import Batch, count_existing  # noqa: E402
from stylefast.app.page import create_page  # noqa: E402
from stylefast.app.running import Run, Stopwatch  # noqa: E402
from stylefast.app.workspace import Workspace  # noqa: E402
from stylefast.editing import Grid, job  # noqa: E402
from stylefast.editing.writer import ImageWriter  # noqa: E402

SMALL = Batch("1-6", "7", ("nose", "eyes"), folder="large")
ALL = "0-4294967295"


def make(batch: Batch, workspace: Workspace) -> running.Progress:
    """Make the edits of a batch; return the last state."""
    return list(Run(batch.job(workspace, workspace.catalog), workspace).states())[-1]


def test_all_seeds_are_described_in_little_memory(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(running, "_measure", lambda job, batch: (next(iter(job.plan)) and 1.0, 0.5))
    make(SMALL, workspace)
    batch = replace(SMALL, targets=ALL)
    tracemalloc.start()
    try:
        described = batch.job(workspace, workspace.catalog)
        n_edits, n_existing = described.total, count_existing(described)
        seconds = Stopwatch(workspace).predict(batch, described, n_existing)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n_edits == 1 << 33 and n_existing == 12
    assert seconds == pytest.approx((1 << 33) * 1.0 + (1 << 32) * 0.5)
    assert peak < 4 << 20
    with pytest.raises(ValueError, match=r"must give fewer than 2\*\*63 edits"):
        replace(batch, references=ALL).job(workspace, workspace.catalog)


def test_other_edits_of_a_folder_need_no_walk(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    make(replace(SMALL, folder="foreign"), workspace)
    described = replace(SMALL, targets="100-99999999", folder="foreign").job(workspace, workspace.catalog)
    monkeypatch.setattr(Grid, "__iter__", None)
    assert count_existing(described) == 0


def test_a_run_that_skips_existing_edits_is_cancelled(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    batch, looked, cancelled = replace(SMALL, folder="skipped"), [], threading.Event()
    make(batch, workspace)
    is_intact = job.is_intact

    def look(*arguments: Any, **options: Any) -> int | None:
        looked.append(arguments)
        if len(looked) == 3:
            assert cancelled.wait(60)
        return is_intact(*arguments, **options)

    monkeypatch.setattr(job, "is_intact", look)
    run, states = Run(batch.job(workspace, workspace.catalog), workspace), []
    for state in run.states():
        states.append(state)
        if state.n_done == 2:
            run.cancel()
            cancelled.set()
    assert len(looked) == 3 and states[-1] == running.Progress(3, 12)
    assert running.Progress(2, 12, message=running.LOOKING) in states


def test_closing_the_page_ends_a_run_that_compares_edits(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    parts = {**workspace.catalog.parts, "mouth": workspace.catalog.parts["nose"]}
    other = replace(SMALL, parts=("mouth",), folder="compared").job(workspace, replace(workspace.catalog, parts=parts))
    assert list(Run(other, workspace).states())[-1].is_complete
    monkeypatch.setattr(workspace, "is_closing", threading.Event())
    run = Run(replace(SMALL, targets=ALL, folder="compared").job(workspace, workspace.catalog), workspace)
    for state in run.states():
        if state.message == running.LOOKING:
            workspace.is_closing.set()
    assert state == running.Progress(0, 1 << 33)


def test_the_time_of_skipped_edits_is_not_predicted(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    run = Run(replace(SMALL, folder="predicted").job(workspace, workspace.catalog), workspace)
    now, states = 0.0, []

    class Resumed:
        total, n_existing, n_written = 10, 0, 0

        def steps(self) -> Iterator[object]:
            nonlocal now
            for seconds, is_made in [(100.0, False)] * 5 + [(2.0, True)] * 2:
                now += seconds
                self.n_existing, self.n_written = self.n_existing + (not is_made), self.n_written + is_made
                yield object() if is_made else None
                states.append(run._progress)

    monkeypatch.setattr(running.time, "perf_counter", lambda: now)
    run._job = Resumed()  # type: ignore[assignment]
    run._make()
    assert [state.n_done for state in states] == [1, 2, 3, 4, 5, 6, 7]
    assert [state.seconds for state in states] == [None] * 5 + [8.0, 6.0]


@pytest.fixture
def page(workspace: Workspace) -> Any:
    return create_page(workspace)


def listeners(page: Any, event: str, *elem_ids: str) -> list[Any]:
    """Listeners of an event of elements of a page."""
    numbers = {number for number, block in page.blocks.items() if block.elem_id in elem_ids}
    return [fn for fn in page.fns.values() if any((number, event) in fn.targets for number in numbers)]


def test_a_full_disk_ends_a_run_with_a_sentence(page: Any, workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    write, written = ImageWriter._write, []

    def fill(self: ImageWriter, image: Any, file: str) -> Any:
        written.append(file)
        if len(written) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file)
        return write(self, image, file)

    monkeypatch.setattr(ImageWriter, "_write", fill)
    (listener,) = listeners(page, "click", "batch-run")
    form = GRID, "0-300", "7", ["nose"], None, "sequential", "1", 0.1, 1, "full disk", "png", 1
    first, *states, (text, start, cancel) = listener.fn(SimpleNamespace(session_hash="a"), workspace.catalog, *form)
    assert "looking for existing edits" in first[0] and not first[1]["interactive"]
    assert states and all(cancel["interactive"] and not start["interactive"] for _, start, cancel in states)
    assert text.startswith('<p class="error"') and "no space left on device." in text
    assert start["interactive"] and not cancel["interactive"]
    monkeypatch.undo()
    assert make(replace(SMALL, folder="after a full disk"), workspace).is_complete


def test_inputs_of_the_form_lose_no_change(page: Any):
    elements = [block.elem_id for block in page.blocks.values() if (block.elem_id or "").startswith("batch-")]
    for event in ("input", "change", "upload", "clear"):
        assert {fn.trigger_mode for fn in listeners(page, event, *elements)} <= {"always_last", "multiple"}
    assert listeners(page, "input", "batch-parts") and listeners(page, "upload", "batch-pairs")


def test_checked_parts_are_kept_by_the_browser(page: Any):
    (copy,) = listeners(page, "input", "batch-parts")
    assert copy.fn is None and copy.js
    for button in ("batch-run", "batch-export"):
        (listener,) = listeners(page, "click", button)
        assert copy.outputs[0] in listener.inputs


def test_events_of_results_are_handled_in_turn(page: Any):
    ids = "batch-gallery", "batch-status", "batch-detail", "batch-filter-parts", "batch-page"
    results = [fn for fn in page.fns.values() if {block.elem_id for block in fn.outputs}.intersection(ids)]
    assert {fn.fn.__name__ for fn in results} == {"load", "refilter", "enlarge", "show_page"}
    assert {(fn.concurrency_id, fn.concurrency_limit) for fn in results} == {("batch-results", 1)}


def test_the_form_is_described_before_results_are_read(page: Any):
    tabs = {number for number, block in page.blocks.items() if block.get_block_name() == "tabitem"}
    handled = [fn.fn.__name__ for fn in page.fns.values() if any((tab, "select") in fn.targets for tab in tabs)]
    assert handled == ["describe", "load", "predict"]  # in the order in which the browser awaits them


@pytest.mark.parametrize("shown", ["batch-summary", "batch-seconds"])
def test_one_listener_describes_the_form_and_ends_of_runs(page: Any, shown: str):
    (listener,) = (fn for fn in page.fns.values() if shown in {block.elem_id for block in fn.outputs})
    assert (listener.trigger_mode, listener.concurrency_limit) == ("always_last", 1)
    assert listener in listeners(page, "change", "batch-targets")
    (start,) = (number for number, block in page.blocks.items() if block.elem_id == "batch-run")
    (run,) = listeners(page, "click", "batch-run")
    ends = [
        fn
        for fn in page.fns.values()
        if fn.trigger_after == run._id and any((block._id, "change") in listener.targets for block in fn.outputs)
    ]
    assert {(fn.trigger_only_on_success, fn.trigger_only_on_failure) for fn in ends} == {(True, False), (False, True)}
