# SPDX-License-Identifier: Apache-2.0
"""Results in a browser: hostile manifests contact no host, and the results of two folders are never mixed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import browsers
from PIL import Image

from stylefast.editing.manifest import REQUIRED

if browsers.missing() is None:
    from playwright.sync_api import expect

    expect.set_options(timeout=browsers.TIMEOUT)

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from stylefast.app.workspace import Workspace

IMAGE = '<img src="http://evil.example/a.png">'
HOSTILE = f"![a](http://evil.example/b.png) $$x$$ {IMAGE} http://evil.example/c &lt; *d*"


def write_folder(folder: Path, part: str) -> None:
    """Write a folder with one edit."""
    folder.mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    names = {"file": "a.png", "target": "seed0001", "part": part, "reference": "seed0002"}
    entry = dict.fromkeys(REQUIRED) | names
    (folder / "manifest.jsonl").write_text(json.dumps(entry) + "\n")


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
