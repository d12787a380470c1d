# SPDX-License-Identifier: Apache-2.0
"""The gallery of a folder of edits: its files, second galleries, damaged images, journals, memory."""

from __future__ import annotations

import gc
import json
import os
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import run as command
from galleries import contents, data, entry, grid_folder, meta, picture, write_folder
from jobs import grid, job
from jobs import run as run_job
from PIL import Image

from stylefast.gallery import gallery as module
from stylefast.gallery import write_gallery
from stylefast.gallery.previews import CROP, SIZE, Previews


def write(directory: Path):
    return write_gallery(directory, progress=False)


def previews(directory: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (directory / "gallery").rglob("*.jpg")}


def test_a_gallery_of_a_job_shows_every_edit(tmp_path: Path):
    run_job(tmp_path, grid((1, 2), (7, 8), "nose"), originals=True, measure=True)
    written = write(tmp_path)
    assert written == (tmp_path / "gallery.html", 8, 0, True) and len(previews(tmp_path)) == 8
    columns = data(tmp_path)["columns"]
    lines = sorted(map(json.loads, (tmp_path / "manifest.jsonl").read_text().splitlines()), key=lambda x: x["file"])
    assert columns["inside"] == [round(line["locality"]["delta_e_inside"], 4) for line in lines]
    assert columns["shown"] == [1] * 8 and data(tmp_path)["files"] == {}


def test_the_parts_of_a_preview_are_where_the_page_shows_them(tmp_path: Path):
    write_folder(tmp_path, [entry("seed0001", "eyes", "seed0007", box=[0.0, 0.0, 1.0, 1.0])])
    colours = {
        "seed0001_eyes_seed0007_sequential_1.png": "#f00",
        "originals/targets/seed0001.png": "#0f0",
        "originals/references/seed0007.png": "#00f",
    }
    for file, colour in colours.items():
        Image.new("RGB", (40, 40), colour).save(tmp_path / file)
    write(tmp_path)
    with Image.open(next(iter(previews(tmp_path)))) as sheet:
        assert sheet.size == SIZE
        bottom = 2 * CROP[1] + 96
        places = [(192, 144), (192, CROP[1] + 144), (96, bottom), (288, bottom)]
        pixels = [sheet.getpixel(place) for place in places]
    assert [max(range(3), key=pixel.__getitem__) for pixel in pixels] == [0, 1, 0, 2]  # type: ignore[union-attr,arg-type]


def test_a_second_gallery_keeps_the_previews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    grid_folder(tmp_path)
    write(tmp_path)
    before, times = contents(tmp_path), previews(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Previews, "_draw", None)
        write(tmp_path)
    assert contents(tmp_path) == before and previews(tmp_path) == times and len(times) == 24


def test_a_copy_of_the_folder_has_the_same_gallery(tmp_path: Path):
    grid_folder(tmp_path / "first" / "edits")
    shutil.copytree(tmp_path / "first", tmp_path / "second")  # with the times of the files
    write(tmp_path / "first" / "edits")
    write(tmp_path / "second" / "edits")
    assert contents(tmp_path / "first" / "edits") == contents(tmp_path / "second" / "edits")


@pytest.mark.parametrize(
    "changed, n", [("seed0002_eyes_seed0007_sequential_1.png", 1), ("originals/targets/seed0002.png", 8)]
)
def test_previews_of_changed_images_are_made_again(tmp_path: Path, changed: str, n: int):
    grid_folder(tmp_path)
    write(tmp_path)
    before = previews(tmp_path)
    picture(tmp_path / changed, seed=1234)
    write(tmp_path)
    assert sum(time != before[path] for path, time in previews(tmp_path).items()) == n


def test_files_that_are_no_longer_needed_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LENGTH", 10)
    grid_folder(tmp_path)
    write(tmp_path)
    assert sorted(path.name for path in (tmp_path / "gallery" / "data").iterdir()) == ["0000.js", "0001.js", "0002.js"]
    (tmp_path / "gallery" / "data" / "notes.txt").write_text("kept")
    write_folder(tmp_path, [entry("seed0001", "eyes", "seed0007")])
    write(tmp_path)
    assert sorted(path.name for path in (tmp_path / "gallery" / "data").iterdir()) == ["0000.js", "notes.txt"]
    assert len(previews(tmp_path)) == 1


@pytest.mark.parametrize("image_format", ["jpg", "webp"])
def test_edits_in_every_format_are_shown(tmp_path: Path, image_format: str):
    run_job(tmp_path, grid((1,), (7,), "nose"), originals=True, image_format=image_format)
    assert write(tmp_path).n_problems == 0
    assert len(list((tmp_path / "gallery" / "previews" / image_format).iterdir())) == 2


