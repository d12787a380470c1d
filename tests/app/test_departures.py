# SPDX-License-Identifier: Apache-2.0
"""The browser asks before it leaves a page with unsaved parts, and a page that is not left goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import browsers
import pytest

if browsers.missing() is None:
    from playwright.sync_api import expect

    expect.set_options(timeout=browsers.TIMEOUT)

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from stylefast.app.workspace import Workspace

DOWNLOAD = "location.assign(URL.createObjectURL(new Blob([new Uint8Array(4)], {type: 'application/octet-stream'})))"


@pytest.fixture
def questions(page: Page) -> list[str]:
    """Questions of the browser, to each of which the user answers that the page is not left."""
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    return asked


def name_a_part(page: Page) -> None:
    page.locator("#parts-suggest-nose").click()
    expect(page.locator("#parts-message")).to_contain_text("selected")
    page.locator("#parts-name").locator("input, textarea").fill("bridge")
    page.locator("#parts-set").click()
    expect(page.locator("#parts-message")).to_contain_text("bridge has ")


def start_build(page: Page) -> None:
    """Start a build, which waits because another task runs."""
    page.get_by_text("Build again with other clusters").click()
    page.locator("#parts-images input").wait_for()
    browsers.wait_for_values(page)
    page.locator("#parts-build-start").click()
    expect(page.locator("#parts-build-status")).to_contain_text("Waiting for the batch")


def test_a_page_that_the_user_does_not_leave_goes_on(page: Page, workspace: Workspace, questions: list[str]):
    name_a_part(page)
    with workspace.heavy_task("the batch"):
        start_build(page)
        with page.expect_event("dialog"):
            page.close(run_before_unload=True)
        page.locator("#parts-build-cancel").click()
        expect(page.locator("#parts-build-status")).to_contain_text("The build was cancelled.")
    page.locator("#parts-undo").click()
    expect(page.locator("#parts-message")).to_contain_text("Undone.")
    assert questions == ["beforeunload"]


def test_a_page_without_unsaved_parts_survives_a_download(page: Page, workspace: Workspace, questions: list[str]):
    with workspace.heavy_task("the batch"):
        start_build(page)
        with page.expect_download() as download:
            page.evaluate(DOWNLOAD)
        assert Path(download.value.path()).stat().st_size == 4
        page.locator("#parts-build-cancel").click()
        expect(page.locator("#parts-build-status")).to_contain_text("The build was cancelled.")
    assert questions == []


def test_the_browser_asks_before_unsaved_parts_are_lost(page: Page):
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    page.locator("#parts-suggest-nose").click()
    expect(page.locator("#parts-message")).to_contain_text("selected")
    page.reload()
    assert asked == []  # clusters without a name
    expect(page.locator("#parts-message")).to_contain_text("Click clusters")
    name_a_part(page)
    browsers.open_tab(page, "Edit")
    page.reload()
    assert asked == ["beforeunload"]
