# SPDX-License-Identifier: Apache-2.0
"""Steps that a user takes before the events that load the page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import browsers
import pytest

if browsers.missing() is None:
    from playwright.sync_api import expect

    expect.set_options(timeout=browsers.TIMEOUT)

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

    from stylefast.app.workspace import Workspace

NUMBERS = """gradio_config.dependencies
    .filter(dependency => dependency.targets.some(target => target[1] == "load"))
    .map(dependency => dependency.id)"""  # of the functions that load the page


@pytest.fixture
def late(page: Page) -> list[Route]:
    """Requests of a page for the events that load it, which wait until the test continues them."""
    numbers, held = page.evaluate(NUMBERS), []

    def hold(route: Route) -> None:
        number = json.loads(route.request.post_data or "")["fn_index"]
        if number in numbers:
            numbers.remove(number)
            held.append(route)
        else:
            route.continue_()

    page.route("**/queue/join*", hold)
    page.reload()
    return held


def load(page: Page, late: list[Route]) -> None:
    """Continue the requests, and wait until the server has them."""
    while len(late) < 2:  # Parts, and the rows of Edit
        page.wait_for_timeout(50)
    assert len(late) == 2
    for route in late:
        with page.expect_response(route.request.url):
            route.continue_()


def test_the_page_that_is_loaded_late_keeps_a_step(page: Page, late: list[Route]):
    page.locator("#parts-suggest-nose").click()
    expect(page.locator("#parts-message")).to_contain_text("selected")
    load(page, late)
    page.locator("#parts-undo").click()
    expect(page.locator("#parts-message")).to_contain_text("Undone.")


@pytest.mark.usefixtures("unchanged_file")
def test_an_early_step_starts_from_the_present_file(page: Page, late: list[Route], workspace: Workspace):
    from stylefast.app.naming import Naming

    Naming.load(workspace).toggle(3).name("neck").save(workspace)
    page.locator("#parts-suggest-nose").click()
    expect(page.locator("#parts-legend")).to_contain_text("neck")
    load(page, late)
    page.locator("#parts-name").locator("input, textarea").fill("bridge")
    page.locator("#parts-set").click()
    expect(page.locator("#parts-message")).to_contain_text("bridge has ")
    page.locator("#parts-save").click()
    expect(page.locator("#parts-message")).to_contain_text("were saved to")
    saved = workspace.read_catalog()[0].parts
    assert "neck" in saved and "bridge" in saved


def test_an_early_edit_is_made(page: Page, late: list[Route]):
    browsers.open_tab(page, "Edit")
    page.locator("#edit-epsilon input").fill("4")
    page.locator("#edit-epsilon input").press("Enter")
    page.locator("#edit-figures dd").first.wait_for()
    load(page, late)
