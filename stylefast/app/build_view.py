# SPDX-License-Identifier: Apache-2.0
"""View of "Build again" in the tab Parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import gradio as gr
from gradio.context import Context

from ..catalog import Catalog
from .building import BuildRequest, Built, Cancellation, CancelledError, rebuild, resolutions
from .components import EXPECTED, after, begun, guarded, sentence, show_error
from .naming import Naming
from .workspace import DEFAULT_IMAGES, Workspace

METHODS = {"kmeans": "k-means", "nmf": "nmf"}
CANCELLED = "The build was cancelled. The catalog is unchanged."


class BuildView:
    """Elements of "Build again".

    Args:
        workspace: What all sessions share.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace, catalog = workspace, workspace.catalog
        sizes, (height, _) = resolutions(workspace.generator), catalog.occupancy.shape[1:]
        self._cancellation, self._built = gr.State(Cancellation()), gr.State(None)
        self._running: dict[str | None, Cancellation] = {}  # by session
        with gr.Accordion("Build again with other clusters", open=False, elem_id="parts-build"):
            with gr.Row(elem_classes="bar"):
                self._method = gr.Textbox(
                    METHODS[catalog.method], label="Method", interactive=False, elem_id="parts-method", min_width=80
                )
                self._clusters = gr.Number(
                    catalog.n_clusters, label="Clusters K", precision=0, elem_id="parts-k", min_width=90
                )  # without limits: the build refuses bad numbers in a sentence
                self._resolution = gr.Dropdown(
                    sizes, value=height, label="Resolution", elem_id="parts-resolution", min_width=90
                )
                self._restarts = gr.Number(
                    len(catalog.runs),
                    label="Restarts",
                    precision=0,
                    visible=catalog.method == "kmeans",
                    elem_id="parts-restarts",
                    min_width=90,
                )
                self._images = gr.Number(
                    min(DEFAULT_IMAGES, catalog.provenance.get("images", DEFAULT_IMAGES)),
                    label="Images",
                    precision=0,
                    elem_id="parts-images",
                    min_width=90,
                )
            with gr.Row():
                self._start = gr.Button("Build", elem_id="parts-build-start", min_width=90)
                self._cancel = gr.Button("Cancel", elem_id="parts-build-cancel", min_width=90, interactive=False)
            self._status = gr.HTML(
                "<p>A build clusters the images of the first seeds with the method of the catalog. The parts keep "
                "their names where the new clusters overlap them. The file changes only when you save.</p>",
                elem_id="parts-build-status",
                elem_classes="hint status",
                padding=False,
            )

    def connect(
        self,
        session: gr.State,
        adopt: Callable[[Naming, Catalog, str, Sequence[Any]], dict[Any, Any]],
        shown: list[Any],
        outputs: list[Any],
    ) -> None:
        """Connect the events.

        Args:
            session: State of the tab.
            adopt: Function of the state, the new catalog, a message and the values of `shown` that returns the values
                of `outputs`.
            shown: Elements that say what the tab shows.
            outputs: Elements of the tab.
        """
        inputs = [session, self._cancellation, self._clusters, self._resolution, self._restarts, self._images]
        buttons, load = [self._start, self._cancel], partial(Naming.load, self._workspace)

        def start(cancellation: Cancellation) -> tuple[gr.Button, gr.Button, str]:
            cancellation.requested = False
            return gr.Button(interactive=False), gr.Button(interactive=True), ""  # the progress covers the status

        def end() -> tuple[gr.Button, gr.Button]:
            return gr.Button(interactive=True), gr.Button(interactive=False)

        started = self._start.click(start, self._cancellation, [*buttons, self._status], show_progress="hidden")
        ended = started.then(
            begun(load, self._run),
            inputs,
            [self._built, self._status],
            show_progress_on=self._status,
            concurrency_limit=4,
        )
        cast(gr.Blocks, Context.root_block).unload(self._leave)
        after(ended, end, None, buttons, show_progress="hidden")
        ended.success(
            guarded(begun(load, lambda *values: self._take(adopt, *values))),
            [session, self._built, self._cancellation, *shown],
            [self._built, self._status, *outputs],
            concurrency_id="parts",
            concurrency_limit=1,
            show_progress="hidden",
        )
        self._cancel.click(cancel, self._cancellation, self._cancel, show_progress="hidden")

    def follow(self, catalog: gr.State) -> None:
        """Show the method of the catalog of the session, and the restarts for k-means only."""

        def show(catalog: Catalog, shown: str) -> tuple[Any, Any]:
            method = METHODS[catalog.method]
            if method == shown:
                return gr.skip(), gr.skip()
            return gr.update(value=method), gr.update(visible=catalog.method == "kmeans")

        catalog.change(show, [catalog, self._method], [self._method, self._restarts], show_progress="hidden")

    def _leave(self, request: gr.Request) -> None:
        """Cancel the build of a session that ends."""
        if (cancellation := self._running.get(request.session_hash)) is not None:
            cancellation.requested = True

    def _take(
        self,
        adopt: Callable[[Naming, Catalog, str, Sequence[Any]], dict[Any, Any]],
        naming: Naming,
        built: Built | None,
        cancellation: Cancellation,
        *shown: Any,
    ) -> dict[Any, Any]:
        """Give the catalog of a build to the tab, with the parts that the tab has now."""
        if built is None:
            return {self._built: None}
        if cancellation.requested:  # after the last step of the build
            return {self._built: None, self._status: f"<p>{CANCELLED}</p>"}
        catalog = built.with_parts_of(naming.catalog)
        return {self._built: None, **adopt(naming, catalog, describe_build(naming.catalog, catalog), shown)}

    def _run(
        self,
        naming: Naming,
        request: gr.Request,
        cancellation: Cancellation,
        n_clusters: int,
        resolution: int,
        n_init: int,
        n_images: int,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio finds the progress by this default
    ) -> tuple[Built | None, str]:
        """Build a catalog, and return it and the status."""
        build = BuildRequest(n_clusters, resolution, n_init, n_images)
        self._running[request.session_hash] = cancellation
        try:
            built = rebuild(
                self._workspace, naming.catalog, build, cancellation, lambda share, text: progress(share, desc=text)
            )
        except CancelledError:
            return None, f"<p>{CANCELLED}</p>"
        except EXPECTED as error:
            return None, show_error(sentence(error))
        finally:
            self._running.pop(request.session_hash, None)
        return built, "<p>The build is complete.</p>"


def describe_build(former: Catalog, catalog: Catalog) -> str:
    """Return sentences about a new catalog and the parts that kept their names.

    Args:
        former: Catalog that is replaced.
        catalog: The new catalog with its parts.
    """
    kept, lost = len(catalog.parts), [part for part in former.parts if part not in catalog.parts]
    text = f"The new catalog has {catalog.n_clusters} clusters. {kept} of {kept + len(lost)} parts kept their names. "
    text += f"No new cluster belongs to: {', '.join(lost)}. " if lost else ""
    return text + "Undo returns to the former catalog."


def cancel(cancellation: Cancellation) -> gr.Button:
    """Ask the build to end after the current batch or step, and return the button, which works once per build."""
    cancellation.requested = True
    return gr.Button(interactive=False)
