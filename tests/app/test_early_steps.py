# SPDX-License-Identifier: Apache-2.0
"""Steps that a user takes before the events that load the page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import browsers
import pytest
from parts_page import message, name, start_build, suggest

if browsers.missing() is None:
    from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

    from stylefast.app.workspace import Workspace

NUMBERS = """gradio_config.dependencies
    .filter(dependency => dependency.targets.some(target => target[1] == "load"))
    .map(dependency => dependency.id)"""  # of the functions that load the page


@pytest.fixture
def late(page: Page, address: str) -> list[Route]:
    """Requests of a page for the events that load it, which wait until the test continues them."""
    numbers, held = page.evaluate(NUMBERS), []

    def hold(route: Route) -> None:
        number = json.loads(route.request.post_data or "")["fn_index"]
        if number in numbers:
            numbers.remove(number)
            held.append(route)
        else:
            route.continue_()

    page.goto("about:blank")  # so that the page that is open sends no request that is held
    page.route("**/queue/join*", hold)
    page.goto(address)
    return held


def load(page: Page, late: list[Route]) -> None:
    """Continue the requests, and wait until the server has them."""
    for _ in range(browsers.TIMEOUT // 50):
        if len(late) == 2:  # Parts, and the rows of Edit
            break
        page.wait_for_timeout(50)
    assert len(late) == 2
    for route in late:
        release(page, route)


def release(page: Page, route: Route) -> None:
    with page.expect_response(lambda response: response.request == route.request):
        route.continue_()


def test_the_page_that_is_loaded_late_keeps_a_step(page: Page, late: list[Route]):
    suggest(page, "nose")
    load(page, late)
    page.locator("#parts-undo").click()
    message(page, "Undone.")


def test_an_early_build_gives_new_clusters(page: Page, late: list[Route]):
    start_build(page)
    message(page, "The new catalog has 6 clusters.")
    load(page, late)
    page.locator("#parts-undo").click()
    message(page, "Undone.")


@pytest.mark.usefixtures("unchanged_file")
def test_an_early_step_starts_from_the_present_file(page: Page, late: list[Route], workspace: Workspace):
    from stylefast.app.naming import Naming

    Naming.load(workspace).toggle(3).name("neck").save(workspace)
    suggest(page, "nose")
    expect(page.locator("#parts-legend")).to_contain_text("neck")
    load(page, late)
    name(page, "bridge")
    page.locator("#parts-save").click()
    message(page, "were saved to")
    saved = workspace.read_catalog()[0].parts
    assert "neck" in saved and "bridge" in saved


def test_an_early_edit_is_made(page: Page, late: list[Route]):
    browsers.open_tab(page, "Edit")
    page.locator("#edit-epsilon input").fill("4")
    page.locator("#edit-epsilon input").press("Enter")
    page.locator("#edit-figures dd").first.wait_for()
    load(page, late)
    expect(page.locator("#edit-strategy input")).to_have_value("sequential")  # not adaptive, the first one
    expect(page.locator("#edit-epsilon input")).to_have_value("4")
