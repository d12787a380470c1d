# SPDX-License-Identifier: Apache-2.0
"""Results of batches: what a folder lists, filters, orders, and pictures."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from stylefast.app.batching import Batch
from stylefast.app.results import ORDERS, Result, close_up, figure, original, picture, read_results, select, thumbnail
from stylefast.app.results_view import PER_PAGE, _Handlers
from stylefast.app.running import Run
from stylefast.app.workspace import Workspace
from stylefast.gallery.shown import WHOLE, shown_edit

ROOT = Path("absent")
BOX = [0.0, 0.0, 0.4, 0.3]
BATCH = Batch(
    query="sequential",
    targets="1-3",
    references="7",
    parts=("nose", "eyes"),
    epsilon="2",
    image_format="png",
    folder="results",
)


def result(
    file: str,
    part: str = "eyes",
    inside: float | None = 1.0,
    outside: float | None = 1.0,
    *,
    folder: Path = Path("absent"),
) -> Result:
    ratio = inside / outside if inside and outside else None
    fields = {"file": f"{file}.png", "target": "seed0001", "reference": "seed0002", "part": part, "box": BOX}
    locality = {"delta_e_inside": inside, "delta_e_outside": outside, "ratio": ratio}
    return Result(shown_edit(folder, fields | {"locality": locality}), "toy:sg2", 0.7)


RESULTS = [result("a", inside=3.0, outside=2.0), result("b", "nose", 1.0, 0.0), result("c", inside=None, outside=None)]
RESULTS += [result("d", inside=2.0, outside=0.5)]


@pytest.fixture(scope="module")
def folder(workspace: Workspace) -> Path:
    """Folder of a batch that was cancelled after some of its edits."""
    run = Run(BATCH.job(workspace, workspace.catalog), workspace)
    for _ in run.states():
        run.cancel()
    return BATCH.directory(workspace)


def test_results_of_a_cancelled_batch_are_listed(folder: Path, workspace: Workspace):
    found = read_results(folder)
    assert {each.file for each in found} == {path.name for path in folder.glob("*.png")} and found
    first = min(found, key=lambda each: each.file)
    assert (
        first.caption.startswith(f"{first.part} · seed0001 ← seed0007\nsequential, ε 2, ρ 0.1\nΔE inside ")
        and first.seed == 1
    )
    assert first.inside is not None and first.outside is not None and first.network == workspace.generator.name
    assert read_results(folder / "absent") == []


@pytest.mark.parametrize(
    "options, files",
    [
        ({}, "abcd"),
        ({"parts": ["nose"]}, "b"),
        ({"min_inside": 2.0}, "ad"),
        ({"max_outside": 0.5}, "bd"),
        ({"order": "ΔE inside, high first"}, "adbc"),
        ({"order": "ΔE outside, low first"}, "bdac"),
        ({"order": "Ratio, high first"}, "bdac"),
    ],
)
def test_results_are_filtered_and_sorted(options: dict[str, Any], files: str):
    assert "".join(each.edit.stem for each in select(reversed(RESULTS), **options)) == files


def test_every_order_is_a_field():
    assert all(hasattr(RESULTS[0], name) for name, _ in ORDERS.values())
    assert [each.ratio for each in RESULTS] == [1.5, math.inf, None, 4.0]
    assert [figure(each.ratio) for each in RESULTS] == ["1.50", "∞", "–", "4.00"]


def test_the_original_is_that_of_the_same_network(folder: Path, workspace: Workspace):
    found = read_results(folder)[0]
    assert found.seed is not None
    unedited = original(found, workspace)
    assert np.array_equal(np.asarray(unedited), workspace.image(found.seed))
    absent = replace(found, edit=replace(found.edit, originals=(None, None)))
    assert np.array_equal(np.asarray(original(absent, workspace)), workspace.image(found.seed))
    assert original(replace(absent, truncation=0.1), workspace) is None
    other = replace(absent.edit, names=("ann", *absent.edit.names[1:]))
    assert original(replace(absent, edit=other), workspace) is None


def test_thumbnails_show_the_part_before_and_after(tmp_path: Path):
    size = (12, 9)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    assert thumbnail(tmp_path, result("a", folder=tmp_path), size).size == size
    (tmp_path / "originals" / "targets").mkdir(parents=True)
    target = Image.new("RGB", (8, 8), "blue")
    target.paste("white", (6, 6, 8, 8))  # outside of the box
    target.save(tmp_path / "originals" / "targets" / "seed0001.png")
    one = result("a", folder=tmp_path)
    pair = thumbnail(tmp_path, one, size)
    assert pair.size == (26, 9) and pair.getpixel((25, 8)) == (255, 0, 0)
    assert {pair.getpixel((x, y)) for x in range(12) for y in range(9)} == {(0, 0, 255)}
    (tmp_path / "a.png").write_bytes(b"damaged")
    assert picture(tmp_path / "a.png") is None
    os.mkfifo(tmp_path / "pipe.png")
    assert picture(tmp_path / "pipe.png") is None
    assert thumbnail(tmp_path, one, size).getpixel((25, 8)) == (216, 220, 227)


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Gradio keep the files that it serves in a folder of the test."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))


def handlers_of(workspace: Workspace) -> _Handlers:
    return _Handlers(workspace, gr.Gallery(render=False))


def served(update: dict[str, Any]) -> Image.Image:
    return Image.open(update["value"])


def test_an_enlarged_edit_has_close_ups_of_its_part(folder: Path, workspace: Workspace):
    found = read_results(folder)[0]
    event = SimpleNamespace(index=1, value={"caption": found.caption})
    handlers = handlers_of(workspace)
    for box in (WHOLE, (0.25, 0.25, 0.5, 0.5)):
        shown = replace(found, edit=replace(found.edit, box=box))
        _, pair, target, target_part, edit, edit_part = handlers.enlarge(event, folder, [found, shown])
        assert pair["visible"] and target["visible"] and edit["visible"]
        for whole, part, name in ((target, target_part, "Target"), (edit, edit_part, "Edit")):
            assert part["visible"] == (box != WHOLE) and part["label"] == f"{name}, {found.part}"
            assert box == WHOLE or np.array_equal(served(part), close_up(served(whole), shown))
    assert served(edit_part).size == (960, 720) and not np.array_equal(served(edit_part), served(target_part))


@pytest.mark.parametrize("shown", [RESULTS[1:2], RESULTS[:2]])
def test_a_click_on_former_thumbnails_changes_nothing(workspace: Workspace, shown: list[Result]):
    event = SimpleNamespace(index=1, value={"caption": RESULTS[0].caption})
    assert all(update == gr.skip() for update in handlers_of(workspace).enlarge(event, Path("none"), shown))


def test_the_number_of_pages_is_shown_if_there_are_several(workspace: Workspace):
    for n, pages, text in ((PER_PAGE, 1, "24 of 24 edits"), (2 * PER_PAGE + 1, 3, "49 of 49 edits · page 3 of 3")):
        found = [result(str(number)) for number in range(n)]
        shown, status, page, _ = handlers_of(workspace).refilter(Path("none"), found, [], "", "", "File name", 9)
        assert status == text and page["visible"] == (pages > 1)
        assert len(shown) == (1 if pages > 1 else 24)


def test_a_bad_bound_is_an_error_in_the_status(folder: Path, workspace: Workspace):
    found, handlers = read_results(folder), handlers_of(workspace)
    filters = ".9e", "", "File name", 1
    sentence = "ΔE inside at least must be a number, got &#x27;.9e&#x27;."
    kept, status, *rest = handlers.refilter(folder, found, [], *filters)
    assert sentence in status and all(update == gr.skip() for update in (kept, *rest))
    shown, status, pages, gallery = handlers.load(folder.name, None, [], *filters)[-4:]
    assert sentence in status and shown == [] and not pages["visible"] and gallery["value"] == []
    assert len(handlers.refilter(folder, found, [], "0", "", "File name", 1)[0]) == len(found)


def test_parts_that_are_gone_leave_the_filter(folder: Path, workspace: Workspace):
    handlers, (part, *_) = handlers_of(workspace), sorted({each.part for each in read_results(folder)})
    for chosen, kept in (([part], [part]), ([part, "ear"], [part])):
        _, _, update, state, *_, status, _, _ = handlers.load(folder.name, folder, chosen, "", "", "File name", 9)
        assert "edits" in status
        if kept == chosen:
            assert "value" not in update and "__type__" in state  # neither is sent
        else:
            assert update["value"] == state == kept
    _, _, update, state, *_, pages, _ = handlers.load(folder.name, None, [part], "", "", "File name", 9)
    assert update["value"] == state == [] and pages["value"] == 1


def test_a_gallery_of_a_former_folder_is_not_shown(folder: Path, workspace: Workspace):
    handlers = handlers_of(workspace)
    written = handlers.write_page(folder.name)
    text, path = handlers.show_page(written, folder)
    assert text.startswith("gallery.html shows ") and path["value"] == str(folder / "gallery.html")
    for other in (folder.parent, None):
        assert all(set(update) == {"__type__"} for update in handlers.show_page(written, other))
