# SPDX-License-Identifier: Apache-2.0
"""The tab Batch in a browser: fill in, run, cancel, filter, export the command and run it to the same bytes."""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import browsers
import pytest
from commands import run as run_command

from stylefast.app.batching import Batch
from stylefast.app.running import Run
from stylefast.editing import job

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from stylefast.app.workspace import Workspace

LONG = "0-99999"  # seeds of a batch that is cancelled


@pytest.fixture
def expect():
    """Assertions of Playwright, which wait."""
    sync_api = pytest.importorskip("playwright.sync_api")
    sync_api.expect.set_options(timeout=browsers.TIMEOUT)
    return sync_api.expect


def fill(page: Page, **values: str) -> None:
    """Open the tab and fill in text inputs by their names."""
    browsers.open_tab(page, "Batch")
    for name, value in values.items():
        box = page.locator(f"#batch-{name} input, #batch-{name} textarea").first
        box.fill(value)
        box.blur()


def command(page: Page) -> list[str]:
    return shlex.split(page.locator("#batch-command textarea").input_value())


def digests(folder: Path) -> dict[str, str]:
    paths = [*folder.glob("*.jpg"), folder / "manifest.jsonl"]
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_batch_runs_and_its_command_makes_the_same_bytes(page: Page, expect, workspace: Workspace, tmp_path: Path):
    fill(page, targets="1,2", references="7, 8", folder="page")
    page.locator("#batch-query").get_by_label("sequential", exact=True).check()
    fill(page, epsilon="0.5,2", rho="0")
    page.locator("#batch-parts").get_by_label("nose").check()
    expect(page.locator("#batch-summary")).to_contain_text("16 edits into")
    expect(page.locator("#batch-command textarea")).to_have_value(re.compile("--rho 0 "))
    expect(page.locator("#batch-seconds")).to_contain_text("on this machine")
    words = command(page)
    page.locator("#batch-run").click()
    expect(page.locator("#batch-progress")).to_contain_text("16 of 16 edits · complete")
    expect(page.locator("#batch-seconds")).to_have_text("All edits exist already.")
    expect(page.locator("#batch-run")).to_be_enabled()
    expect(page.locator("#batch-status")).to_contain_text("16 of 16 edits")
    words[words.index("--outdir") + 1] = str(tmp_path / "shell")
    run_command(*words[1:])
    made = digests(workspace.outdir / "page")
    assert len(made) == 17 and made == digests(tmp_path / "shell")


def test_results_are_filtered_and_enlarged(page: Page, expect):
    fill(page, targets="1,2", references="7", folder="filtered")
    page.locator("#batch-parts").get_by_label("nose").check()
    page.locator("#batch-run").click()
    thumbnails = page.locator("#batch-gallery .thumbnail-item")
    expect(thumbnails).to_have_count(4)
    page.locator("#batch-filter-parts input").click()
    page.get_by_role("option", name="nose").click()
    expect(thumbnails).to_have_count(2)
    expect(page.locator("#batch-status")).to_contain_text("2 of 4 edits")
    texts = thumbnails.all_inner_texts()
    assert all(text.startswith("nose · ") for text in texts)
    inside = sorted(float(value) for text in texts for value in re.findall(r"ΔE inside ([\d.]+)", text))
    fill(page, **{"min-in": f"{inside[-1] - 0.01:.2f}"})
    expect(thumbnails).to_have_count(2 if inside[-1] - inside[0] < 0.01 else 1)
    fill(page, **{"min-in": "1000"})
    expect(page.locator("#batch-status")).to_contain_text("0 of 4 edits")
    fill(page, **{"min-in": ""})
    thumbnails.first.click()
    expect(page.locator("#batch-detail")).to_contain_text("_nose_seed0007_sequential.jpg")
    for name in ("target", "edit"):
        expect(page.locator(f"#batch-{name} img").first).to_be_visible()
    page.locator("#batch-gallery-page").click()
    expect(page.locator("#batch-status")).to_contain_text("gallery.html shows 4 edits")
    path = page.locator("#batch-gallery-file textarea, #batch-gallery-file input").input_value()
    assert Path(path).is_absolute() and Path(path).is_file()


def test_a_batch_is_cancelled(page: Page, expect):
    fill(page, targets=LONG, folder="long")
    expect(page.locator("#batch-summary")).to_contain_text("200,000 edits")
    page.locator("#batch-run").click()
    expect(page.locator("#batch-progress")).to_contain_text("left")
    page.locator("#batch-cancel").click()
    expect(page.locator("#batch-progress")).to_contain_text("cancelled, and Run makes the rest")
    expect(page.locator("#batch-run")).to_be_enabled()
    expect(page.locator("#batch-gallery .thumbnail-item").first).to_be_visible()


def test_a_page_waits_for_other_tasks(page: Page, expect, workspace: Workspace):
    fill(page, folder="short")
    with workspace.heavy_task("the build of a catalog"):
        page.locator("#batch-run").click()
        expect(page.locator("#batch-progress")).to_contain_text("Waiting for the build of a catalog.")
    expect(page.locator("#batch-progress")).to_contain_text("4 of 4 edits · complete")


