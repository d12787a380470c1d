# SPDX-License-Identifier: Apache-2.0
"""View of the tab Edit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import quote

import gradio as gr
from gradio.context import Context

from ..catalog import Catalog
from ..editing import StyleEditor
from . import stage
from .components import EXPECTED, sentence
from .controls import REFERENCE, TARGET, Controls, PartControls, part_names
from .exploring import Explorer
from .picture_inputs import NEWEST, QUIET, LatentsInput, NumberInput, PartRow, show_error
from .queries import ADAPTIVE, EXPLANATIONS, QUERIES
from .served import serve_file
from .workspace import Workspace

MAX_PARTS = 5  # parts of one edit
# The rows share a state, so their events are handled one after the other, and none is lost.
IN_TURN: dict[str, Any] = {"concurrency_id": "edit-rows", "concurrency_limit": 1}
ROWS: dict[str, Any] = {**QUIET, **IN_TURN, "trigger_mode": "multiple"}
NO_PARTS = "This catalog has no named parts. Name one in the tab Parts, then edit it here."
TO_LOG = "x => Math.log10(Math.min(Math.max(x, 0.1), 100))"
FROM_LOG = "x => Number((10 ** x).toPrecision(2))"


def build_edit(workspace: Workspace, catalog: gr.State) -> None:
    """Add the elements of the tab Edit to the page.

    Args:
        workspace: What all sessions share.
        catalog: Catalog of the session.
    """
    EditTab(workspace, catalog).connect()


class EditTab:
    """The elements of the tab Edit, and the handlers of their events.

    Args:
        workspace: What all sessions share.
        catalog: Catalog of the session.
    """

    def __init__(self, workspace: Workspace, catalog: gr.State) -> None:
        self.explorer, self.catalog = Explorer(workspace), catalog
        parts = part_names(workspace.catalog)
        # The server keeps the chosen parts. A page may send parts that the catalog no longer has, which Gradio refuses.
        self.parts = gr.State(fit_parts(parts, [None] * MAX_PARTS))  # part of each row, None for a row without a part
        self.looked, self.n_refreshed = gr.State(""), gr.State(0)
        with gr.Row(elem_id="edit-tab"):
            with gr.Column(scale=0, min_width=300, elem_id="edit-inputs"):
                with gr.Column(elem_classes="card"):
                    self.target = NumberInput("Target seed", TARGET, "edit-target-seed")
                    self.target_file = LatentsInput(workspace.generator, "target", "edit-target-file")
                self.rows = [PartRow(number, parts, REFERENCE + number) for number in range(MAX_PARTS)]
                with gr.Column(elem_classes="card"):
                    self.add = gr.Button("Add a part", size="sm", interactive=len(parts) > 1, elem_id="edit-add")
                    self.reference_file = LatentsInput(workspace.generator, "reference", "edit-reference-file")
            with gr.Column(scale=1, min_width=640):
                self._build_query()
                self._build_outputs()

    def _build_query(self) -> None:
        with gr.Column(elem_id="edit-query", elem_classes="card"):
            with gr.Row():
                self._build_strategy()
            self.hint = gr.HTML(
                stage.show_hint(EXPLANATIONS[ADAPTIVE], is_used=False), padding=False, elem_id="edit-hint"
            )

    def _build_strategy(self) -> None:
        self.strategy = gr.Dropdown(
            [*QUERIES],
            value=ADAPTIVE,
            label="Query",
            scale=2,
            min_width=130,
            elem_id="edit-strategy",
            elem_classes="card-part",
        )
        self.log_epsilon = gr.Slider(
            -1, 2, 0, step=0.01, label="Budget ε", buttons=[], scale=4, min_width=180, elem_id="edit-log-epsilon"
        )
        self.epsilon = gr.Number(
            1.0, label="ε", scale=1, min_width=72, elem_id="edit-epsilon", elem_classes="card-number"
        )
        self.rho = gr.Slider(
            0, 1, 0.1, step=0.01, label="Threshold ρ", buttons=[], scale=3, min_width=190, elem_id="edit-rho"
        )
        self.rgb = gr.Checkbox(
            False, label="toRGB sites", info="They write the colours.", scale=0, min_width=150, elem_id="edit-rgb"
        )

    def _build_outputs(self) -> None:
        options: dict[str, Any] = {"css_template": stage.CSS, "apply_default_css": False, "js_on_load": None}
        options |= {"elem_classes": "edit-html"}
        with gr.Row(elem_id="edit-above"):
            self.message = gr.HTML(elem_id="edit-message", **options)
            self.look = gr.Radio(
                [],
                label="Magnified part and its reference",  # read by screen readers; the style sheet shows it
                show_label=False,
                container=False,
                visible=False,
                scale=0,
                min_width=200,
                elem_id="edit-look",
            )
        with gr.Row(elem_id="edit-stage"):
            self.images = gr.HTML(elem_id="edit-images", scale=3, min_width=0, **options)
            self.heat = gr.HTML(elem_id="edit-heat", scale=1, min_width=0, **options)
        self.figures = gr.HTML(elem_id="edit-figures", **options)

    def connect(self) -> None:
        """Connect the events of the elements to their handlers."""
        self.log_epsilon.input(None, self.log_epsilon, self.epsilon, js=FROM_LOG, **QUIET)
        self.epsilon.input(None, self.epsilon, self.log_epsilon, js=TO_LOG, **QUIET)
        self.target.connect(self.target_file.state)
        self.target_file.connect([self.target])
        for row in self.rows:
            row.reference.connect(self.reference_file.state)
        self.reference_file.connect([row.reference for row in self.rows])
        sequential = [self.log_epsilon, self.epsilon, self.rho]
        gr.on([element.input for element in sequential], None, None, self.strategy, js="() => 'sequential'", **QUIET)
        self.strategy.change(_explain_query, self.strategy, [self.hint, *sequential], **NEWEST)
        self.look.input(lambda part: part, self.look, self.looked, **NEWEST)
        self._connect_rows()
        state = [self.target.number, self.target_file.state, self.reference_file.state, self.parts]
        state += [self.strategy, self.epsilon, self.rho, self.rgb]
        state += [component for row in self.rows for component in row.inputs]
        gr.on(
            [component.change for component in (*state, self.looked, self.n_refreshed)],
            self.run,
            [self.catalog, self.looked, *state],
            [self.message, self.look, self.images, self.heat, self.figures],
            **NEWEST,
        )

    def _connect_rows(self) -> None:
        rows = [element for row in self.rows for element in (row.group, row.remove, row.part)]
        inputs, outputs = [self.catalog, self.parts], [self.parts, self.add, *rows]
        self.add.click(_add_row, inputs, outputs, **ROWS)
        for number, row in enumerate(self.rows):
            row.part.input(partial(_choose, number), [self.parts, row.part], self.parts, **ROWS)
            row.remove.click(partial(_remove_row, number), inputs, outputs, **ROWS)
        page = Context.root_block
        assert page is not None
        gr.on(
            [page.load, self.catalog.change],
            _refresh,
            [self.n_refreshed, *inputs],
            [self.n_refreshed, *outputs],
            **NEWEST,  # the catalog changes while the page is loaded
            **IN_TURN,
        )

    def run(self, catalog: Catalog, look: str, *state: Any) -> Iterator[list[Any]]:
        """Make the edit that the controls request, show it, then measure it.

        Yields:
            Updates of the message, the part that is magnified, the images, the heat map and the figures.
        """
        skip = gr.skip()
        if not part_names(catalog):
            yield ["", gr.update(visible=False), stage.show_empty(NO_PARTS), "", ""]
            return
        try:
            request = _controls(catalog, *state).request(self.explorer)
            edited = self.explorer.edit(catalog, request)
            parts = [edit.part for edit in request.parts]
            shown = request.parts[parts.index(look) if look in parts else 0]
            view = stage.View(self.explorer.generator.image_size, self.explorer.zoom(catalog, request.target, shown))
            pictures = request.target, shown.reference
            before, reference = map(self.explorer.image, pictures)
            files = ((before, "image.png"), (edited.png, request.file_name), (reference, "image.png"))
            urls = [self._url(*file) for file in files]
            names = [picture.name for picture in pictures]
            images = stage.show_images(view, names, urls, stage.edit_time(edited))
            note = stage.show_note(" ".join(edited.notes))
            radio = gr.update(choices=parts, value=shown.part, visible=len(parts) > 1)
            yield [note, radio, images, skip, skip]
            change = self.explorer.change(catalog, edited)
            heat = stage.show_heat(view, self._url(change.heat, "image.png"))
            sites = StyleEditor(self.explorer.generator, catalog, rgb=request.rgb).sites
            figures = stage.show_figures(edited, change, sum(site.channels for site in sites))
            yield [skip, skip, skip, heat, figures]
        except EXPECTED as error:
            yield [show_error(sentence(error)), skip, skip, skip, skip]

    def _url(self, png: bytes, name: str) -> str:
        """Return an address under which the page serves a file, relative to the page."""
        return f"gradio_api/file={quote(str(serve_file(self.images, png, name)))}"


def _controls(catalog: Catalog, *state: Any) -> Controls:
    """Return the values of the controls in the order in which the page sends them."""
    target, target_file, reference_file, parts, strategy, epsilon, rho, rgb, *values = state
    parts = fit_parts(part_names(catalog), parts)
    rows = [PartControls(part, *values[2 * i : 2 * i + 2]) for i, part in enumerate(parts) if part is not None]
    return Controls(catalog, target, target_file, reference_file, rows, strategy, epsilon, rho, rgb)


def _explain_query(query: str) -> list[Any]:
    """Explain a query, and enable the controls of the sequential strategy, which replaces the adaptive query."""
    hint = stage.show_hint(EXPLANATIONS[query], is_used=query == "sequential")
    return [hint, *[gr.update(interactive=query in ("sequential", ADAPTIVE))] * 3]


def fit_parts(names: list[str], parts: list[str | None]) -> list[str | None]:
    """Return the part of each row for a catalog. A row whose part is gone gets another part, or loses it.

    Args:
        names: Parts of the catalog.
        parts: Part of each row so far, None for a row without a part. The first row has a part if there is one.
    """
    unused = [name for name in names if name not in parts]
    fitted = [part if part is None or part in names else unused.pop(0) if unused else None for part in parts]
    return fitted if any(fitted) else [*names[:1], *fitted[len(names[:1]) :]]


def _choose(number: int, parts: list[str | None], part: str) -> list[str | None]:
    return [*parts[:number], part, *parts[number + 1 :]]


def _add_row(catalog: Catalog, parts: list[str | None]) -> list[Any]:
    """Add a row with a part that no other row has."""
    unused = [name for name in part_names(catalog) if name not in parts]
    more = _choose(parts.index(None), parts, unused[0]) if unused and None in parts else parts
    return _show_rows(catalog, parts, more)


def _remove_row(number: int, catalog: Catalog, parts: list[str | None]) -> list[Any]:
    return _show_rows(catalog, parts, [None if i == number else part for i, part in enumerate(parts)])


def _refresh(n_refreshed: int, catalog: Catalog, parts: list[str | None]) -> list[Any]:
    """Offer the parts of a catalog that has changed.

    The rows themselves are not sent if all their parts remain valid, because the user may have changed them meanwhile.
    """
    fitted, add, *rows = _show_rows(catalog, parts, parts)
    if fitted == parts:
        skip = gr.skip()
        fitted, rows = skip, [skip, skip, gr.update(choices=part_names(catalog))] * len(parts)
    return [n_refreshed + 1, fitted, add, *rows]


def _show_rows(catalog: Catalog, former: list[str | None], parts: list[str | None]) -> list[Any]:
    """Return the parts of the rows, and the updates of the button and of all rows.

    A part that stays is not sent, because the user may have changed it meanwhile.
    """
    names = part_names(catalog)
    parts = fit_parts(names, parts)
    n_parts = sum(part is not None for part in parts)
    updates = [gr.update(interactive=n_parts < min(MAX_PARTS, len(names)))]
    for number, part in enumerate(parts):
        is_shown = part is not None or (number == 0 and not names)
        value: dict[str, Any] = {} if part == former[number] else {"value": part}
        updates += [gr.update(visible=is_shown), gr.update(visible=n_parts > 1), gr.update(choices=names, **value)]
    return [parts, *updates]
