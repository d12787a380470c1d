# SPDX-License-Identifier: Apache-2.0
"""View of the results of a batch: thumbnails with filters, and one edit beside its original."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from ..gallery import write_gallery
from .batching import Batch
from .components import guarded, in_markdown
from .results import ORDERS, Result, original, picture, read_results, select, thumbnail
from .workspace import Workspace

PER_PAGE = 24
CSS = """
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


def build_results(workspace: Workspace, tab: gr.Tab, folder: gr.Textbox) -> Callable[[Any], None]:
    """Add the results of the batches to the page.

    Args:
        workspace: What all sessions share.
        tab: The tab, whose selection shows the results.
        folder: Input with the name of the folder of the batch.

    Returns:
        A function that makes the end of an event show the results.
    """
    results, shown = gr.State([]), gr.State([])  # lists of Result: of the folder, and of the thumbnails
    directory = gr.State(None)  # folder of the results, or None if they could not be read
    gr.Markdown("### Results")
    filters = parts, *_, page = _filters()
    with gr.Row():
        status = gr.Markdown(EMPTY, elem_id="batch-status", elem_classes="hint")
        write = gr.Button("Write gallery.html", size="sm", scale=0, min_width=160, elem_id="batch-gallery-page")
    detail = gr.Markdown(elem_id="batch-detail", elem_classes="message")
    with gr.Row(visible=False) as pair:
        before = gr.Image(label="Original", interactive=False, buttons=[], elem_id="batch-original")
        after = gr.Image(label="Edit", interactive=False, buttons=["download"], elem_id="batch-edit")
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

    handlers, inputs, outputs = _Handlers(workspace), [directory, results, *filters], [shown, status, gallery]
    browse = guarded(handlers.browse)
    gr.on([element.change for element in filters], browse, inputs, outputs, trigger_mode="always_last")
    write.click(guarded(handlers.write_page), folder, status)
    enlarged = gallery.select(guarded(handlers.enlarge), [directory, shown], [detail, pair, before, after])
    enlarged.then(None, js=SCROLL)

    def show_after(event: Any) -> None:
        read = [directory, results, parts, page, detail, pair]
        loaded = event.then(guarded(handlers.load), [folder, directory], read, show_progress="hidden")
        loaded.failure(handlers.forget, None, [*read, *outputs], show_progress="hidden")
        browsed = loaded.success(browse, inputs, outputs, show_progress="hidden")
        browsed.failure(handlers.hide, None, outputs, show_progress="hidden")

    show_after(gr.on([tab.select, folder.submit, folder.blur], lambda: None, show_progress="hidden"))
    return show_after


def _filters() -> tuple[Any, ...]:
    """Return inputs of parts, the least change inside, the largest change outside, the order and the page."""
    with gr.Row(equal_height=True):
        return (
            gr.Dropdown([], multiselect=True, label="Parts", info="All without a choice", elem_id="batch-filter-parts"),
            gr.Textbox(
                label="In at least", placeholder="any", info="ΔE in the part", min_width=96, elem_id="batch-min-in"
            ),
            gr.Textbox(
                label="Out at most", placeholder="any", info="ΔE elsewhere", min_width=96, elem_id="batch-max-out"
            ),
            gr.Dropdown(list(ORDERS), label="Sort by", info="ratio = In / Out", min_width=128, elem_id="batch-order"),
            gr.Number(1, label="Page", info=f"of {PER_PAGE} edits", precision=0, min_width=80, elem_id="batch-page"),
        )


class _Handlers:
    """Handlers of the events of the results.

    Args:
        workspace: What all sessions share.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def load(self, folder: str, former: Path | None) -> tuple[Any, ...]:
        """Return a folder, its results, the choices of parts, the first page, and no edit of another folder."""
        directory = self._directory(folder)
        found = read_results(directory)
        names = sorted({result.part for result in found})
        enlarged = (gr.skip(), gr.skip()) if directory == former else ("", gr.update(visible=False))
        return directory, found, gr.update(choices=names, value=[]), 1, *enlarged

    def forget(self) -> tuple[Any, ...]:
        """Return the values of all elements if a folder cannot be read."""
        return None, [], gr.update(choices=[], value=[]), 1, "", gr.update(visible=False), *self.hide()

    def hide(self) -> tuple[Any, ...]:
        """Return the values of all elements of the thumbnails if they cannot be shown."""
        return [], "", gr.update(value=[], visible=False)

    def browse(
        self,
        directory: Path | None,
        results: list[Result],
        parts: list[str],
        inside: str,
        outside: str,
        order: str,
        page: float | None,
    ) -> tuple[Any, ...]:
        """Return the results of a page, the number of results, and their thumbnails."""
        if directory is None:
            return self.hide()
        bounds = {"min_inside": bound("In at least", inside), "max_outside": bound("Out at most", outside)}
        kept = select(results, parts, **bounds, order=order)
        n_pages = max(1, -(-len(kept) // PER_PAGE))
        number = min(max(1, int(page or 1)), n_pages)
        visible = kept[(number - 1) * PER_PAGE : number * PER_PAGE]
        images = [(thumbnail(directory, result), result.caption) for result in visible]
        text = f"{len(kept):,} of {len(results):,} edits · page {number} of {n_pages}" if results else EMPTY
        return visible, text, gr.update(value=images, visible=bool(images), selected_index=None)

    def enlarge(self, event: gr.SelectData, directory: Path, shown: list[Result]) -> tuple[Any, ...]:
        """Return the text, the original and the edit of the thumbnail that was clicked."""
        result = shown[event.index]
        unedited, edited = original(result, self._workspace), picture(directory / result.file)
        text = f"{' · '.join(result.caption.splitlines())} · {result.file}"
        if edited is None:
            text += " · the image is missing or damaged"
        return (
            in_markdown(text),
            gr.update(visible=True),
            gr.update(value=unedited, visible=unedited is not None),
            edited,
        )

    def write_page(self, folder: str) -> str:
        """Write the gallery of a folder, and return a sentence that names it."""
        written = write_gallery(self._directory(folder), progress=False)
        return in_markdown(f"{written.page} shows {written.n_edits:,} edits: open it in a browser.")

    def _directory(self, folder: str) -> Path:
        return Batch(folder=folder).directory(self._workspace)


def bound(name: str, text: str) -> float | None:
    """Return the number in an input, or None if it is empty. Raise ValueError for another text."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        raise ValueError(f"{name} must be a number, got {text!r}") from None