def test_a_folder_with_other_edits_is_refused(page: Page, expect, workspace: Workspace):
    parts = workspace.catalog.parts
    other = replace(workspace.catalog, parts={**parts, "eyes": parts["nose"]})
    former = Run(Batch("1", "7", ("eyes",), folder="other edits").job(workspace, other), workspace)
    assert list(former.states())[-1].is_complete
    fill(page, targets="1", references="7", folder="other edits")
    refusal = re.compile("folder must not have images of the same names with other settings, .*; choose another folder")
    expect(page.locator("#batch-seconds .error")).to_have_text(refusal)
    page.locator("#batch-run").click()
    expect(page.locator("#batch-progress .error")).to_have_text(refusal)
    expect(page.locator("#batch-run")).to_be_enabled()
    expect(page.locator("#batch-cancel")).to_be_disabled()


def test_the_end_of_a_failed_run_is_shown(page: Page, expect, monkeypatch: pytest.MonkeyPatch):
    make = Run._make

    def fail(run: Run) -> None:
        make(run)
        raise RuntimeError("an error that the page does not expect")

    monkeypatch.setattr(Run, "_make", fail)
    fill(page, targets="1", references="7", folder="failed")
    expect(page.locator("#batch-seconds")).to_contain_text("About")
    page.locator("#batch-run").click()
    expect(page.locator("#batch-seconds")).to_have_text("All edits exist already.")
    expect(page.locator("#batch-status")).to_contain_text("1 of 1 edits")
    expect(page.locator("#batch-run")).to_be_enabled()
    expect(page.locator("#batch-cancel")).to_be_disabled()


def test_a_run_that_skips_existing_edits_is_cancelled(page: Page, expect, monkeypatch: pytest.MonkeyPatch):
    fill(page, targets="1-3", references="7", folder="skipped")
    page.locator("#batch-run").click()
    expect(page.locator("#batch-progress")).to_contain_text("3 of 3 edits · complete")
    fill(page, targets="1-4")
    expect(page.locator("#batch-seconds")).to_contain_text("3 of them exist already.")
    looked, cancelled, is_intact = [], threading.Event(), job.is_intact

    def look(*arguments: Any, **options: Any) -> int | None:
        looked.append(arguments)
        assert len(looked) < 3 or cancelled.wait(browsers.TIMEOUT / 1000)
        return is_intact(*arguments, **options)

    monkeypatch.setattr(job, "is_intact", look)
    try:
        page.locator("#batch-run").click()
        expect(page.locator("#batch-progress")).to_contain_text("2 of 4 edits · looking for existing edits")
        page.locator("#batch-cancel").click()
        expect(page.locator("#batch-cancel")).to_be_disabled()
    finally:
        cancelled.set()
    expect(page.locator("#batch-progress")).to_contain_text("3 of 4 edits · cancelled")


def test_two_pages_have_inputs_of_their_own(open_page: Callable[[], Page], expect):
    first, second = open_page(), open_page()
    fill(first, targets="1-5")
    expect(first.locator("#batch-summary")).to_contain_text("10 edits")
    fill(second, references="8")
    expect(second.locator("#batch-summary")).to_contain_text("2 edits")
    assert "1-5" not in command(second) and "1-5" in command(first)


def test_a_file_of_pairs_is_read_and_exported(page: Page, expect, tmp_path: Path):
    (tmp_path / "pairs.csv").write_text("target,reference,part,epsilon\n1,7,eyes,\n2,7,mouth,0.25\n")
    fill(page, folder="pairs")
    page.get_by_label("File of pairs").check()
    expect(page.locator("#batch-summary")).to_contain_text("choose a .csv or .jsonl file")
    page.locator("#batch-pairs input[type=file]").set_input_files(tmp_path / "pairs.csv")
    expect(page.locator("#batch-summary")).to_contain_text("2 edits into")
    words = command(page)
    assert "--seeds" not in words and Path(words[words.index("--pairs") + 1]).is_file()
    with page.expect_download() as download:
        page.locator("#batch-export").click()
    assert download.value.suggested_filename == "pairs.csv"
    rows = Path(download.value.path()).read_text().splitlines()
    assert rows[1:] == ["seed0001,seed0007,eyes,sequential,,,1", "seed0002,seed0007,mouth,sequential,0.25,0.1,1"]


def test_a_form_with_an_error_offers_nothing(page: Page, expect):
    fill(page, targets="one")
    expect(page.locator("#batch-summary .error")).to_have_text("targets must look like 0,1,4-6, got 'one'.")
    expect(page.locator("#batch-command")).to_be_hidden()
    for button in ("run", "export"):
        expect(page.locator(f"#batch-{button}")).to_be_disabled()
    fill(page, targets="1")
    page.locator("#batch-size input").fill("0")
    expect(page.locator("#batch-summary .error")).to_have_text("batch_size must be an integer >= 1 or 'auto', got 0.")
    page.locator("#batch-size input").fill("1")
    for button in ("run", "export"):
        expect(page.locator(f"#batch-{button}")).to_be_enabled()
    expect(page.locator("#batch-command textarea")).to_be_visible()
    expect(page.locator("#batch-summary .error")).to_have_count(0)
    assert "Traceback" not in page.content()
