# SPDX-License-Identifier: Apache-2.0
"""The browser that tests the page of `stylefast app`: Chromium or Chrome as the distribution installs it."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PACKAGES = ("gradio", "playwright")
LOCAL = ("127.0.0.1", "localhost")
TIMEOUT = 150_000  # milliseconds, because a busy machine can delay a page a lot


def missing() -> str | None:
    """Return why the page cannot be tested here, or None if it can."""
    packages = [name for name in PACKAGES if find_spec(name) is None]
    if packages:
        return f"the page needs {' and '.join(packages)}, and `pip install 'stylefast[test]'` installs them"
    if program() is None:
        return f"no browser is on PATH, which is one of {', '.join(PROGRAMS)}"
    return None


def program() -> str | None:
    """Return the path of the browser, or None if there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


def arguments() -> list[str]:
    """Return the arguments of the browser: no name of another host is resolved, and root needs no sandbox."""
    hosts = f"--host-resolver-rules=MAP * ~NOTFOUND , {' , '.join(f'EXCLUDE {host}' for host in LOCAL)}"
    return [hosts, *(["--no-sandbox"] if os.geteuid() == 0 else [])]


def open_tab(page: Any, name: str) -> None:
    """Open a tab of the page, and wait until its inputs can be changed."""
    page.get_by_role("tab", name=name, exact=True).click()
    page.locator("[role=tabpanel] :is(input, textarea):visible").first.wait_for()
    wait_for_values(page)


def wait_for_values(page: Any) -> None:
    """Wait until inputs that Gradio shows for the first time have their values, which it sets one frame later."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))")


class Watch:
    """Errors of the pages that a context opens inside a `with` block, and their requests to other hosts.

    The pages are closed at the end of the block.

    Args:
        context: Browser context of Playwright.
    """

    def __init__(self, context: Any) -> None:
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self._context, self._pages = context, []

    def __enter__(self) -> Watch:
        self._context.on("page", self._watch)
        return self

    def __exit__(self, *error: object) -> None:
        for page in self._pages:
            page.close()
        self._context.remove_listener("page", self._watch)

    def check(self) -> None:
        """Fail if there was an error in the console or a request to another host."""
        assert not self.errors, self.errors
        assert not self.foreign, self.foreign

    def _watch(self, page: Any) -> None:
        self._pages.append(page)
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._judge(request.url))
        page.on("websocket", lambda socket: self._judge(socket.url))

    def _judge(self, url: str) -> None:
        address = urlsplit(url)
        if address.scheme not in ("data", "blob", "about") and address.hostname not in LOCAL:
            self.foreign.append(url)
