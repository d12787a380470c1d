# SPDX-License-Identifier: Apache-2.0
"""The whole page: it stays on this machine, and every tab fits into the window."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import browsers
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

    from stylefast.app.workspace import Workspace

TABS = ("Parts", "Edit", "Batch")
FITS = """width => document.documentElement.clientWidth == width
    && document.documentElement.scrollWidth <= width"""


def test_tabs_fit_into_windows_of_two_sizes(page: Page):
    for tab in TABS:
        browsers.open_tab(page, tab)
        for width in (1280, 1920):
            page.set_viewport_size({"width": width, "height": 1000})
            page.wait_for_timeout(300)  # for elements that appear late
            page.wait_for_function(FITS, arg=width)


def test_the_page_and_the_server_ask_no_other_host(page: Page, connected_hosts: list[str]):
    for tab in TABS:
        browsers.open_tab(page, tab)
    page.wait_for_timeout(1000)
    assert connected_hosts and {*connected_hosts} <= {*browsers.LOCAL}


def test_the_browser_stores_nothing(page: Page):
    for tab in TABS:
        browsers.open_tab(page, tab)
    page.wait_for_function("document.querySelector('#batch-command textarea')?.value")
    assert page.context.storage_state() == {"cookies": [], "origins": []}
    assert page.evaluate("sessionStorage.length") == 0


def test_other_addresses_of_the_machine_are_closed(address: str):
    port = urlsplit(address).port
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port), timeout=5):
        pass


def test_requests_to_other_hosts_and_errors_are_noticed(address: str, profile: BrowserContext):
    with browsers.Watch(profile) as watch:
        page = profile.new_page()
        page.goto(address)
        page.evaluate("fetch('http://example.invalid/a').catch(() => 0)")
        page.evaluate("console.error('abacus')")
        page.wait_for_timeout(200)
    assert page.is_closed()
    with browsers.Watch(profile) as later:
        profile.new_page().evaluate("console.error('another')")
    assert "another" in later.errors and "another" not in watch.errors
    assert watch.foreign == ["http://example.invalid/a"] and "abacus" in watch.errors
    with pytest.raises(AssertionError):
        watch.check()


def test_the_page_starts_in_an_environment_with_a_proxy(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("gradio")
    from stylefast.app.page import create_page, serve

    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # no server is there
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.delenv("NO_PROXY", raising=False)
    page = create_page(workspace)
    try:
        assert serve(page, 0, wait=False).startswith("http://127.0.0.1:")
        assert os.environ["no_proxy"] == "example.org,127.0.0.1"
    finally:
        page.close()
