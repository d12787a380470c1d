# SPDX-License-Identifier: Apache-2.0
"""The tab Parts in a browser: naming by clicks, saving, undo, and pages that do not share their state."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import browsers
import pytest
from parts_page import click_at, gate, message, name, name_input, ready, suggest

from stylefast import Catalog
from stylefast.catalog.label_maps import smooth_labels

if browsers.missing() is None:
    from playwright.sync_api import expect

    from stylefast.app import naming

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from stylefast.app.workspace import Workspace


pytestmark = pytest.mark.usefixtures("unchanged_file")


def positions(workspace: Workspace) -> dict[int, tuple[float, float]]:
    """Positions in the mean image, as fractions of the frame, where the clusters are wide."""
    from stylefast.app.overlays import find_anchors

    catalog, generator = workspace.catalog, workspace.generator
    (activations,) = generator.activations(workspace.w(None), [catalog.layer]).values()
    labels = smooth_labels(activations, catalog.centroids, catalog.features, (64, 64))[0]
    return {k: (x / 64, y / 64) for k, (x, y) in find_anchors(labels).items()}


def test_a_part_is_named_by_clicks_and_saved(page: Page, workspace: Workspace):
    ready(page)
    places = positions(workspace)
    first, second = list(places)[:2]
    before = page.locator("#parts-image img").get_attribute("src")
    click_at(page, *places[first])
    message(page, f"Cluster {first} was added.")
    assert page.locator("#parts-image img").get_attribute("src") != before
    expect(page.locator("#parts-caption")).to_contain_text(f"Cluster {first} in the images of the seeds 0 to 5")
    click_at(page, *places[second])
    message(page, f"Cluster {second} was added.")
    name(page, "my part")
    expect(page.locator("#parts-legend")).to_contain_text("my part")
    assert "my part" not in Catalog.load(workspace.catalog_path).parts
    page.locator("#parts-save").click()
    message(page, "parts were saved")
    expect(page.locator("#parts-save")).to_be_disabled()
    assert Catalog.load(workspace.catalog_path).parts["my part"] == sorted((first, second))


def test_a_part_named_as_a_new_part_is_edited_and_removed(page: Page):
    ready(page)
    suggest(page, "nose")
    name(page, "New part")
    page.locator("#parts-choice input").click()
    page.get_by_role("option", name="New part").last.click()
    message(page, "Click clusters to change New part")
    page.locator("#parts-choice input").click()
    page.get_by_role("option", name="New part").first.click()
    expect(page.locator("#parts-remove")).to_be_disabled()
    page.locator("#parts-undo").click()
    message(page, "Undone.")
    page.locator("#parts-remove").click()
    message(page, "New part was removed.")
    expect(page.locator("#parts-choice input")).to_have_value("New part")


def test_the_last_images_end_at_the_largest_seed(page: Page):
    ready(page)
    page.locator("#parts-first input").fill("4294967289")
    page.locator("#parts-others").click()
    expect(page.locator("#parts-caption")).to_contain_text("The images of the seeds 4294967290 to 4294967295.")


def test_steps_are_undone_in_the_page(page: Page, workspace: Workspace):
    ready(page)
    (cluster, place), *_ = positions(workspace).items()
    drawn = page.locator("#parts-image img")
    before = drawn.get_attribute("src")
    click_at(page, *place)
    message(page, f"Cluster {cluster} was added.")
    name(page, "part <b>")
    expect(page.locator("#parts-legend b", has_text="part <b>")).to_be_visible()  # text, not an element
    for text in ("Undone.", "Undone."):
        page.locator("#parts-undo").click()
        message(page, text)
    expect(page.locator("#parts-undo")).to_be_disabled()
    expect(drawn).to_have_attribute("src", str(before))
    page.locator("#parts-redo").click()
    message(page, "Redone.")
    expect(drawn).not_to_have_attribute("src", str(before))


def test_impossible_steps_show_one_sentence(page: Page):
    ready(page)
    page.locator("#parts-set").click()
    expect(page.get_by_text("names of parts must be texts")).to_be_visible()
    name_input(page).fill("eyes")
    page.locator("#parts-set").click()
    expect(page.get_by_text("a part must have at least one cluster: click clusters in the image.")).to_be_visible()
    assert page.get_by_text("Traceback").count() == 0


@pytest.mark.parametrize("field, limit", [("seed", "2**32)"), ("first", "2**32 - 6]")])
def test_bad_seeds_are_explained_in_the_page(page: Page, field: str, limit: str):
    ready(page)
    if field == "seed":
        page.get_by_role("radio", name="Seed").check()
    for seed in ("1.5", "-1", "4294967296"):
        page.locator(f"#parts-{field} input").fill(seed)
        page.locator(f"#parts-{field} input").press("Enter")
        text = f"seed must be an integer in [0, {limit}, got {seed}."
        expect(page.get_by_test_id("toast-body").get_by_text(text).first).to_be_visible()


def test_two_pages_do_not_mix_their_parts(open_page: Callable[[], Page], workspace: Workspace):
    first, second = ready(open_page()), ready(open_page())
    (cluster, place), *_ = positions(workspace).items()
    click_at(first, *place)
    message(first, f"Cluster {cluster} was added.")
    name(first, "mine")
    suggest(second, "nose")
    name(second, "theirs")
    expect(second.locator("#parts-legend")).not_to_contain_text("mine")
    expect(first.locator("#parts-legend")).not_to_contain_text("theirs")
    first.locator("#parts-save").click()
    message(first, "saved to")
    second.locator("#parts-save").click()
    message(second, "another page or program has changed it")
    assert "mine" in Catalog.load(workspace.catalog_path).parts
    choice = second.locator("#parts-conflict")
    click_at(second, *place)
    message(second, f"Cluster {cluster} was added.")
    expect(choice).to_contain_text("The file has changed since this page read it.")  # until it is made
    second.locator("#parts-overwrite").click()
    message(second, "saved to")
    expect(choice).to_be_hidden()
    assert "theirs" in Catalog.load(workspace.catalog_path).parts


def test_a_box_of_two_clicks_suggests_clusters(page: Page):
    ready(page)
    name_input(page).fill("another name")
    page.locator("#parts-suggest-nose").click()
    expect(name_input(page)).to_have_value("nose")
    page.get_by_label("Draw a box").check()
    click_at(page, 0.02, 0.02)
    message(page, "Click the opposite corner")
    click_at(page, 0.98, 0.98)
    message(page, "clusters of the box are selected.")
    expect(name_input(page)).to_have_value("")  # the clusters are other ones


def test_other_tabs_offer_the_new_parts(page: Page):
    ready(page)
    suggest(page, "nose")
    name(page, "snout")
    browsers.open_tab(page, "Batch")
    expect(page.locator("#batch-parts").get_by_text("snout")).to_be_visible()
    assert page.get_by_test_id("toast-body").count() == 0  # no error of a tab that still offers former parts


def test_a_name_that_is_typed_during_a_step_stays(page: Page, monkeypatch: pytest.MonkeyPatch):
    ready(page)
    with gate(monkeypatch, naming, "name_clusters") as step:
        page.locator("#parts-suggest-nose").click()
        step.wait()
        name_input(page).fill("bridge")
    message(page, "the box of nose")
    with gate(monkeypatch, naming, "check_part_name") as step:
        page.locator("#parts-set").click()
        step.wait()
        name_input(page).fill("next part")
    message(page, "bridge has ")
    page.locator("#parts-clear").click()
    message(page, "Click clusters in the image")  # the answers of both steps have arrived
    browsers.wait_for_values(page)
    expect(name_input(page)).to_have_value("next part")


def test_the_last_of_two_quick_suggestions_gives_the_name(page: Page, monkeypatch: pytest.MonkeyPatch):
    ready(page)
    with gate(monkeypatch, naming, "name_clusters") as step:
        page.locator("#parts-suggest-nose").click()
        step.wait()
        page.locator("#parts-suggest-mouth").click()
        browsers.open_tab(page, "Edit")
    browsers.open_tab(page, "Parts")
    message(page, "the box of mouth")
    expect(name_input(page)).to_have_value("mouth")
    name_input(page).fill("")
    page.locator("#parts-clear").click()
    message(page, "Click clusters in the image")
    browsers.wait_for_values(page)
    expect(name_input(page)).to_have_value("")  # no step offers the name again


def test_a_page_without_its_file_shows_the_catalog(open_page: Callable[[], Page], workspace: Workspace):
    workspace.catalog_path.unlink()
    page = ready(open_page())
    message(page, f"{workspace.catalog_path} is missing.")
    expect(page.locator("#parts-legend")).to_contain_text("nose")
    page.locator("#parts-save").click()
    message(page, "saved to")
    assert Catalog.load(workspace.catalog_path).parts == workspace.catalog.parts


def test_a_bad_seed_stops_a_step_before_it_is_taken(page: Page, workspace: Workspace):
    ready(page)
    page.locator("#parts-suggest-nose").click()
    message(page, "selected")
    name(page, "bridge")
    page.locator("#parts-first input").fill("")
    page.locator("#parts-save").click()
    expect(page.get_by_test_id("toast-body").get_by_text("first seed must be an integer").first).to_be_visible()
    assert "bridge" not in Catalog.load(workspace.catalog_path).parts
    page.locator("#parts-first input").fill("0")
    page.locator("#parts-save").click()
    message(page, "parts were saved")
    assert "bridge" in Catalog.load(workspace.catalog_path).parts
