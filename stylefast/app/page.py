# SPDX-License-Identifier: Apache-2.0
"""The page of `stylefast app`, and its server on this machine."""

from __future__ import annotations

import html
import os
import socket

import gradio as gr
from starlette.middleware import Middleware

from .batch_tab import build_batch
from .components import CSS, theme
from .departures import Departures
from .edit_tab import build_edit
from .local_requests import LocalRequests
from .parts_tab import build_parts
from .results_view import CSS as RESULTS
from .stage import LAYOUT
from .workspace import Workspace

HOST = "127.0.0.1"  # no other machine can reach the page
HOUR, DAY = 3600, 86400  # seconds. Files that the page serves expire a day after their last use.


def create_page(workspace: Workspace) -> gr.Blocks:
    """Return the page with its three tabs.

    Every browser tab that opens the page is a session with its own copy of the catalog.

    Args:
        workspace: What all sessions share.
    """
    with gr.Blocks(analytics_enabled=False, title="stylefast", fill_width=True, delete_cache=(HOUR, DAY)) as page:
        catalog = gr.State(workspace.catalog)  # each session begins with a copy
        gr.HTML(header(workspace), elem_id="page-title", padding=False)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Parts", id="parts"):
                build_parts(workspace, catalog)
            with gr.Tab("Edit", id="edit"):
                build_edit(workspace, catalog)
            with gr.Tab("Batch", id="batch") as batch:
                build_batch(workspace, catalog, batch)
    return page


def header(workspace: Workspace) -> str:
    """Return the title of the page with the names of the generator and of the file of the catalog."""
    names = f"{workspace.generator.name} · {workspace.catalog_path}"
    return f"<h1>stylefast</h1><p class='hint'>{html.escape(names)}</p>"


def serve(page: gr.Blocks, port: int, *, open_browser: bool = False, wait: bool = True) -> str:
    """Serve the page to browsers on this machine.

    Args:
        page: Page that `create_page` returned.
        port: Port. 0 is any free port.
        open_browser: Whether to open the page in the default browser.
        wait: Whether to return only after the server has ended. Otherwise `page.close()` ends it.

    Returns:
        The address of the page.

    Raises:
        OSError: If the port is in use.
    """
    bypass_proxy()
    page.queue(default_concurrency_limit=8)
    _, address, _ = page.launch(
        server_name=HOST,
        server_port=port or free_port(),
        inbrowser=open_browser,
        share=False,
        prevent_thread_lock=not wait,
        quiet=True,
        ssr_mode=False,
        _frontend=False,  # the check that the page answers within three seconds, which fails on a busy machine
        theme=theme(),
        css=CSS + LAYOUT + RESULTS,
        footer_links=[],
        run_history=False,  # Gradio would keep the inputs and outputs of events in the browser
        app_kwargs={"middleware": [Middleware(LocalRequests), Middleware(Departures)]},
    )
    return address


def bypass_proxy() -> None:
    """Let this process reach its own server without the proxy of the environment, as Gradio does when it starts."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = os.environ.get(name, "")
        if HOST not in hosts.split(","):
            os.environ[name] = f"{hosts},{HOST}".lstrip(",")


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]
