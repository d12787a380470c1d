# SPDX-License-Identifier: Apache-2.0
"""Builds in the tab Parts in a browser: new clusters, their names, cancelling, and the end with the page."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import browsers
import pytest
import torch
from catalogs import build_catalog
from parts_page import gate, message, name, name_input, open_build, ready, start_build, suggest

from stylefast import Catalog

if browsers.missing() is None:
    from playwright.sync_api import expect

    from stylefast.app import building

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from stylefast.app.workspace import Workspace


pytestmark = pytest.mark.usefixtures("unchanged_file")


def test_a_build_gives_new_clusters_and_can_be_cancelled(page: Page, workspace: Workspace):
    open_build(ready(page))
    page.locator("#parts-k input").fill("0")
    page.locator("#parts-build-start").click()
    expect(page.locator("#parts-build-status .error")).to_have_text("clusters must be an integer >= 1, got 0.")
    for field, value in (("k", 3), ("restarts", 1), ("images", 4000)):
        page.locator(f"#parts-{field} input").fill(str(value))
    page.locator("#parts-build-start").click()
    page.locator("#parts-build-cancel").click()
    expect(page.locator("#parts-build-status")).to_contain_text("The build was cancelled.")
    expect(page.locator("#parts-build-start")).to_be_enabled()
    page.locator("#parts-images input").fill("6")
    page.locator("#parts-build-start").click()
    message(page, "The new catalog has 3 clusters")
    assert Catalog.load(workspace.catalog_path).n_clusters == 6
    page.locator("#parts-undo").click()
    message(page, "Undone.")


def test_the_method_of_the_catalog_is_shown(open_page: Callable[[], Page], workspace: Workspace):
    w = workspace.generator.latents(range(4))
    build_catalog(workspace.generator, w, n_clusters=3, resolution=16, method="nmf").save(workspace.catalog_path)
    page = ready(open_page())
    open_build(page)
    method = page.locator("#parts-method").locator("input, textarea")
    expect(method).to_have_value("nmf")
    expect(page.locator("#parts-restarts")).to_be_hidden()
    page.locator("#parts-images input").fill("4")
    page.locator("#parts-build-start").click()
    message(page, "The new catalog has 6 clusters")
    page.locator("#parts-save").click()
    message(page, "saved to")
    assert Catalog.load(workspace.catalog_path).method == "nmf"


def test_a_build_ends_with_its_page(page: Page, workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    completed = []
    monkeypatch.setattr(building, "measure_overlap", lambda *arguments: completed.append(arguments))
    open_build(ready(page))
    page.locator("#parts-images input").fill("20000")
    page.locator("#parts-build-start").click()
    expect(page.locator("#parts-build-status")).to_contain_text("of 20024 images")
    page.close()
    with workspace.heavy_task("a test", on_wait=waits_at_most(browsers.TIMEOUT / 1000)):
        assert not completed


def test_parts_and_texts_of_a_user_outlive_a_build(page: Page, monkeypatch: pytest.MonkeyPatch):
    same = torch.eye(6, dtype=torch.float64, device="cpu")  # each new cluster lies in the former one of its number
    monkeypatch.setattr(building, "measure_overlap", lambda *arguments: same)
    with gate(monkeypatch, building, "measure_overlap") as end:
        start_build(ready(page))
        end.wait()
        suggest(page, "mouth")
        name(page, "during build")
        suggest(page, "background")
        name_input(page).fill("half typed")
    message(page, "parts kept their names")
    expect(page.locator("#parts-legend")).to_contain_text("during build")
    browsers.wait_for_values(page)
    expect(name_input(page)).to_have_value("half typed")


def test_a_build_is_cancelled_in_its_last_phase(page: Page, monkeypatch: pytest.MonkeyPatch):
    with gate(monkeypatch, building, "measure_overlap") as end:
        start_build(ready(page))
        end.wait()
        page.locator("#parts-build-cancel").click()
        expect(page.locator("#parts-build-cancel")).to_be_disabled()
    expect(page.locator("#parts-build-status")).to_contain_text("The build was cancelled.")
    expect(page.locator("#parts-build-start")).to_be_enabled()
    expect(page.locator("#parts-undo")).to_be_disabled()


def waits_at_most(seconds: float) -> Callable[[str], None]:
    """Return a function that fails if it is called later than this."""
    end = time.monotonic() + seconds

    def check(sentence: str) -> None:
        assert time.monotonic() < end, sentence

    return check
