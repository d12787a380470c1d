# SPDX-License-Identifier: Apache-2.0
"""Results in a browser: hostile manifests contact no host, and the results of two folders are never mixed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import browsers
import pytest
from parts_page import Gate, gate
from PIL import Image

from stylefast.editing.manifest import REQUIRED

if browsers.missing() is None:
    from playwright.sync_api import expect

    from stylefast.app import results_view

    expect.set_options(timeout=browsers.TIMEOUT)

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

    from stylefast.app.workspace import Workspace

IMAGE = '<img src="http://evil.example/a.png">'
HOSTILE = f"![a](http://evil.example/b.png) $$x$$ {IMAGE} http://evil.example/c &lt; *d*"


def write_folder(folder: Path, *parts: str) -> None:
    """Write a folder with one edit of each part."""
    folder.mkdir(exist_ok=True)
    lines = []
    for number, part in enumerate(parts):
        names = {"file": f"{number:02}.png", "target": "seed0001", "part": part, "reference": "seed0002"}
        Image.new("RGB", (8, 8), "red").save(folder / names["file"])
        lines.append(json.dumps(dict.fromkeys(REQUIRED) | names))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")


def fill(page: Page, **values: str) -> None:
    """Fill in text inputs of the tab by their names."""
    for name, value in values.items():
        box = page.locator(f"#batch-{name} input, #batch-{name} textarea").first
        box.fill(value)
        box.blur()


def test_texts_of_other_programs_are_shown_as_text(page: Page, workspace: Workspace):
    write_folder(workspace.outdir / "hostile", HOSTILE)
    browsers.open_tab(page, "Batch")
    fill(page, folder="hostile")
    page.locator("#batch-gallery .thumbnail-item").click()
    expect(page.locator("#batch-detail")).to_contain_text(HOSTILE)
    assert page.locator("#batch-detail :is(a, img, em)").count() == 0
    fill(page, targets=IMAGE)
    expect(page.locator("#batch-summary")).to_contain_text(IMAGE)
    fill(page, **{"min-in": IMAGE})
    expect(page.locator("#batch-status .error")).to_contain_text(IMAGE)
    page.wait_for_timeout(300)  # the page fails at its end if it has requested another host


def test_results_of_another_folder_are_cleared_on_an_error(page: Page, workspace: Workspace):
    for name in ("good", "bad", "other"):
        write_folder(workspace.outdir / name, name)
    (workspace.outdir / "bad" / "manifest.jsonl").write_text('{"file": 1}\n')
    browsers.open_tab(page, "Batch")
    thumbnails, detail = page.locator("#batch-gallery .thumbnail-item"), page.locator("#batch-detail")
    fill(page, folder="good")
    thumbnails.click()
    expect(detail).to_contain_text("good · seed0001")
    fill(page, folder="bad")
    expect(thumbnails).to_have_count(0)
    expect(page.locator("#batch-status .error")).to_contain_text("is not an entry of an edit")
    expect(detail).not_to_contain_text("good")
    expect(page.locator("#batch-edit")).to_be_hidden()
    fill(page, folder="good")
    expect(thumbnails).to_have_count(1)
    fill(page, **{"min-in": "x"})
    refusal = page.locator("#batch-status .error")
    expect(refusal).to_have_text("ΔE inside at least must be a number, got 'x'.")
    expect(thumbnails).to_have_count(1)
    fill(page, folder="other")
    expect(thumbnails).to_have_count(0)
    expect(refusal).to_have_text("ΔE inside at least must be a number, got 'x'.")
    fill(page, **{"min-in": ""})
    thumbnails.click()
    expect(detail).to_contain_text("other · seed0001")


def test_a_folder_that_is_read_late_replaces_no_other(
    page: Page, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
):
    for name in ("late", "newer"):
        write_folder(workspace.outdir / name, name)
    read = results_view.read_results
    late = Gate(lambda folder: read(folder.with_name("late")))
    monkeypatch.setattr(results_view, "read_results", lambda folder: (late if folder.name == "batch" else read)(folder))
    thumbnails = page.locator("#batch-gallery .thumbnail-item")
    try:
        browsers.open_tab(page, "Batch")
        late.wait()
        fill(page, folder="newer")
        page.wait_for_timeout(1000)
        assert thumbnails.count() == 0  # the newer folder waits, so that its results come last
    finally:
        late.opened.set()
    expect(thumbnails).to_contain_text("newer")
    thumbnails.click()
    expect(page.locator("#batch-detail")).to_contain_text("newer · seed0001")


def test_filters_stay_until_another_folder_is_entered(
    page: Page, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
):
    parts = ["left"] * 26 + ["right"]
    write_folder(workspace.outdir / "many", *parts)
    write_folder(workspace.outdir / "single", "single")
    browsers.open_tab(page, "Batch")
    status = page.locator("#batch-status")
    fill(page, folder="many")
    expect(status).to_have_text("27 of 27 edits · page 1 of 2")
    with gate(monkeypatch, results_view, "read_results") as step:
        fill(page, folder="many")  # reads the folder again
        step.wait()
        page.locator("#batch-filter-parts input").click()
        page.get_by_role("option", name="left").click()
    expect(status).to_have_text("26 of 27 edits · page 1 of 2")
    number = page.locator("#batch-page input")
    number.fill("2")
    expect(status).to_have_text("26 of 27 edits · page 2 of 2")
    write_folder(workspace.outdir / "many", "left", *parts)
    fill(page, folder="many")
    expect(status).to_have_text("27 of 28 edits · page 2 of 2")
    fill(page, folder="single")
    expect(status).to_have_text("1 of 1 edits")
    fill(page, **{"min-in": "1"})
    expect(status).to_have_text("0 of 1 edits")
    assert page.get_by_test_id("toast-body").count() == 0


def test_the_edit_that_was_clicked_last_is_enlarged(page: Page, workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    write_folder(workspace.outdir / "two", "first", "last")
    write_folder(workspace.outdir / "one", "single")
    browsers.open_tab(page, "Batch")
    fill(page, folder="two")
    thumbnails, detail = page.locator("#batch-gallery .thumbnail-item"), page.locator("#batch-detail")
    expect(thumbnails).to_have_count(2)
    with gate(monkeypatch, results_view, "original") as step:
        thumbnails.first.click()
        step.wait()
        thumbnails.last.click()
    expect(detail).to_contain_text("last · seed0001")
    expect(page.locator("#batch-edit")).to_be_visible()

    held: list[Route] = []

    def hold_clicks(route: Route) -> None:
        held.append(route) if "caption" in (route.request.post_data or "") else route.continue_()

    page.route("**/queue/join*", hold_clicks)
    thumbnails.first.click()
    fill(page, folder="one")
    expect(thumbnails).to_have_count(1)
    (late,) = held
    with page.expect_response(lambda response: response.request == late.request):
        late.continue_()
    fill(page, **{"min-in": "1"})
    expect(page.locator("#batch-status")).to_have_text("0 of 1 edits")
    expect(detail).to_have_text("")
    expect(page.locator("#batch-edit")).to_be_hidden()
