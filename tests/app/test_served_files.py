# SPDX-License-Identifier: Apache-2.0
"""Files that the page serves do not expire while the tab Edit shows them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from urllib.parse import unquote

import pytest

gr = pytest.importorskip("gradio")

from stylefast.app.edit_tab import EditTab  # noqa: E402
from stylefast.app.page import create_page  # noqa: E402
from stylefast.app.workspace import Workspace  # noqa: E402


@pytest.fixture
def tab(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EditTab:
    with gr.Blocks():
        tab = EditTab(workspace, gr.State(workspace.catalog))
    monkeypatch.setattr(tab.images, "GRADIO_CACHE", str(tmp_path))
    return tab


def served(tab: EditTab, png: bytes) -> Path:
    return Path(unquote(tab._url(png, "image.png").removeprefix("gradio_api/file=")))


def test_a_file_that_is_shown_again_is_renewed(tab: EditTab):
    path = served(tab, b"first")
    os.utime(path, (0, 0))
    state = path.stat()
    time.sleep(0.02)
    assert served(tab, b"first") == path != served(tab, b"second") and path.read_bytes() == b"first"
    assert path.stat().st_ino == state.st_ino  # a browser may be reading it
    assert path.stat().st_mtime > 1 and path.stat().st_ctime > state.st_ctime


def test_a_file_that_has_expired_is_written_again(tab: EditTab):
    path = served(tab, b"first")
    path.unlink()
    assert served(tab, b"first") == path and path.read_bytes() == b"first" and str(path) in tab.images.temp_files


def test_files_live_for_a_day(workspace: Workspace):
    _, age = create_page(workspace).delete_cache or (0, 0)
    assert age == 24 * 60 * 60
