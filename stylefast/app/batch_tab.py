# SPDX-License-Identifier: Apache-2.0
"""View of the tab Batch: the form, the number of edits and their time, the equal command, and the run."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import gradio as gr

from ..catalog import Catalog
from ..generators.engines import default_batch_size
from ..io.images import FORMATS
from .batching import Batch, count_existing, is_saved, without_options, write_pairs
from .components import EXPECTED, IN_ORDER, after, guarded, sentence, show_error
from .controls import part_names
from .queries import ADAPTIVE, QUERIES
from .results_view import build_results
from .running import LOOKING, Progress, Run, Stopwatch, bar, duration
from .workspace import Workspace

Runs: TypeAlias = dict[str | None, Run]  # by session
GRID, FILE = "Grid of seeds", "File of pairs"
NO_PARTS = "No part has a name yet. Name one in the tab Parts."
UNSAVED = "The equal command needs the parts as they are in this page: save them in the tab Parts."
DOWNLOAD = "file => Object.assign(document.createElement('a'), {href: file.url, download: file.orig_name}).click()"


@dataclass(frozen=True)
class Form:
    """Inputs that describe a batch. The fields have the names of those of `Batch`, except for `source`."""

    source: gr.Radio
    targets: gr.Textbox
    references: gr.Textbox
    parts: gr.JSON
    pairs: gr.State
    query: gr.Radio
    epsilon: gr.Textbox
    rho: gr.Number
    strength: gr.Number
    folder: gr.Textbox
    image_format: gr.Radio
    batch_size: gr.Number

    @property
    def inputs(self) -> list[Any]:
        return list(vars(self).values())

    @staticmethod
    def batch(*values: Any) -> Batch:
        """Return the batch that the values of the inputs describe.

        Raises:
            ValueError: If a value is missing.
        """
        fields = dict(zip(Form.__dataclass_fields__, values, strict=True))
        source = fields.pop("source")
        for name in ("rho", "strength", "batch_size"):
            if fields[name] is None:
                raise ValueError(f"{name} must be a number, got nothing")
            fields[name] = float(fields[name])  # as in the command, because the manifest tells 1 from 1.0
        if source == GRID:
            fields["pairs"] = None
            if not fields["parts"]:
                raise ValueError("parts must name at least one part")
        elif fields["pairs"] is None:
            raise ValueError("pairs must be a file with one edit per line: choose a .csv or .jsonl file")
        else:
            fields["pairs"] = Path(fields["pairs"])
        return Batch(**fields | {"parts": tuple(fields["parts"]), "batch_size": int(fields["batch_size"])})


def build_batch(workspace: Workspace, catalog: gr.State, tab: gr.Tab) -> None:
    """Add the elements of the tab Batch to the page.

    Args:
        workspace: What all sessions share.
        catalog: Catalog of the session.
        tab: The tab, whose selection updates the number of edits and their time.
    """
    n_ended = gr.State(0)  # number of runs that have ended
    with gr.Row():
        with gr.Column(scale=5, min_width=360):
            form = _form(workspace, catalog)
        with gr.Column(scale=9, min_width=640):
            summary = gr.HTML(elem_id="batch-summary", elem_classes="message", padding=False)
            seconds = gr.HTML(elem_id="batch-seconds", elem_classes="hint", padding=False)
            with gr.Row():
                start = gr.Button("Run", variant="primary", elem_id="batch-run")
                cancel = gr.Button("Cancel", interactive=False, elem_id="batch-cancel")
                export = gr.Button("Export pairs.csv", elem_id="batch-export")
            exported = gr.DownloadButton(visible="hidden", elem_id="batch-exported")
            progress = gr.HTML(elem_id="batch-progress", elem_classes="hint", padding=False)
            command = gr.Textbox(
                label="The equal command",
                info="In a shell, it makes files with the same bytes.",
                lines=3,
                max_lines=12,
                interactive=False,
                visible=False,
                buttons=["copy"],
                elem_id="batch-command",
            )
            runs: Runs = {}
            changes = [tab.select, n_ended.change, catalog.change, *(element.change for element in form.inputs)]
            # The browser awaits the listeners of an event one after the other, so the slowest one comes last.
            _handle(workspace, catalog, changes, form, runs, [summary, command, start, export])
            build_results(workspace, [tab.select, n_ended.change], form.folder)
            _handle_time(workspace, catalog, changes, form, seconds)
    _handle_export(workspace, catalog, form, export, exported)
    _handle_run(workspace, catalog, form, runs, n_ended, start, cancel, progress)


def _form(workspace: Workspace, catalog: gr.State) -> Form:
    source = gr.Radio([GRID, FILE], value=GRID, label="Edits", elem_id="batch-source")
    with gr.Group() as grid:
        targets = gr.Textbox("1004,1011", label="Targets", info="Seeds, such as 0,1,4-6", elem_id="batch-targets")
        references = gr.Textbox("1002,1016", label="References", info="Seeds", elem_id="batch-references")
        names = part_names(workspace.catalog)
        boxes = gr.CheckboxGroup(
            names, value=names[:1], label="Parts", info="" if names else NO_PARTS, elem_id="batch-parts"
        )
    # Gradio refuses an event that sends a box which is no choice any more. So the other events send a copy. The browser
    # makes it, so that a click on Run always sends the boxes that are checked then.
    parts = gr.JSON(names[:1], visible="hidden", elem_id="batch-chosen")
    boxes.input(None, boxes, parts, js="values => [values]", show_progress="hidden", trigger_mode="multiple")
    catalog.change(_choose, [catalog, parts], [boxes, parts], show_progress="hidden")
    upload = gr.File(label="pairs.csv or .jsonl", file_types=[".csv", ".jsonl"], visible=False, elem_id="batch-pairs")
    pairs = gr.State(None)
    with gr.Group():
        query = gr.Radio([*QUERIES], value=ADAPTIVE, label="Query", elem_id="batch-query")
        with gr.Row():
            epsilon = gr.Textbox("1", label="Budgets ε", interactive=False, min_width=96, elem_id="batch-epsilon")
            rho = gr.Number(0.1, label="Threshold ρ", step=0.05, interactive=False, min_width=96, elem_id="batch-rho")
            strength = gr.Number(1, label="Strength", step=0.1, min_width=80, elem_id="batch-strength")
    with gr.Group():
        folder = gr.Textbox("batch", label="Folder", info=f"In {workspace.outdir}/", elem_id="batch-folder")
        with gr.Row():
            formats = [suffix.removeprefix(".") for suffix in FORMATS]
            image_format = gr.Radio(
                formats, value="jpg", label="Format", scale=2, min_width=200, elem_id="batch-format"
            )
            size = default_batch_size(workspace.generator.device)
            batch_size = gr.Number(
                size,
                label="Edits per pass",
                precision=0,  # and no limits: the handlers refuse bad numbers in a sentence
                scale=1,
                min_width=96,
                elem_id="batch-size",
            )

    def switch(source: str) -> tuple[Any, Any]:
        return gr.update(visible=source == GRID), gr.update(visible=source == FILE)

    source.change(switch, source, [grid, upload], show_progress="hidden")
    query.change(
        lambda query: [gr.update(interactive=query == "sequential")] * 2, query, [epsilon, rho], show_progress="hidden"
    )
    gr.on([upload.upload, upload.clear], lambda path: path, upload, pairs, **IN_ORDER)
    return Form(
        source, targets, references, parts, pairs, query, epsilon, rho, strength, folder, image_format, batch_size
    )


def _choose(catalog: Catalog, chosen: list[str]) -> tuple[Any, Any]:
    """Return the updates of the boxes of the parts and of the chosen parts for a catalog that has changed.

    A choice that remains valid is not sent, because the user may have changed it meanwhile.
    """
    names = part_names(catalog)
    boxes = gr.update(choices=names, info="" if names else NO_PARTS)
    kept = [name for name in chosen if name in names] or names[:1]
    return (boxes, gr.skip()) if kept == chosen else (boxes | {"value": kept}, kept)


def _handle(
    workspace: Workspace, catalog: gr.State, changes: list[Any], form: Form, runs: Runs, shown: list[Any]
) -> None:
    """Update the number of edits, the command and the buttons if an input changes or a run has ended.

    One listener has all changes. Its events run one after the other, so that the last one describes the newest form.
    """

    def describe(request: gr.Request, catalog: Catalog, *values: Any) -> list[Any]:
        text, command, is_valid = "", None, False
        try:
            batch = Form.batch(*values)
            n_edits = batch.job(workspace, catalog).total
            is_valid = True
            place = html.escape(str(batch.directory(workspace)))
            text = f"<p><b>{n_edits:,} {'edit' if n_edits == 1 else 'edits'}</b> into {place}/</p>"
            if is_saved(workspace, catalog):
                command = batch.command(workspace)
            else:
                text += f"<p>{UNSAVED}</p>"
        except EXPECTED as error:
            text += show_error(sentence(error))
        is_running = request.session_hash in runs
        buttons = gr.update(interactive=is_valid and not is_running), gr.update(interactive=is_valid)
        return [text, gr.update(value=command or "", visible=command is not None), *buttons]

    gr.on(changes, describe, [catalog, *form.inputs], shown, **IN_ORDER)


def _handle_time(workspace: Workspace, catalog: gr.State, changes: list[Any], form: Form, seconds: gr.HTML) -> None:
    """Update the time of the edits if an input changes or a run has ended, in an event for which nothing else waits."""
    stopwatch = Stopwatch(workspace)

    def predict(catalog: Catalog, *values: Any) -> Iterator[Any]:
        try:
            batch = Form.batch(*values)
            job = batch.job(workspace, catalog)
        except EXPECTED:  # which `describe` shows
            yield ""
            return
        try:
            n_existing = count_existing(job)
            if n_existing == len(job.plan):
                yield "All edits exist already."
                return
            yield "Measuring the time of an edit…"
            time = duration(stopwatch.predict(batch, job, n_existing))
            done = f"{n_existing:,} of them exist already. The others take about" if n_existing else "About"
            yield f"{done} {time} on this machine."
        except EXPECTED as error:
            yield show_error(sentence(error))

    gr.on(changes, predict, [catalog, *form.inputs], seconds, **IN_ORDER)


def _handle_export(
    workspace: Workspace, catalog: gr.State, form: Form, export: gr.Button, exported: gr.DownloadButton
) -> None:
    """Write pairs.csv on a click, and let the browser download it. A hidden button holds its address."""

    def write(catalog: Catalog, *values: Any) -> str:
        path = Path(tempfile.mkdtemp(prefix="stylefast-")) / "pairs.csv"
        write_pairs(Form.batch(*values).job(workspace, catalog).plan, path)
        return str(path)

    written = export.click(guarded(write), [catalog, *form.inputs], exported)
    written.success(None, exported, None, js=DOWNLOAD)


def _handle_run(
    workspace: Workspace,
    catalog: gr.State,
    form: Form,
    runs: Runs,
    n_ended: gr.State,
    start: gr.Button,
    cancel: gr.Button,
    progress: gr.HTML,
) -> None:
    """Run the batch on a click, with a bar and a button that cancels it. Its end changes `n_ended`."""

    def run(request: gr.Request, catalog: Catalog, *values: Any) -> Iterator[tuple[Any, Any, Any]]:
        session = request.session_hash
        try:
            job = Form.batch(*values).job(workspace, catalog)
            yield bar(Progress(0, job.total, message=LOOKING)), gr.update(interactive=False), gr.skip()
            count_existing(job)  # raises
            runs[session] = run = Run(job, workspace)
            for state in run.states():
                yield bar(state), gr.update(interactive=False), gr.update(interactive=not run.is_stopped)
            yield bar(state, has_ended=True), *idle()
        except EXPECTED as error:
            yield show_error(without_options(sentence(error))), *idle()
        finally:
            runs.pop(session, None)

    def idle() -> tuple[Any, Any]:
        return gr.update(interactive=True), gr.update(interactive=False)

    def stop(request: gr.Request) -> Any:
        if (run := runs.get(request.session_hash)) is not None:
            run.cancel()
        return gr.update(interactive=False)

    begun = start.click(
        run, [catalog, *form.inputs], [progress, start, cancel], show_progress="hidden", concurrency_limit=None
    )
    cancel.click(stop, None, cancel, show_progress="hidden", queue=False)
    begun.failure(idle, None, [start, cancel], show_progress="hidden")  # after an error that is not expected
    after(begun, lambda n: n + 1, n_ended, n_ended, show_progress="hidden")
