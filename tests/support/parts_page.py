# SPDX-License-Identifier: Apache-2.0
"""Steps of a user in the tab Parts of a browser page."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import browsers

if browsers.missing() is None:
    from playwright.sync_api import expect

    expect.set_options(timeout=browsers.TIMEOUT)


def ready(page: Any) -> Any:
    """Wait until the image is drawn."""
    page.wait_for_function("document.querySelector('#parts-image img')?.naturalWidth > 0")
    return page


def message(page: Any, text: str) -> None:
    """Wait for a message of the tab that contains a text."""
    expect(page.locator("#parts-message")).to_contain_text(text)


def name_input(page: Any) -> Any:
    """Return the input of the name."""
    return page.locator("#parts-name").locator("input, textarea")


def name(page: Any, text: str) -> None:
    """Name the selected clusters."""
    name_input(page).fill(text)
    page.locator("#parts-set").click()
    message(page, f"{text} has ")


def suggest(page: Any, part: str) -> None:
    """Select the clusters in the box of a part of a face."""
    page.locator(f"#parts-suggest-{part}").click()
    message(page, f"the box of {part}")


def click_at(page: Any, x: float, y: float) -> None:
    """Click the image at a position, given as fractions of the frame."""
    image = page.locator("#parts-image img")
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def open_build(page: Any) -> None:
    """Show the inputs of a build."""
    page.get_by_text("Build again with other clusters").click()
    page.locator("#parts-images input").wait_for()
    browsers.wait_for_values(page)


def start_build(page: Any) -> None:
    """Start a short build."""
    open_build(page)
    for field, value in (("k", 6), ("restarts", 1), ("images", 8)):
        page.locator(f"#parts-{field} input").fill(str(value))
    page.locator("#parts-build-start").click()


class Gate:
    """Function that waits until it may go on.

    Args:
        function: What the function calls then.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.entered.set()
        assert self.opened.wait(browsers.TIMEOUT / 1000), "the gate was not opened"
        return self._function(*arguments, **options)

    def wait(self) -> None:
        """Wait until the function is called."""
        assert self.entered.wait(browsers.TIMEOUT / 1000), "the function was not called"


@contextmanager
def gate(monkeypatch: Any, module: Any, function: str) -> Iterator[Gate]:
    """Let a function of a module wait until the gate is opened, which is at the end at the latest."""
    closed = Gate(getattr(module, function))
    monkeypatch.setattr(module, function, closed)
    try:
        yield closed
    finally:
        closed.opened.set()
