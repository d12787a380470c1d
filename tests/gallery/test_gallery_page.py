# SPDX-License-Identifier: Apache-2.0
"""The page of the gallery in a browser, which opens it from the disk."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from galleries import entry, grid_folder, write_folder
from PIL import Image

from stylefast.gallery import gallery as module
from stylefast.gallery import write_gallery

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Open = Callable[..., "Page"]


@pytest.fixture
def open_gallery(browser: Browser) -> Iterator[Open]:
    """Function that writes the gallery of a folder and opens it.

    At the end, the test fails if a page had an error, or has requested anything but a file.
    """
    contexts, errors, foreign = [], [], []

    def open_(directory: Path, width: int = 1280) -> Page:
        write_gallery(directory, progress=False)
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}))
        page = contexts[-1].new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: foreign.append(request.url) if is_foreign(request.url) else None)
        page.goto((directory / "gallery.html").as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not errors and not foreign


def is_foreign(url: str) -> bool:
    return urlsplit(url).scheme not in ("file", "data")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grid_folder(tmp_path_factory.mktemp("gallery") / 'edits & 100% <b>"é')


def figures(page: Page) -> list[list[float]]:
    """Figures of the cards, in their order."""
    values = [float(text) for text in page.locator(".card dd").all_inner_texts()]
    return [values[i : i + 3] for i in range(0, len(values), 3)]


def screenshot(page: Page, selector: str) -> np.ndarray:
    """Pixels [H, W, 3] of the first element that the selector finds."""
    data = page.locator(selector).first.screenshot(animations="disabled")
    return np.array(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def shown_images(page: Page) -> bool:
    """Whether every image of the page has been loaded."""
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    return page.evaluate("[...document.querySelectorAll('#grid img')].every((image) => image.naturalWidth > 0)")


def test_the_page_shows_all_edits_and_sorts_them(open_gallery: Open, folder: Path):
    page = open_gallery(folder)
    assert page.locator("h1").inner_text() == folder.name and shown_images(page)
    assert page.locator("#count").inner_text() == "1–24 of 24 edits" and page.locator(".card").count() == 24
    for column, name in enumerate(("inside", "outside", "ratio")):
        for direction, is_reversed in (("up", False), ("down", True)):
            page.select_option("#sort", f"{name}-{direction}")
            values = [row[column] for row in figures(page)]
            assert values == sorted(values, reverse=is_reversed) and len(set(values)) > 20


def test_filters_reduce_the_edits_and_stay_in_the_address(open_gallery: Open, folder: Path):
    page = open_gallery(folder)
    page.select_option("#part", "eyes")
    assert page.locator("#count").inner_text() == "1–12 of 12 edits (24 without filters)"
    page.select_option("#query", "sequential, ε 0.25, ρ 0.1")
    page.fill("#target", "seed0002")
    page.fill("#reference", "8")
    assert page.locator(".card .what").all_inner_texts() == ["eyes\nseed0002 ← seed0008"]
    page.reload()
    assert page.locator(".card").count() == 1 and page.input_value("#part") == "eyes"
    page.fill("#target", "nobody")
    assert page.locator("#empty").is_visible() and page.locator("#count").inner_text().startswith("0 of 0")
    page.click("button[type=reset]")
    page.wait_for_function("document.querySelectorAll('.card').length === 24")
    page.fill("#inside", "12")
    page.fill("#outside", "1.5")
    expected = [row for row in figures(page) if row[0] >= 12 and row[1] <= 1.5]
    assert figures(page) == expected and 0 < len(expected) < 24


def test_the_slider_shows_the_target_left_of_it(open_gallery: Open, tmp_path: Path):
    line = entry("seed0001", "eyes", "seed0007")
    write_folder(tmp_path, [line])
    Image.new("RGB", (64, 64), "#f00").save(tmp_path / line["file"])
    Image.new("RGB", (64, 64), "#0f0").save(tmp_path / "originals" / "targets" / "seed0001.png")
    page = open_gallery(tmp_path)
    assert shown_images(page)

    def colours() -> tuple[int, int]:
        row = screenshot(page, ".compare")[60]
        return int(row[30].argmax()), int(row[-30].argmax())

    assert colours() == (1, 0)
    slider = page.locator(".compare input").first
    slider.fill("100")
    assert colours() == (1, 1)
    slider.focus()
    page.keyboard.press("Home")
    assert colours() == (0, 0)
    box = slider.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 40)
    assert abs(float(slider.input_value()) - 75) <= 2


def test_the_heat_map_shows_where_the_edit_differs(open_gallery: Open, tmp_path: Path):
    line = entry("seed0001", "eyes", "seed0007", box=[0.0, 0.0, 1.0, 1.0])
    write_folder(tmp_path, [line])
    target = np.full((288, 384, 3), 120, np.uint8)
    edited = target.copy()
    edited[:, 192:] += 32  # the right half is brighter
    Image.fromarray(edited).save(tmp_path / line["file"])
    Image.fromarray(target).save(tmp_path / "originals" / "targets" / "seed0001.png")
    page = open_gallery(tmp_path)
    assert shown_images(page) and not page.locator(".legend").is_visible()
    page.check("[value=heat]")
    pixels = screenshot(page, ".compare")
    left, right = pixels[100, 40], pixels[100, -40]
    # Half of the scale is orange.
    assert left.max() < 30 and right[0] > 190 and right[0] > right[1] > right[2]
    assert page.locator(".legend").is_visible()
    page.check("[value=slider]")
    assert screenshot(page, ".compare")[100, 40].min() > 100


def test_the_large_view_is_moved_by_the_keyboard(open_gallery: Open, folder: Path):
    page = open_gallery(folder)
    page.select_option("#sort", "ratio-down")
    page.locator(".open").first.press("Enter")
    dialog = page.locator("#large")
    assert dialog.is_visible() and page.locator("#back").is_disabled()
    first = page.locator("#large-file").inner_text()
    page.keyboard.press("ArrowRight")
    second = page.locator("#large-file").inner_text()
    assert (
        second != first
        and dialog.locator("dd").all_inner_texts() == page.locator(".card dl").nth(1).locator("dd").all_inner_texts()
    )
    page.wait_for_function("[...document.querySelectorAll('#large img')].every((i) => i.complete && i.naturalWidth)")
    assert "scale(" in (page.locator("#large .edit").get_attribute("style") or "")
    page.uncheck("#zoom")
    assert "none" in (page.locator("#large .edit").get_attribute("style") or "")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#large-file").inner_text() == first
    page.keyboard.press("Escape")
    assert not dialog.is_visible() and page.evaluate("document.activeElement.className") == "open"


def test_pages_are_turned_and_scripts_joined(open_gallery: Open, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LENGTH", 7)
    monkeypatch.setattr(module, "PAGE_SIZE", 10)
    page = open_gallery(folder)
    names = []
    for number in range(3):
        assert page.input_value("#page") == str(number + 1)
        names += page.locator(".edit").evaluate_all("images => images.map((image) => image.src).filter(Boolean)")
        assert shown_images(page)
        if number < 2:
            page.click("#next")
    assert page.locator("#next").is_disabled() and page.locator(".card").count() == 4
    expected = sorted(line["file"] for line in map(json.loads, (folder / "manifest.jsonl").open()))
    assert [name.split("/")[-1].removesuffix(".jpg") + ".png" for name in names] == expected
    page.fill("#page", "2")
    page.keyboard.press("Enter")
    page.reload()
    assert page.locator("#count").inner_text() == "11–20 of 24 edits"


def test_names_from_files_are_text(open_gallery: Open, tmp_path: Path):
    odd = "<img src=x onerror=window.attacked=1>&amp;%41#?é'\""
    lines: list[dict[str, Any]] = [entry("seed 1%20#?", odd, "ref&'\"", file="a%b #?&é.png")]
    lines.append(entry("seed 1%20#?", "part%2F #é&'", "ref&'\""))
    write_folder(tmp_path, lines)
    lines.append(entry("a", "b", "c", file="<script>window.attacked=1<.png"))
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = open_gallery(tmp_path)
    assert shown_images(page) and page.evaluate("window.attacked") is None
    assert odd in page.locator(".card strong").all_inner_texts()
    assert "<script>window.attacked=1<.png: the file is missing" in page.locator("#problems li").all_text_contents()
    page.locator(".open").first.click()
    page.wait_for_function("[...document.querySelectorAll('#large img')].every((i) => i.complete && i.naturalWidth)")


def test_missing_pieces_are_explained(open_gallery: Open, tmp_path: Path):
    lines = [entry("seed0001", part, "seed0007", locality=None, box=None) for part in ("eyes", "mouth")]
    write_folder(tmp_path, lines, originals=False)
    (tmp_path / lines[1]["file"]).write_bytes(b"damaged")
    page = open_gallery(tmp_path)
    notes = page.locator("#notes").inner_text().splitlines()
    assert notes[0].startswith(
        "There are no images of the targets: run the same stylefast edit command with --originals"
    )
    assert notes[1].startswith("The edits were not measured")
    assert page.locator("#problems summary").inner_text() == "1 image cannot be shown"
    assert page.locator(".missing").nth(1).is_visible() and not page.locator(".compare input").first.is_visible()
    assert page.locator(".card dd").all_inner_texts() == ["–"] * 6


@pytest.mark.parametrize("width", [1280, 1920])
def test_nothing_overflows(open_gallery: Open, folder: Path, width: int):
    page = open_gallery(folder, width)
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) == 0
    page.locator(".open").first.click()
    assert page.evaluate("find('large').scrollWidth - find('large').clientWidth") == 0
    box = page.locator("#large").bounding_box()
    assert box is not None and box["width"] <= width and box["height"] <= 900
    assert page.evaluate(
        "[...document.images].filter((image) => image.src && !image.alt).every((image) => image.closest('button'))"
    )
