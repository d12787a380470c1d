# SPDX-License-Identifier: Apache-2.0
"""Results of batches: what a folder lists, filters, orders, and pictures."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stylefast.app.batching import Batch
from stylefast.app.results import ORDERS, Result, figure, original, picture, read_results, select, thumbnail
from stylefast.app.running import Run
from stylefast.app.workspace import Workspace

BATCH = Batch(targets="1-3", references="7", parts=("nose", "eyes"), epsilon="2", image_format="png", folder="results")


def result(file: str, part: str = "eyes", inside: float | None = 1.0, outside: float | None = 1.0) -> Result:
    return Result(file, "seed0001", "seed0002", part, "ε 1", inside, outside, "toy:sg2", 0.7)


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
    assert (first.target, first.reference, first.query, first.seed) == ("seed0001", "seed0007", "ε 2, ρ 0.1", 1)
    assert first.inside is not None and first.outside is not None and first.network == workspace.generator.name
    assert read_results(folder / "absent") == []


@pytest.mark.parametrize(
    "options, files",
    [
        ({}, "abcd"),
        ({"parts": ["nose"]}, "b"),
        ({"min_inside": 2.0}, "ad"),
        ({"max_outside": 0.5}, "bd"),
        ({"order": "In, high first"}, "adbc"),
        ({"order": "Out, low first"}, "bdac"),
        ({"order": "ratio, high first"}, "bdac"),
    ],
)
def test_results_are_filtered_and_sorted(options: dict[str, Any], files: str):
    assert "".join(each.file for each in select(reversed(RESULTS), **options)) == files


def test_every_order_is_a_field():
    assert all(hasattr(RESULTS[0], name) for name, _ in ORDERS.values())
    assert [each.ratio for each in RESULTS] == [1.5, math.inf, None, 4.0]
    assert [figure(each.ratio) for each in RESULTS] == ["1.50", "∞", "–", "4.00"]


def test_the_original_is_that_of_the_same_network(folder: Path, workspace: Workspace):
    found = read_results(folder)[0]
    assert found.seed is not None
    unedited = original(folder, found, workspace)
    assert np.array_equal(np.asarray(unedited), workspace.image(found.seed))
    assert original(folder, replace(found, truncation=0.1), workspace) is None
    assert original(folder, replace(found, target="ann"), workspace) is None


def test_thumbnails_show_kept_originals_and_missing_images(tmp_path: Path):
    one = result("a.png")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    assert thumbnail(tmp_path, one, 10).size == (10, 10)
    (tmp_path / "originals" / "targets").mkdir(parents=True)
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "originals" / "targets" / "seed0001.png")
    pair = thumbnail(tmp_path, one, 10)
    assert pair.size == (22, 10) and pair.getpixel((0, 0)) == (0, 0, 255) and pair.getpixel((21, 9)) == (255, 0, 0)
    (tmp_path / "a.png").write_bytes(b"damaged")
    assert picture(tmp_path / "a.png") is None
    assert thumbnail(tmp_path, one, 10).getpixel((21, 9)) == (216, 220, 227)
