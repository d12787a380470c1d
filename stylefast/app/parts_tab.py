# SPDX-License-Identifier: Apache-2.0
"""View of the tab Parts, in which clusters are clicked and named."""

from __future__ import annotations

import html
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, cast

import gradio as gr
from gradio.context import Context

from ..catalog import FFHQ_REGIONS, Catalog
from .build_view import BuildView
from .components import MAX_SEED, begun, guarded, seed_input, sentence
from .naming import Naming
from .overlays import Views, clusters_id
from .part_images import LAST, MEAN, N_FACES, SEED, check_seeds, draw_faces, draw_image
from .served import serve_image
from .workspace import ChangedFileError, Workspace

# Events that follow each other quickly are handled one after the other, so that none is lost.
IN_TURN: dict[str, Any] = {"trigger_mode": "multiple", "concurrency_id": "parts", "concurrency_limit": 1}
QUICK: dict[str, Any] = {**IN_TURN, "show_progress": "hidden"}
SELECT, BOX = "Select clusters", "Draw a box"
NEW = "New part", "/"  # name and value of a choice. No part has the value as its name.
# An offer arrives late on a slow machine. It must not replace a name that the user has typed meanwhile.
ACCEPT = """(offer, name) => {
    if (!offer || offer.number === window.acceptedOffer) return;
    window.acceptedOffer = offer.number;
    if (offer.instead.includes(name)) return offer.name;
}"""
START = "Click clusters in the image, type a name, and press Name part."
CHANGED = "The clusters have changed meanwhile. Click again."
CONFLICT = "The file has changed since this page read it. Replace it with the catalog of this page, or load it."


def build_parts(workspace: Workspace, catalog: gr.State) -> None:
    """Add the elements of the tab Parts to the page.

    Args:
        workspace: What all sessions share.
        catalog: Catalog of the session.
    """
    _PartsTab(workspace, catalog)


def legend(naming: Naming) -> str:
    """Return a list of the parts with their colours and clusters, as HTML."""
    if not naming.catalog.parts:
        return f"<p class='hint'>No part has a name yet. {START}</p>"
    rows = []
    for part, colour in naming.colours.items():
        if part:
            ids = naming.catalog.parts[part]
            swatch, text = f"<i style='background:rgb{colour}'></i>", ", ".join(map(str, ids)) or "no cluster"
            rows.append(f"<li>{swatch}<b>{html.escape(part)}</b><span>{text}</span></li>")
    return f"<ul class='legend'>{''.join(rows)}</ul>"


def choices(catalog: Catalog) -> list[tuple[str, str]]:
    """Return the choices of the part to edit, as names and values."""
    return [NEW, *((part, part) for part in catalog.parts)]


def part_of(choice: str) -> str:
    """Return the part of a choice, "" for a new part."""
    return "" if choice == NEW[1] else choice


def choose(naming: Naming, choice: str) -> Naming:
    """Edit the part of a choice. If it is edited already, its clusters are selected again."""
    return naming.edit(part_of(choice))


def leave_choices(naming: Naming, choice: str, drawn: dict[str, Any]) -> Naming:
    """Edit the part of a choice that differs from the drawn one: it was made with the keyboard."""
    return naming if part_of(choice) == drawn["part"] else choose(naming, choice)