def test_missing_and_damaged_images_are_listed(tmp_path: Path):
    grid_folder(tmp_path)
    (tmp_path / "seed0001_eyes_seed0007_sequential_1.png").unlink()
    (tmp_path / "seed0001_eyes_seed0008_sequential_1.png").write_bytes(b"text")
    whole = (tmp_path / "seed0001_mouth_seed0007_sequential_1.png").read_bytes()
    (tmp_path / "seed0001_mouth_seed0007_sequential_1.png").write_bytes(whole[:60])
    (tmp_path / "originals" / "targets" / "seed0003.png").write_bytes(b"text")
    for _ in range(2):  # a damaged original is reported again
        assert write(tmp_path).n_problems == 4
        problems = dict(meta(tmp_path)["problems"])
        assert problems["seed0001_eyes_seed0007_sequential_1.png"] == "the file is missing"
        assert problems["seed0001_eyes_seed0008_sequential_1.png"] == "the file is not an image"
        assert problems["seed0001_mouth_seed0007_sequential_1.png"].startswith("the file cannot be read")
        assert problems["originals/targets/seed0003.png"] == "the file is not an image"
        assert sum(data(tmp_path)["columns"]["shown"]) == 21


def test_a_pipe_in_place_of_an_image_is_listed(tmp_path: Path):
    grid_folder(tmp_path)
    image = tmp_path / "seed0001_eyes_seed0007_sequential_1.png"
    image.unlink()
    os.mkfifo(image)
    assert write(tmp_path).n_problems == 1 and len(previews(tmp_path)) == 23
    ((file, reason),) = meta(tmp_path)["problems"]
    assert file == image.name and reason.startswith("the file cannot be read: it is a pipe, not a file")


def test_files_outside_of_the_folder_are_not_read(tmp_path: Path):
    picture(tmp_path / "secret.png", 1)
    lines = [entry("seed0001", "eyes", "seed0007"), entry("a", "b", "c", file="../secret.png")]
    lines += [entry("../../secret", "eyes", "seed0007", file="x.png"), entry("a", "b", "c", file="gallery.html")]
    write_folder(tmp_path / "out", lines[:1])
    (tmp_path / "out" / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    picture(tmp_path / "out" / "x.png", 2)
    assert write(tmp_path / "out").n_problems == 2
    assert data(tmp_path / "out")["columns"]["originals"] == [5, 1]  # the second edit has no target, but a reference
    assert len(previews(tmp_path / "out")) == 2


def test_edits_of_an_unfinished_job_are_shown(tmp_path: Path):
    batches = iter(job(tmp_path, grid(), originals=True, measure=True, writers=1))
    for _ in range(4):
        next(batches)
    running = write(tmp_path)  # at most two of the eight images wait for their writer
    batches.close()  # type: ignore[attr-defined]
    stopped = write(tmp_path)
    assert 4 <= running.n_edits <= 8 and stopped.n_edits == 8 and running.n_problems == stopped.n_problems == 0
    assert not (tmp_path / "manifest.jsonl").exists()


def test_shards_without_a_manifest_are_shown(tmp_path: Path):
    run_job(tmp_path, grid(), shard=(0, 2))
    assert write(tmp_path).n_edits == 6


def test_unmeasured_edits_without_originals_are_shown(tmp_path: Path):
    run_job(tmp_path, grid((1,), (7,), "nose"))
    written = write(tmp_path)
    assert (written.n_edits, written.n_problems, written.has_originals) == (2, 0, False)
    columns = data(tmp_path)["columns"]
    assert columns["inside"] == [None, None] and columns["boxes"] == [0, 0] and columns["originals"] == [0, 0]
    assert meta(tmp_path)["withoutTarget"] == 2 and meta(tmp_path)["unmeasured"] == 2
    run_job(tmp_path, grid((1,), (7,), "nose"), originals=True)
    assert write(tmp_path).has_originals and data(tmp_path)["columns"]["originals"] == [5, 5]


def test_folders_without_edits_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="absent is not a folder"):
        write(tmp_path / "absent")
    with pytest.raises(ValueError, match="directory must have edits, as `stylefast edit` writes them, got"):
        write(tmp_path)
    (tmp_path / "manifest.jsonl").write_text("[]\n")
    with pytest.raises(ValueError, match="line 1 is not an entry of an edit"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]


@pytest.fixture
def without_garbage() -> Iterator[None]:
    """Collect garbage so often that it does not count as memory in use."""
    gc.collect()
    gc.freeze()
    before = gc.get_threshold()
    gc.set_threshold(50, 1, 1)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.usefixtures("without_garbage")
def test_memory_does_not_grow_with_the_number_of_edits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LENGTH", 100)
    monkeypatch.setattr(module, "BLOCK", 20)
    monkeypatch.setattr(Previews, "make", lambda self, edit: {})  # 2,000 previews would take half a minute
    peaks = []
    for n in (500, 2000, 500, 2000):  # the first two fill caches
        lines = [entry(f"seed{i:04}", "eyes", f"seed{i:04}") for i in range(n)]
        folder = tmp_path / str(len(peaks))
        write_folder(folder, lines[:1])
        (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        tracemalloc.start()
        assert write(folder).n_edits == n
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert min(peaks[1::2]) < 1.3 * min(peaks[::2])


def test_the_command_names_the_page_and_what_is_missing(tmp_path: Path):
    grid_folder(tmp_path, originals=False)
    (tmp_path / "seed0001_eyes_seed0007_sequential_1.png").unlink()
    text = command("gallery", tmp_path)
    assert f"{tmp_path / 'gallery.html'} shows 24 edits; open it in a browser" in text
    assert "1 image, which is missing or damaged" in text and "with --originals" in text
