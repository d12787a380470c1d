# SPDX-License-Identifier: Apache-2.0
"""View of the results of a batch: thumbnails with filters, and one edit beside its target."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ..gallery import write_gallery
from ..gallery.shown import WHOLE
from .batching import Batch
from .components import EXPECTED, guarded, in_markdown, sentence, show_error
from .results import ORDERS, Result, close_up, original, picture, read_results, select, thumbnail
from .served import serve_image
from .workspace import Workspace

PER_PAGE = 24
# The results share states, so their events are handled one after the other. The browser sends EACH event, or the NEWEST
# of those that wait for another one.
QUEUE: dict[str, Any] = {"concurrency_id": "batch-results", "concurrency_limit": 1, "show_progress": "hidden"}
EACH: dict[str, Any] = QUEUE | {"trigger_mode": "multiple"}
NEWEST: dict[str, Any] = EACH | {"trigger_mode": "always_last"}
CSS = """
:is(#batch-summary, #batch-seconds, #batch-status) .html-container { padding: 0; }
:is(#batch-epsilon, #batch-rho):has(:disabled) { opacity: 0.5; }
:is(#batch-epsilon, #batch-rho) :disabled { background: var(--border-color-primary); cursor: not-allowed; }
#batch-gallery .grid-wrap { max-height: none; }
#batch-gallery .thumbnail-item { aspect-ratio: auto; height: auto; border: 0; background: none; }
#batch-gallery .thumbnail-item img { aspect-ratio: auto; height: auto; border-radius: 4px; }
#batch-gallery .caption-label {
    position: static; max-width: none; padding: 4px 0 8px; background: none; border: 0; text-align: left;
    opacity: 1 !important; white-space: pre-line; overflow: visible;
    font-size: 12px; line-height: 1.5; color: var(--body-text-color);
}
"""
SCROLL = "() => document.querySelector('#batch-detail').scrollIntoView({behavior: 'smooth'})"
EMPTY = "No edit has been made in this folder yet. Run the batch to see its edits here."


def build_results(workspace: Workspace, changes: Sequence[Any], folder: gr.Textbox) -> None:
    """Add the results of the batches to the page.

    Args:
        workspace: What all sessions share.
        changes: Triggers of the events after which the folder may have other results.
        folder: Input with the name of the folder of the batch.
    """
    results, shown = gr.State([]), gr.State([])  # lists of Result: of the folder, and of the thumbnails
    directory = gr.State(None)  # folder of the results, or None if they could not be read
    # Gradio refuses an event that sends a part which is no choice any more. So all events send a copy of the browser.
    chosen = gr.JSON([], visible="hidden")
    page_written = gr.State(None)  # the result of `write_page`
    gr.Markdown("### Results")
    parts, *others = _filters()
    with gr.Row(elem_classes="bar"):
        status = gr.HTML(EMPTY, elem_id="batch-status", elem_classes="hint", padding=False)
        page = gr.Number(1, label="Page", precision=0, scale=0, min_width=96, visible=False, elem_id="batch-page")
        write = gr.Button("Write gallery.html", size="sm", scale=0, min_width=160, elem_id="batch-gallery-page")
    written = gr.Textbox(
        label="Gallery",
        info="Open this file in a browser.",
        interactive=False,
        visible=False,
        buttons=["copy"],
        elem_id="batch-gallery-file",
    )
    detail = gr.Markdown(elem_id="batch-detail", elem_classes="message")
    images = []
    with gr.Row(visible=False) as pair:
        for name in ("target", "edit"):
            with gr.Column(min_width=240):
                buttons: list[Any] = ["download"] if name == "edit" else []
                images += [
                    gr.Image(interactive=False, buttons=buttons, label=name.title(), elem_id=f"batch-{name}"),
                    gr.Image(interactive=False, buttons=[], elem_id=f"batch-{name}-part"),
                ]
    gallery = gr.Gallery(
        columns=3,
        height="auto",
        object_fit="contain",
        allow_preview=False,
        show_label=False,
        buttons=[],
        interactive=False,
        visible=False,
        elem_id="batch-gallery",
    )

    filters, thumbnails = [chosen, *others, page], [shown, status, page, gallery]
    handlers = _Handlers(workspace, gallery)
    parts.change(None, parts, chosen, js="values => [values]", show_progress="hidden", trigger_mode="multiple")
    changed = [element.change for element in filters]
    gr.on(changed, handlers.refilter, [directory, results, *filters], thumbnails, **NEWEST)
    # A queue of its own, because a large gallery takes minutes.
    wrote = write.click(guarded(handlers.write_page), folder, page_written, show_progress_on=status)
    wrote.success(handlers.show_page, [page_written, directory], [status, written], **EACH)
    # Not NEWEST: Gradio would send the thumbnail of the first of several clicks again.
    enlarged = gallery.select(guarded(handlers.enlarge), [directory, shown], [detail, pair, *images], **EACH)
    enlarged.then(None, js=SCROLL)
    gr.on(
        [*changes, folder.submit, folder.blur],
        handlers.load,
        [folder, directory, *filters],
        [directory, results, parts, chosen, detail, pair, written, *thumbnails],
        **EACH,
    )


def _filters() -> tuple[Any, ...]:
    """Return inputs of parts, the least change inside, the largest change outside, and the order."""
    with gr.Row(equal_height=True):
        return (
            gr.Dropdown(
                [],
                multiselect=True,
                label="Parts",
                info="Nothing chosen: all",
                scale=4,
                min_width=128,
                elem_id="batch-filter-parts",
            ),
            _bound("ΔE inside at least", "In the part", "batch-min-in"),
            _bound("ΔE outside at most", "Elsewhere", "batch-max-out"),
            gr.Dropdown(
                list(ORDERS),
                label="Sort by",
                info="Ratio = inside / outside",
                scale=6,
                min_width=196,
                elem_id="batch-order",
            ),
        )


def _bound(label: str, info: str, elem_id: str) -> gr.Textbox:
    return gr.Textbox(label=label, info=info, placeholder="any", scale=4, min_width=128, elem_id=elem_id)


class _Handlers:
    """Handlers of the events of the results.

    Args:
        workspace: What all sessions share.
        gallery: Element of the thumbnails.
    """

    def __init__(self, workspace: Workspace, gallery: gr.Gallery) -> None:
        self._workspace, self._gallery = workspace, gallery

    def load(self, folder: str, former: Path | None, chosen: list[str], *filters: Any) -> tuple[Any, ...]:
        """Return the values of all elements for a folder. If it is the former one, the filter and the page stay."""
        cleared = "", gr.update(visible=False), gr.update(visible=False)  # the text and the images, and the path
        try:
            directory = self._directory(folder)
            found = read_results(directory)
        except EXPECTED as error:
            return None, [], gr.update(choices=[], value=[]), [], *cleared, *self._refuse(error)
        names = sorted({result.part for result in found})
        if directory != former:
            parts = gr.update(choices=names, value=[])
            shown, status, page, gallery = self._browse(directory, found, [], *filters[:-1], 1)
            return directory, found, parts, [], *cleared, shown, status, page | {"value": 1}, gallery
        kept = [name for name in chosen if name in names]
        # A choice that remains valid is not sent, because the user may have changed it meanwhile.
        parts = gr.update(choices=names) | ({} if kept == chosen else {"value": kept})
        copy = gr.skip() if kept == chosen else kept
        return directory, found, parts, copy, *[gr.skip()] * 3, *self._browse(directory, found, kept, *filters)

    def _browse(self, *values: Any) -> tuple[Any, ...]:
        """Return the values of the elements of the thumbnails: none but a sentence after an error."""
        try:
            return self._page(*values)
        except EXPECTED as error:
            return self._refuse(error)

    def _refuse(self, error: BaseException) -> tuple[Any, ...]:
        return [], show_error(sentence(error)), gr.update(visible=False), gr.update(value=[], visible=False)

    def refilter(self, directory: Path | None, *values: Any) -> tuple[Any, ...]:
        """Return the values of the elements of the thumbnails. After an error, the thumbnails stay.

        The error is shown in the status: if the event failed, Gradio would drop the deferred event of a later change.
        """
        skip = gr.skip()
        try:
            return (skip,) * 4 if directory is None else self._page(directory, *values)
        except EXPECTED as error:
            return skip, show_error(sentence(error)), skip, skip

    def _page(
        self,
        directory: Path,
        results: list[Result],
        parts: list[str],
        inside: str,
        outside: str,
        order: str,
        page: float | None,
    ) -> tuple[Any, ...]:
        bounds = {
            "min_inside": bound("ΔE inside at least", inside),
            "max_outside": bound("ΔE outside at most", outside),
        }
        kept = select(results, parts, **bounds, order=order)
        n_pages = max(1, -(-len(kept) // PER_PAGE))
        number = min(max(1, int(page or 1)), n_pages)
        visible = kept[(number - 1) * PER_PAGE : number * PER_PAGE]
        images = [(self._serve(thumbnail(directory, result), ".jpg"), result.caption) for result in visible]
        text = f"{len(kept):,} of {len(results):,} edits" if results else EMPTY
        text += f" · page {number} of {n_pages}" if n_pages > 1 else ""
        pages = gr.update(visible=n_pages > 1)
        return visible, text, pages, gr.update(value=images, visible=bool(images), selected_index=None)

    def enlarge(self, event: gr.SelectData, directory: Path, shown: list[Result]) -> tuple[Any, ...]:
        """Return the text, and the target and the edit of the thumbnail that was clicked, each with its part.

        Nothing changes if other thumbnails have replaced those of the page meanwhile.
        """
        if [result.caption for result in shown[event.index : event.index + 1]] != [event.value["caption"]]:
            return (gr.skip(),) * 6
        result = shown[event.index]
        unedited, edited = original(result, self._workspace), picture(directory / result.file)
        text = f"{' · '.join(result.caption.splitlines())} · {result.file}"
        if edited is None:
            text += " · the image is missing or damaged"
        images = []
        for name, image in (("Target", unedited), ("Edit", edited)):
            part = None if image is None or result.edit.box == WHOLE else close_up(image, result)
            images.append(gr.update(value=self._serve(image), visible=image is not None))
            images.append(gr.update(value=self._serve(part), label=f"{name}, {result.part}", visible=part is not None))
        return in_markdown(text), gr.update(visible=True), *images

    def write_page(self, folder: str) -> tuple[Path, str, str]:
        """Write the gallery of a folder. Return the folder, a sentence, and the path of the page."""
        written = write_gallery(directory := self._directory(folder), progress=False)
        text = html.escape(f"{written.page.name} shows {written.n_edits:,} edits.")
        return directory, text, str(written.page.resolve())

    def show_page(self, written: tuple[Path, str, str], directory: Path | None) -> tuple[Any, ...]:
        """Show the sentence and the path, because browsers open no file from a link, unless the folder has changed."""
        of, text, path = written
        return (text, gr.update(value=path, visible=True)) if of == directory else (gr.skip(), gr.skip())

    def _serve(self, image: Image.Image | None, suffix: str = ".png") -> str | None:
        return None if image is None else serve_image(self._gallery, np.asarray(image.convert("RGB")), suffix)

    def _directory(self, folder: str) -> Path:
        return Batch(folder=folder).directory(self._workspace)


def bound(name: str, text: str) -> float | None:
    """Return the number in an input, or None if it is empty. Raise ValueError for another text."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        raise ValueError(f"{name} must be a number, got {text!r}") from None
