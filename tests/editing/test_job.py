# SPDX-License-Identifier: Apache-2.0
"""Jobs: file names, images, the manifest, and refused arguments."""

from __future__ import annotations

import hashlib
import io
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from editors import catalog_of, editor_of
from jobs import files, grid, manifest, run
from networks import shared
from PIL import Image

from stylefast.editing import (
    EditBatch,
    EditRenderer,
    Job,
    JobOptions,
    Random,
    Sequential,
    Simultaneous,
    Softmax,
    StyleEditor,
)
from stylefast.editing.download import Download
from stylefast.editing.writer import ImageWriter
from stylefast.generators.toy import toy
from stylefast.locality import Locality

N = 12
KEYS = ["file", "target", "reference", "part", "query", "strength", "network", "job", "bytes", "sha256", "locality"]
KEYS.append("batch_size")


def test_every_edit_has_an_image_and_a_manifest_entry(tmp_path: Path):
    plan = grid(strength=0.5)
    job = Job(editor_of("sg2"), plan, tmp_path, JobOptions(batch_size=5), metadata={"network": "toy"}, progress=False)
    batches = list(job)
    assert [len(batch.edits) for batch in batches] == [5, 5, 2]
    assert (job.total, job.n_written, job.n_existing) == (N, N, 0)
    lines, images = manifest(tmp_path), torch.cat([batch.images for batch in batches])
    assert [line["file"] for line in lines] == [f"{plan.name(edit)}.png" for edit in plan]
    assert sorted(files(tmp_path)) == sorted(["manifest.jsonl", *(line["file"] for line in lines)])
    for edit, line, image in zip(plan, lines, images, strict=True):
        assert list(line) == KEYS
        content = (tmp_path / line["file"]).read_bytes()
        assert line["bytes"] == len(content) and line["sha256"] == hashlib.sha256(content).hexdigest()
        pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(content))))
        assert torch.equal(pixels, (image * 255).round().byte().permute(1, 2, 0))
        named = line["target"], line["reference"], line["part"], line["strength"], line["network"], line["locality"]
        assert named == (f"seed000{edit.target + 1}", "seed0007", edit.part, 0.5, "toy", None)


@pytest.mark.parametrize(
    "query, expected",
    [
        (Sequential(2.0, 0.2, True), {"kind": "sequential", "epsilon": 2, "rho": 0.2, "fractional": True}),
        (Simultaneous(3.0), {"kind": "simultaneous", "strength": 3}),
        (Softmax(0.2, 0.7), {"kind": "softmax", "temperature": 0.2, "threshold": 0.7}),
        (
            Random(Sequential(2.0), 5),
            {"kind": "random", "like": {"epsilon": 2, "rho": 0.1, "fractional": False}, "seed": 5},
        ),
    ],
)
def test_an_entry_holds_the_parameters_of_its_strategy(tmp_path: Path, query: Any, expected: dict[str, Any]):
    run(tmp_path, grid((1,), parts="nose", queries=query))
    (line,) = manifest(tmp_path)
    assert line["query"] == expected and line["strength"] == 1
    assert run(tmp_path, grid((1,), parts="nose", queries=query)).n_existing == 1


def test_locality_is_strict_json(tmp_path: Path):
    values = ([0.1, 0.0], [0.2, math.nan], [1.5, 3.0], [0.5, 0.0], [3.0, math.inf])
    measured = Locality(*(torch.tensor(column, dtype=torch.float64) for column in values))
    batch = EditBatch([], torch.zeros(0, 1), torch.zeros(0, 3, 1, 1), locality=measured)
    first, second = (Download(batch).locality(i) for i in range(2))
    assert first is not None
    assert first == {"in_mse": 0.1, "out_mse": 0.2, "delta_e_inside": 1.5, "delta_e_outside": 0.5, "ratio": 3.0}
    assert second == {"in_mse": 0, "out_mse": None, "delta_e_inside": 3.0, "delta_e_outside": 0, "ratio": None}
    with pytest.raises(ValueError, match="JSON"):
        run(tmp_path, metadata={"strange": math.nan})
    assert files(tmp_path) == {}
    run(tmp_path, measure=True)
    assert all(set(line["locality"]) == set(first) for line in manifest(tmp_path))


@pytest.mark.parametrize("name, kind", [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")])
def test_images_have_the_chosen_format(tmp_path: Path, name: str, kind: str):
    run(tmp_path, image_format=name)
    for line in manifest(tmp_path):
        assert line["file"].endswith(f".{name}") and Image.open(tmp_path / line["file"]).format == kind


def test_few_images_wait_for_the_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gate, most, waiting, lock, write = threading.Event(), 0, 0, threading.Lock(), ImageWriter._write
    make = EditRenderer.__call__

    def counted(self: Any, edits: Any) -> Any:
        nonlocal most, waiting
        with lock:
            waiting += len(edits)
            most = max(most, waiting)
            if most == 3:
                gate.set()
        return make(self, edits)

    def slow(self: ImageWriter, pixels: Any, file: str) -> Any:
        nonlocal waiting
        gate.wait(30)
        with lock:
            waiting -= 1
        return write(self, pixels, file)

    monkeypatch.setattr(ImageWriter, "_write", slow)
    monkeypatch.setattr(EditRenderer, "__call__", counted)
    run(tmp_path, writers=1, batch_size=1)
    assert 3 <= most <= 4


def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path):
    catalog = replace(catalog_of("sg2"), parts={"../x": [0]})
    with pytest.raises(ValueError, match="separators, got 'seed0001_../x_"):
        run(tmp_path / "out", grid(parts="../x"), editor=StyleEditor(shared("sg2"), catalog))
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_images_with_nan_are_refused(tmp_path: Path):
    generator = toy("sg2")
    generator.network.get_submodule("torgbs.3").weight.data[0] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        catalog = replace(catalog_of("sg2"), fingerprint=generator.fingerprint)
        run(tmp_path, grid(generator=generator), editor=StyleEditor(generator, catalog))
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"image_format": "xyz"}, "image_format must be one of 'png', 'jpg', 'webp', got 'xyz'"),
        ({"writers": 0}, "writers must be an integer >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1 or 'auto', got 0"),
        ({"shard": (2, 2)}, r"shard must be \(i, n\) with 0 <= i < n, got \(2, 2\)"),
        ({"roi_mode": "both"}, "mode must be one of .* got 'both'"),
    ],
)
def test_invalid_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_options_of_another_type_are_refused(tmp_path: Path):
    with pytest.raises(TypeError, match="options must be of type JobOptions, such as .*, got dict"):
        Job(editor_of("sg2"), grid(), tmp_path, {"batch_size": 2})  # type: ignore[arg-type]
