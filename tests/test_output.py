# SPDX-License-Identifier: Apache-2.0
"""Edits on disk: names, images, the manifest, and what an interruption leaves."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from stylefast.editing import Edit, EditBatch, Random, Sequential, Simultaneous, Softmax
from stylefast.locality import Locality
from stylefast.output import save_edits

NAMES = {"targets": ["seed0001", "seed0002"], "references": ["seed0003"]}
OLD = b"what was there before"


def batch_of(*edits, values=None):
    images = torch.rand(len(edits), 3, 4, 5, generator=torch.Generator().manual_seed(len(edits)))
    measured = None
    if values is not None:
        measured = Locality(*(torch.tensor(column, dtype=torch.float64) for column in values))
    return EditBatch(list(edits), torch.zeros(len(edits), 2), images, locality=measured)


def edit(target=0, query=None, part="nose"):
    return Edit(target, 0, part, query or Sequential())


def manifest(directory):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    lines = (directory / "manifest.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_an_image_and_a_line_for_every_edit(tmp_path):
    batches = [batch_of(edit(0), edit(1)), batch_of(edit(0, part="eyes"))]
    out = tmp_path / "new" / "folder"
    settings = {"network": "toy", "rgb": True}
    passed = list(save_edits(batches, out, **NAMES, strength=0.5, settings=settings))
    assert all(a is b for a, b in zip(passed, batches, strict=True))
    files = [f"{name}_seed0003_sequential_1.png" for name in ("seed0001_nose", "seed0002_nose", "seed0001_eyes")]
    assert names(out) == sorted([*files, "manifest.jsonl"])
    images = torch.cat([batch.images for batch in batches])
    for file, image in zip(files, images, strict=True):
        pixels = torch.from_numpy(np.array(Image.open(out / file)))
        assert torch.equal(pixels, (image * 255).round().byte().permute(1, 2, 0))
    sequential = {"kind": "sequential", "epsilon": 1.0, "rho": 0.1, "fractional": False}
    common = {"reference": "seed0003", "query": sequential, "strength": 0.5, "locality": None} | settings
    assert manifest(out) == [
        {"file": file, "target": target, "part": part} | common
        for file, target, part in zip(
            files, ("seed0001", "seed0002", "seed0001"), ("nose", "nose", "eyes"), strict=True
        )
    ]


@pytest.mark.parametrize(
    "query, expected",
    [
        (Sequential((1.0, 2.0), 0.2, True), {"kind": "sequential", "epsilon": [1, 2], "rho": 0.2, "fractional": True}),
        (Simultaneous(3.0), {"kind": "simultaneous", "strength": 3}),
        (Softmax(0.2, 0.7), {"kind": "softmax", "temperature": 0.2, "threshold": 0.7}),
        (
            Random(Sequential(2.0), 5),
            {"kind": "random", "like": {"epsilon": 2, "rho": 0.1, "fractional": False}, "seed": 5},
        ),
    ],
)
def test_a_line_holds_the_settings_of_its_query(tmp_path, query, expected):
    list(save_edits([batch_of(edit(query=query))], tmp_path, **NAMES))
    (line,) = manifest(tmp_path)
    assert line["query"] == expected and line["strength"] == 1
    assert line["file"] == f"seed0001_nose_seed0003_{query.name}.png"


def test_locality_is_strict_json(tmp_path):
    values = ([0.1, 0.0], [0.2, math.nan], [1.5, 3.0], [0.5, 0.0], [3.0, math.inf])
    list(save_edits([batch_of(edit(0), edit(1), values=values)], tmp_path, **NAMES))
    first, second = (line["locality"] for line in manifest(tmp_path))
    assert first == {"in_mse": 0.1, "out_mse": 0.2, "delta_e_inside": 1.5, "delta_e_outside": 0.5, "ratio": 3.0}
    assert second == {"in_mse": 0, "out_mse": None, "delta_e_inside": 3.0, "delta_e_outside": 0, "ratio": None}
    with pytest.raises(ValueError, match="JSON"):
        list(save_edits([batch_of(edit())], tmp_path, **NAMES, strength=math.nan))
    assert len(manifest(tmp_path)) == 2


@pytest.mark.parametrize("suffix, kind", [(".jpg", "JPEG"), (".webp", "WEBP")])
def test_the_suffix_names_the_format(tmp_path, suffix, kind):
    list(save_edits([batch_of(edit())], tmp_path, **NAMES, suffix=suffix))
    (line,) = manifest(tmp_path)
    assert line["file"].endswith(suffix) and Image.open(tmp_path / line["file"]).format == kind


def test_an_image_is_there_when_its_batch_passes(tmp_path):
    saved = save_edits(iter([batch_of(edit(0)), batch_of(edit(1))]), tmp_path, **NAMES)
    next(saved)
    assert (tmp_path / "seed0001_nose_seed0003_sequential_1.png").exists()
    assert (
        not (tmp_path / "manifest.jsonl").exists()
        and not (tmp_path / "seed0002_nose_seed0003_sequential_1.png").exists()
    )


def failing():
    yield batch_of(edit(0))
    raise RuntimeError("no more memory")


@pytest.mark.parametrize("old", [False, True])
def test_an_interruption_leaves_whole_images_and_the_older_manifest(tmp_path, old):
    if old:
        (tmp_path / "manifest.jsonl").write_bytes(OLD)
    with pytest.raises(RuntimeError, match="no more memory"):
        list(save_edits(failing(), tmp_path, **NAMES))
    whole = "seed0001_nose_seed0003_sequential_1.png"
    assert names(tmp_path) == ["manifest.jsonl"] * old + [whole]
    Image.open(tmp_path / whole).load()
    assert not old or (tmp_path / "manifest.jsonl").read_bytes() == OLD


def test_a_reader_who_stops_leaves_no_manifest(tmp_path):
    saved = save_edits([batch_of(edit(0)), batch_of(edit(1))], tmp_path, **NAMES)
    next(saved)
    saved.close()
    assert names(tmp_path) == ["seed0001_nose_seed0003_sequential_1.png"]


def test_two_edits_of_one_name_are_refused_before_the_first_is_overwritten(tmp_path):
    batches = [batch_of(edit()), batch_of(edit(query=Sequential(rho=0.5)), edit(1))]
    saved = save_edits(batches, tmp_path, **NAMES)
    next(saved)
    file = tmp_path / "seed0001_nose_seed0003_sequential_1.png"
    before = file.read_bytes()
    with pytest.raises(ValueError, match=f"got {file.name} twice"):
        next(saved)
    assert file.read_bytes() == before and names(tmp_path) == [file.name]


@pytest.mark.parametrize("who", ["targets", "references"])
def test_names_that_repeat_are_refused_before_anything_is_written(tmp_path, who):
    file = tmp_path / "a_nose_a_sequential_1.png"
    file.write_bytes(OLD)
    called = {"targets": ["a"], "references": ["a"]} | {who: ["a", "a"]}
    with pytest.raises(ValueError, match=f"{who} must have different names, got a, a"):
        list(save_edits([batch_of(edit())], tmp_path, **called))
    assert file.read_bytes() == OLD and names(tmp_path) == [file.name]


def test_names_that_lead_out_of_the_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="separators"):
        list(save_edits([batch_of(edit(part="/../../x"))], tmp_path / "out", **NAMES))
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == []


def test_an_image_whose_writing_fails_half_way_leaves_the_old_one(tmp_path, monkeypatch):
    file = tmp_path / "seed0001_nose_seed0003_sequential_1.png"
    file.write_bytes(OLD)

    def half(image, path, **options):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="no space left"):
        list(save_edits([batch_of(edit())], tmp_path, **NAMES))
    assert file.read_bytes() == OLD and names(tmp_path) == [file.name]


def test_images_with_nan_and_unknown_formats_are_refused(tmp_path):
    bad = batch_of(edit())
    bad.images[0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        list(save_edits([bad], tmp_path, **NAMES))
    with pytest.raises(ValueError, match="extension"):
        list(save_edits([batch_of(edit())], tmp_path, **NAMES, suffix=".xyz"))
    assert names(tmp_path) == []
