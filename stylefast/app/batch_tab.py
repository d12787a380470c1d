# SPDX-License-Identifier: Apache-2.0
"""View of the tab Batch: the form, the number of edits and their time, the equal command, and the run."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ..catalog import Catalog
from ..generators.engines import default_batch_size
from ..io.images import FORMATS
from .batching import Batch, is_saved, keep_pairs, write_pairs
from .components import EXPECTED, guarded, sentence
from .queries import ADAPTIVE, QUERIES
from .results_view import build_results
from .running import Progress, Run, Stopwatch, duration
from .workspace import Workspace

GRID, FILE = "Grid of seeds", "File of pairs"
NO_PARTS = "No part has a name yet. Name one in the tab Parts."
UNSAVED = "The command needs the parts as they are in this page: save them in the tab Parts."
TRACK = "height: 8px; border-radius: 4px; background: var(--border-color-primary); overflow: hidden; margin: 4px 0"
FILL = "height: 100%; background: var(--color-accent); transition: width 0.2s"


@dataclass(frozen=True)
class Form:
    """Inputs that describe a batch. The fields have the names of those of `Batch`, except for `source`."""

    source: gr.Radio
    targets: gr.Textbox
    references: gr.Textbox
    parts: gr.CheckboxGroup
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
    with gr.Row():
        with gr.Column(scale=5, min_width=360):
            form = _form(workspace)
        with gr.Column(scale=9, min_width=640):
            summary = gr.Markdown(elem_id="batch-summary", elem_classes="message")
            seconds = gr.Markdown(elem_id="batch-seconds", elem_classes="hint")
            with gr.Row():
                start = gr.Button("Run", variant="primary", elem_id="batch-run")
                cancel = gr.Button("Cancel", interactive=False, elem_id="batch-cancel")
                export = gr.Button("Export pairs.csv", elem_id="batch-export")
            exported = gr.File(label="Exported edits", visible=False, interactive=False, elem_id="batch-exported")
            progress = gr.HTML(elem_id="batch-progress", padding=False)
            command = gr.Textbox(
                label="The equal command",
                info="In a shell, it makes files with the same bytes.",
                lines=3,
                max_lines=12,
                interactive=False,
                buttons=["copy"],
                elem_id="batch-command",
            )
            show_after = build_results(workspace, tab, form.folder)
    _handle(workspace, catalog, tab, form, [summary, seconds, command])
    _handle_export(workspace, catalog, form, export, exported)
    _handle_run(workspace, catalog, form, start, cancel, progress, show_after)


def _form(workspace: Workspace) -> Form:
    source = gr.Radio([GRID, FILE], value=GRID, label="Edits", elem_id="batch-source")
    with gr.Group() as grid:
        targets = gr.Textbox("1004,1011", label="Targets", info="Seeds, such as 0,1,4-6", elem_id="batch-targets")
        references = gr.Textbox("1002,1016", label="References", info="Seeds", elem_id="batch-references")
        names = named_parts(workspace.catalog)
        parts = gr.CheckboxGroup(
            names, value=names[:1], label="Parts", info="" if names else NO_PARTS, elem_id="batch-parts"
        )
    upload = gr.File(label="pairs.csv or .jsonl", file_types=[".csv", ".jsonl"], visible=False, elem_id="batch-pairs")
    pairs = gr.State(None)
    with gr.Group():
        query = gr.Radio([*QUERIES], value=ADAPTIVE, label="Query", elem_id="batch-query")
        with gr.Row():
            epsilon = gr.Textbox(
                "1", label="ε", info="Budgets", interactive=False, min_width=96, elem_id="batch-epsilon"
            )
            rho = gr.Number(
                0.1, label="ρ", info="Threshold", step=0.05, interactive=False, min_width=80, elem_id="batch-rho"
            )
            strength = gr.Number(1, label="Strength", info="Factor", step=0.1, min_width=80, elem_id="batch-strength")
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
                precision=0,
                minimum=1,
                maximum=64,
                scale=1,
                min_width=96,
                elem_id="batch-size",
            )

    def switch(source: str) -> tuple[Any, Any]:
        return gr.update(visible=source == GRID), gr.update(visible=source == FILE)

    def keep(path: str | None) -> str | None:
        return None if path is None else str(keep_pairs(Path(path), workspace))

    source.change(switch, source, [grid, upload], show_progress="hidden")
    query.change(
        lambda query: [gr.update(interactive=query == "sequential")] * 2, query, [epsilon, rho], show_progress="hidden"
    )
    gr.on([upload.upload, upload.clear], guarded(keep), upload, pairs)
    return Form(
        source, targets, references, parts, pairs, query, epsilon, rho, strength, folder, image_format, batch_size
    )


def named_parts(catalog: Catalog) -> list[str]:
    """Return the names of the parts that have a cluster."""
    return [part for part, ids in catalog.parts.items() if ids]


def _handle(workspace: Workspace, catalog: gr.State, tab: gr.Tab, form: Form, shown: list[Any]) -> None:
    """Update the number of edits, their time and the command whenever an input changes.

    The measurement of the time is an event of its own, so that the number and the command never wait for it.
    """
    stopwatch = Stopwatch(workspace)

    def describe(catalog: Catalog, *values: Any) -> tuple[str, str]:
        try:
            batch = Form.batch(*values)
            n_edits = batch.job(workspace, catalog).total
            text = f"**{n_edits:,} {'edit' if n_edits == 1 else 'edits'}** into {batch.directory(workspace)}/"
            return text, batch.command(workspace) if is_saved(workspace, catalog) else UNSAVED
        except EXPECTED as error:
            return sentence(error), ""

    def predict(catalog: Catalog, *values: Any) -> Iterator[str]:
        yield "Measuring the time of an edit…"
        try:
            batch = Form.batch(*values)
            seconds = stopwatch.predict(batch, batch.job(workspace, catalog))
            yield f"About {duration(seconds)} on this machine."
        except EXPECTED:  # which `describe` shows
            yield ""

    def choose(catalog: Catalog, chosen: list[str]) -> Any:
        names = named_parts(catalog)
        kept = [name for name in chosen if name in names] or names[:1]
        return gr.update(choices=names, value=kept, info="" if names else NO_PARTS)

    inputs = [catalog, *form.inputs]
    chosen = catalog.change(choose, [catalog, form.parts], form.parts, show_progress="hidden")
    changes = [tab.select, *(element.change for element in form.inputs)]
    summary, seconds, command = shown
    for handler, outputs in ((describe, [summary, command]), (predict, [seconds])):
        # After `choose`, because a part that is no longer a choice is refused.
        chosen.then(handler, inputs, outputs, show_progress="hidden")
        gr.on(changes, handler, inputs, outputs, show_progress="hidden", trigger_mode="always_last")


def _handle_export(workspace: Workspace, catalog: gr.State, form: Form, export: gr.Button, exported: gr.File) -> None:
    """Write pairs.csv on a click, and offer it for download."""

    def write(catalog: Catalog, *values: Any) -> Any:
        path = Path(tempfile.mkdtemp(prefix="stylefast-")) / "pairs.csv"
        write_pairs(Form.batch(*values).job(workspace, catalog).plan, path)
        return gr.update(value=str(path), visible=True)

    export.click(guarded(write), [catalog, *form.inputs], exported)


def _handle_run(
    workspace: Workspace,
    catalog: gr.State,
    form: Form,
    start: gr.Button,
    cancel: gr.Button,
    progress: gr.HTML,
    show_after: Callable[[Any], None],
) -> None:
    """Run the batch on a click, with a bar and a button that cancels it, and show the results at the end."""
    runs: dict[str | None, Run] = {}  # by session

    def run(request: gr.Request, catalog: Catalog, *values: Any) -> Iterator[tuple[Any, Any, Any]]:
        begin, session = Form.batch(*values).job(workspace, catalog), request.session_hash
        runs[session] = run = Run(begin, workspace)
        try:
            for state in run.states():
                yield bar(state), gr.update(interactive=False), gr.update(interactive=True)
            yield bar(state, has_ended=True), gr.update(interactive=True), gr.update(interactive=False)
        finally:
            runs.pop(session, None)

    def stop(request: gr.Request) -> Any:
        if (run := runs.get(request.session_hash)) is not None:
            run.cancel()
        return gr.update(interactive=False)

    def release() -> tuple[Any, Any]:
        return gr.update(interactive=True), gr.update(interactive=False)

    begun = start.click(
        guarded(run), [catalog, *form.inputs], [progress, start, cancel], show_progress="hidden", concurrency_limit=None
    )
    cancel.click(stop, None, cancel, show_progress="hidden", queue=False)
    show_after(begun.then(release, None, [start, cancel], show_progress="hidden"))


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