class _PartsTab:
    """Elements of the tab, and the handlers of their events.

    Args:
        workspace: What all sessions share.
        catalog: Catalog of the session.
    """

    def __init__(self, workspace: Workspace, catalog: gr.State) -> None:
        self._workspace, self._views, self._catalog = workspace, Views(workspace), catalog
        self._session = gr.State(None)  # a Naming from the first event on
        with gr.Row(equal_height=False):
            with gr.Column(scale=7, min_width=480, elem_id="parts-left"):
                self._add_image()
                build = BuildView(workspace)
            with gr.Column(scale=5, min_width=420):
                self._add_names()
                self._add_faces()
        self._shown = [self._source, self._seed, self._numbers, self._first]
        self._outputs = [self._session, catalog, self._image, self._drawn, self._message, self._choice, self._offer]
        self._outputs += [self._legend, self._undo, self._redo, self._remove, self._save, self._conflict]
        self._outputs += [self._faces, self._caption]
        self._offer.change(None, [self._offer, self._name], self._name, js=ACCEPT, show_progress="hidden")
        self._connect()
        build.connect(self._session, self._adopt, self._shown, self._outputs)
        build.follow(catalog)

    def _add_image(self) -> None:
        with gr.Row(elem_classes="bar"):
            self._source = gr.Radio(
                [MEAN, SEED], value=MEAN, container=False, elem_id="parts-source", min_width=220, scale=0
            )
            self._seed = seed_input("Seed", 0, "parts-seed", container=False, min_width=90, scale=2)
            self._random = gr.Button("Random", size="md", elem_id="parts-random", min_width=100, scale=1)
        with gr.Row(elem_classes="bar"):
            self._click = gr.Radio(
                [SELECT, BOX], value=SELECT, container=False, elem_id="parts-click", min_width=280, scale=4
            )
            self._numbers = gr.Checkbox(
                True, label="Numbers", container=False, elem_id="parts-numbers", min_width=90, scale=1
            )
        self._image = gr.Image(elem_id="parts-image", show_label=False, interactive=False, buttons=[], container=False)
        # What the browser shows, which can be older than the state: the seed of the image (None for the mean), its
        # clusters, and the edited part.
        drawn = {"seed": None, "clusters": None, "part": ""}
        self._drawn = gr.JSON(drawn, visible="hidden", elem_id="parts-drawn")

    def _add_names(self) -> None:
        self._message = gr.HTML(elem_id="parts-message", elem_classes="message", padding=False)
        with gr.Row(elem_classes="bar"):
            self._choice = gr.Dropdown([NEW], value=NEW[1], label="Part", elem_id="parts-choice", min_width=130)
            self._name = gr.Textbox(
                label="Name", placeholder="such as eyes", elem_id="parts-name", max_lines=1, min_width=130
            )
        self._offer = gr.JSON(visible="hidden", elem_id="parts-offer")
        with gr.Row():
            self._set = gr.Button("Name part", variant="primary", size="md", elem_id="parts-set", min_width=90)
            self._clear = gr.Button("Clear", size="md", elem_id="parts-clear", min_width=70)
            self._remove = gr.Button("Remove part", size="md", elem_id="parts-remove", min_width=110)
        gr.Markdown("Start from the boxes of aligned faces:", elem_classes="hint")
        with gr.Row():
            self._suggestions = {
                part: gr.Button(part, size="sm", elem_id=f"parts-suggest-{part}", min_width=64) for part in FFHQ_REGIONS
            }
        self._legend = gr.HTML(elem_id="parts-legend", padding=False)
        with gr.Row():
            self._undo = gr.Button("Undo", size="md", elem_id="parts-undo", min_width=70)
            self._redo = gr.Button("Redo", size="md", elem_id="parts-redo", min_width=70)
            self._save = gr.Button("Save catalog", size="md", elem_id="parts-save", min_width=120, interactive=False)
        with gr.Column(visible=False, elem_id="parts-conflict") as self._conflict:
            gr.Markdown(CONFLICT, elem_classes="hint")
            with gr.Row():
                self._overwrite = gr.Button(
                    "Replace the file", variant="stop", size="md", elem_id="parts-overwrite", min_width=120
                )
                self._reload = gr.Button("Load the file", size="md", elem_id="parts-reload", min_width=120)

    def _add_faces(self) -> None:
        self._caption = gr.Markdown(elem_id="parts-caption", elem_classes="hint")
        self._faces = gr.Image(elem_id="parts-faces", show_label=False, interactive=False, buttons=[], container=False)
        with gr.Row(elem_classes="bar"):
            gr.Markdown("First seed", elem_classes="hint")
            self._first = seed_input("First seed", 0, "parts-first", container=False, min_width=90)
            self._others = gr.Button(f"Next {N_FACES} images", size="md", elem_id="parts-others", min_width=130)

    def _connect(self) -> None:
        """Connect the events to their handlers."""
        shown, workspace = self._shown, self._workspace
        page, drawn = cast(gr.Blocks, Context.root_block), [self._session, *shown]
        page.load(guarded(self._load), drawn, self._outputs, **IN_TURN, show_progress_on=self._image)
        clicked = [self._session, self._drawn, self._click, *shown]
        self._image.select(self._handler(self._clicked), clicked, self._outputs, **QUICK)
        looks = self._numbers.input, self._source.input, self._seed.submit, self._seed.blur
        for event in (*looks, self._first.submit, self._first.blur):
            self._on(event, lambda naming: naming)
        self._on(self._choice.select, choose, self._choice)
        self._on(self._choice.blur, leave_choices, self._choice, self._drawn)
        self._on(self._set.click, Naming.name, self._name)
        self._on(self._name.submit, Naming.name, self._name)
        self._on(self._clear.click, lambda naming: naming.edit(""))
        self._on(self._remove.click, Naming.remove)
        for part, button in self._suggestions.items():
            self._on(button.click, partial(Naming.suggest_part, part=part), offer=part)
        self._on(self._undo.click, Naming.undo)
        self._on(self._redo.click, Naming.redo)
        self._save.click(self._handler(self._save_catalog), drawn, self._outputs, **QUICK)
        self._on(self._overwrite.click, lambda naming: naming.save(workspace, overwrite=True))
        self._on(self._reload.click, lambda naming: naming.reload(workspace))
        draw: dict[str, Any] = {"fn": self._handler(self._show), "inputs": drawn, "outputs": self._outputs, **IN_TURN}
        self._random.click(lambda: (SEED, random.randint(0, MAX_SEED)), None, [self._source, self._seed]).then(
            **draw, show_progress_on=self._image
        )
        following = f"first => Math.min((first || 0) + {N_FACES}, {LAST})"  # in the browser, so that no click is lost
        self._others.click(None, self._first, self._first, js=following).then(**draw, show_progress_on=self._faces)

    def _on(self, event: Any, step: Callable[..., Naming], *inputs: Any, offer: str | None = None) -> None:
        """Let an event take a step: a function of the state and the inputs that returns the next state.

        Args:
            event: Event of an element.
            step: The function.
            *inputs: Elements whose values are inputs.
            offer: Text for the input of the name if no part is edited. The default is the edited part, if another part
                is edited now.
        """

        def handle(naming: Naming, name: str, *values: Any) -> dict[Any, Any]:
            shown = values[len(inputs) :]
            check_seeds(*shown)
            after = step(naming, *values[: len(inputs)])
            if offer is not None and not naming.draft.part:
                after = after.offer_name(offer, name)
            elif (after.draft.part, after.catalog) != (naming.draft.part, naming.catalog):
                after = after.offer_name(after.draft.part, name)
            return self._render(after, shown)

        event(self._handler(handle), [self._session, self._name, *inputs, *self._shown], self._outputs, **QUICK)

    def _handler(self, handle: Callable[..., Any]) -> Callable[..., Any]:
        """Return the handler of an event from a function of the state and further values."""
        return guarded(begun(partial(Naming.load, self._workspace), handle))

    def _load(self, naming: Naming | None, *shown: Any) -> dict[Any, Any]:
        """Draw the page, unless an earlier step of the user has drawn it."""
        return {self._session: naming} if naming else self._show(Naming.load(self._workspace), *shown)

    def _show(self, naming: Naming, *shown: Any) -> dict[Any, Any]:
        check_seeds(*shown)
        return self._render(naming, shown)

    def _adopt(self, naming: Naming, catalog: Catalog, message: str, shown: Sequence[Any]) -> dict[Any, Any]:
        """Take a catalog that was built while the user may have taken further steps. A typed name stays."""
        try:
            check_seeds(*shown)
        except ValueError:
            shown = MEAN, 0, shown[2], 0
        return self._render(naming.use(catalog, message).offer_name(""), shown)

    def _clicked(
        self, naming: Naming, event: gr.SelectData, drawn: dict[str, Any], click: str, *shown: Any
    ) -> dict[Any, Any]:
        """Toggle the cluster at a position of the image that the user sees, or set a corner of a box there."""
        check_seeds(*shown)
        view, (x, y) = self._views(naming.catalog, drawn["seed"]), event.index
        if click == SELECT and drawn["clusters"] != clusters_id(naming.catalog):
            return self._render(replace(naming, message=CHANGED), shown)
        if click == SELECT:
            return self._render(naming.toggle(view.cluster_at(x, y)), shown)
        height, width = view.labels.shape
        after = naming.corner(min(x / width, 1.0), min(y / height, 1.0))
        # A box replaces suggested clusters, so that the name of the suggestion no longer fits.
        return self._render(after if naming.draft.part else after.offer_name(""), shown)

    def _save_catalog(self, naming: Naming, *shown: Any) -> dict[Any, Any]:
        """Save the catalog, or offer a choice if the file has changed."""
        check_seeds(*shown)
        try:
            return self._render(naming.save(self._workspace), shown)
        except ChangedFileError as error:
            return self._render(replace(naming, message=sentence(error), has_conflict=True), shown)

    def _render(self, naming: Naming, shown: Sequence[Any]) -> dict[Any, Any]:
        """Return the values of all elements.

        Args:
            naming: State of the tab.
            shown: Checked values of the elements that say what to show.
        """
        source, seed, numbers, first = shown
        seed = None if source == MEAN else int(seed)
        image = draw_image(self._views(naming.catalog, seed), naming, numbers=numbers)
        faces, caption = draw_faces(self._views, naming, int(first))
        return {
            self._session: naming,
            self._catalog: naming.catalog,
            self._image: serve_image(self._image, image),
            self._drawn: {"seed": seed, "clusters": clusters_id(naming.catalog), "part": naming.draft.part},
            self._message: f"<p>{html.escape(naming.message or START)}</p>",
            self._choice: gr.Dropdown(choices(naming.catalog), value=naming.draft.part or NEW[1]),
            self._offer: asdict(naming.offer),
            self._legend: legend(naming),
            self._undo: gr.Button(interactive=bool(naming.past)),
            self._redo: gr.Button(interactive=bool(naming.future)),
            self._remove: gr.Button(interactive=bool(naming.draft.part)),
            self._save: gr.Button(interactive=not naming.is_saved),
            self._conflict: gr.Column(visible=naming.has_conflict),
            self._faces: serve_image(self._faces, faces),
            self._caption: caption,
        }
