# SPDX-License-Identifier: Apache-2.0
"""View of the tab Parts."""

from __future__ import annotations

import gradio as gr

from .workspace import Workspace


def build_parts(workspace: Workspace, catalog: gr.State) -> None:
    """Add the elements of the tab Parts to the page.

    Args:
        workspace: What all sessions share.
        catalog: Catalog of the session.
    """
    gr.Markdown(f"Generator {workspace.generator.name}.", elem_id="parts-empty")
