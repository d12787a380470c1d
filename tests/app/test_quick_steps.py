# SPDX-License-Identifier: Apache-2.0
"""Steps in the tab Parts that a user takes while an earlier one is drawn, and choices of a part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import browsers
import pytest
from parts_page import click_at, gate, message, ready, start_build, suggest

if browsers.missing() is None:
    from playwright.sync_api import expect

    from stylefast.app import part_images
    from stylefast.app.components import MAX_SEED
    from stylefast.app.overlays import Views

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from stylefast.app.workspace import Workspace


def test_the_last_of_two_quick_requests_for_images_is_drawn(page: Page, monkeypatch: pytest.MonkeyPatch):
    ready(page)
    first, caption = page.locator("#parts-first input"), page.locator("#parts-caption")
    with gate(monkeypatch, part_images, "sheet") as step:
        for value in ("6", "12"):
            with page.expect_response("**/queue/join*"):  # of the draw
                page.locator("#parts-others").click()
            expect(first).to_have_value(value)
            step.wait()
    expect(caption).to_contain_text("The images of the seeds 12 to 17.")
    first.fill(str(MAX_SEED - 7))
    page.locator("#parts-others").click()
    expect(first).to_have_value(str(MAX_SEED - 5))  # the last images


def test_a_click_selects_the_cluster_that_the_page_shows(
    page: Page, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
):
    views = Views(workspace)
    shown, late = (views(workspace.catalog, seed) for seed in (0, 1))
    cluster, (x, y) = next((k, place) for k, place in shown.anchors.items() if late.cluster_at(*place) != k)
    ready(page)
    image = page.locator("#parts-image img")
    mean = image.get_attribute("src")
    page.get_by_role("radio", name="Seed").check()
    expect(image).not_to_have_attribute("src", str(mean))
    page.locator("#parts-seed input").fill("1")
    with gate(monkeypatch, part_images, "sheet") as step:
        click_at(page, x / shown.labels.shape[1], y / shown.labels.shape[0])  # first leaves the seed, which draws it
        step.wait()
        browsers.wait_for_values(page)
    message(page, f"Cluster {cluster} was added.")


def test_a_click_in_former_clusters_selects_nothing(page: Page, monkeypatch: pytest.MonkeyPatch):
    ready(page)
    start_build(page)
    message(page, "The new catalog has 6 clusters.")
    with gate(monkeypatch, part_images, "sheet") as step:
        page.locator("#parts-undo").click()
        step.wait()
        with page.expect_request("**/queue/join*"):
            click_at(page, 0.5, 0.5)
    message(page, "The clusters have changed meanwhile.")
    expect(page.locator("#parts-caption")).to_contain_text("Click a cluster")
    click_at(page, 0.5, 0.5)
    message(page, "was added")


def test_leaving_the_choice_of_a_part_is_no_step(page: Page):
    ready(page)
    suggest(page, "nose")
    page.locator("#parts-choice input").click()
    page.get_by_role("option", name="mouth").wait_for()
    page.locator("#page-title").click()
    expect(page.get_by_role("option", name="mouth")).to_be_hidden()
    page.locator("#parts-undo").click()
    message(page, "Undone.")
    expect(page.locator("#parts-undo")).to_be_disabled()  # the suggestion was the only step


@pytest.mark.parametrize("way", ["mouse", "keyboard"])
def test_a_part_is_chosen_with_the_mouse_and_the_keyboard(page: Page, way: str):
    ready(page)
    choice = page.locator("#parts-choice input")
    expect(page.locator("#parts-legend")).to_contain_text("eyes")  # the choices have arrived
    if way == "mouse":
        choice.click()
        page.get_by_role("option", name="eyes").click()
    else:
        choice.focus()
        choice.press("ArrowDown")
        choice.press("Enter")
    message(page, "Click clusters to change eyes")
    page.locator("#parts-undo").click()
    message(page, "Undone.")
    expect(page.locator("#parts-undo")).to_be_disabled()


def test_a_part_chosen_again_gets_its_clusters_back(page: Page):
    ready(page)
    for _ in range(2):
        page.locator("#parts-choice input").click()
        page.get_by_role("option", name="nose").click()
        message(page, "Click clusters to change nose")
        expect(page.locator("#parts-caption")).to_contain_text("The 2 clusters selected")
        click_at(page, 0.5, 0.5)
        message(page, "Cluster")
