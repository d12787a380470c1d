# SPDX-License-Identifier: Apache-2.0
"""The page of `stylefast app` in this process, and pages of a headless browser that shows it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import browsers
import pytest
from editors import catalog_of

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

    from stylefast.app.workspace import Workspace

WIDTH, HEIGHT = 1280, 900
_CONNECTED: list[str] = []  # hosts to which this process has opened connections


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        _CONNECTED.append(str(arguments[1][0]))
    elif event == "socket.getaddrinfo":
        _CONNECTED.append(str(arguments[0]))


@pytest.fixture(scope="session")
def catalog_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of toy:sg2 with the parts eyes, nose and mouth."""
    path = tmp_path_factory.mktemp("catalog") / "toy.safetensors"
    catalog_of("sg2").save(path)
    return path


@pytest.fixture
def unchanged_file(catalog_file: Path) -> Iterator[None]:
    """Write the catalog again after a test that saves another one."""
    yield
    catalog_of("sg2").save(catalog_file)


@pytest.fixture(scope="session")
def workspace(catalog_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The state that all browser pages share."""
    from stylefast.app.workspace import Workspace

    outdir = tmp_path_factory.mktemp("batches")
    return Workspace.open("toy:sg2", catalog_file, truncation=0.8, engine="eager", outdir=outdir)


@pytest.fixture(scope="session")
def connected_hosts() -> list[str]:
    """Hosts to which the server has opened connections."""
    if not _CONNECTED:
        sys.addaudithook(_record)
    return _CONNECTED


@pytest.fixture(scope="session")
def address(
    workspace: Workspace, connected_hosts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Address of the page, which is served by a thread of this process on a free port."""
    if (reason := browsers.missing()) is not None:
        pytest.skip(reason)
    from stylefast.app.page import create_page, serve

    os.environ["GRADIO_TEMP_DIR"] = str(tmp_path_factory.mktemp("gradio"))  # a server deletes its files at its end
    page = create_page(workspace)
    yield serve(page, 0, open_browser=False, wait=False)
    page.close()


@pytest.fixture
def open_page(address: str, profile: BrowserContext) -> Iterator[Callable[[], Page]]:
    """Function that opens the page as a new session, and returns it when it is complete.

    At the end, the test fails if a page has written an error to the console or has requested another host.
    """

    def open_() -> Page:
        page = profile.new_page()
        page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(browsers.TIMEOUT)
        page.goto(address)
        page.get_by_role("tab", name="Batch").wait_for()
        return page

    with browsers.Watch(profile) as watch:
        yield open_
    watch.check()


@pytest.fixture
def page(open_page: Callable[[], Page]) -> Page:
    """The page in a browser window of 1280 x 900 pixels."""
    return open_page()
