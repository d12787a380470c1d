# SPDX-License-Identifier: Apache-2.0
"""`stylefast edit --engine`: the engine that "auto" takes on resume, and the batch size of engines."""

from dataclasses import replace

import pytest
from commands import run
from editors import catalog_of
from fake_engines import use_fakes
from jobs import manifest

from stylefast.generators.engines import ENGINES
from stylefast.generators.engines.switch import EngineSwitch


def edit(folder, *options):
    """Run `stylefast edit` on seed 1 of a toy network, or on other seeds. Return the manifest."""
    path = folder.parent / "toy.safetensors"
    catalog_of("sg2").save(path)
    images = ["--seeds", "1", "--references", "2", "--parts", "eyes"]
    run("edit", "--catalog", path, "--network", "toy:sg2", *images, "--outdir", folder, *options)
    return manifest(folder)


def test_auto_takes_the_engine_of_the_images_in_the_folder(monkeypatch, tmp_path):
    use_fakes(monkeypatch, native=0.0)
    edit(tmp_path / "native", "--engine", "native")
    edit(tmp_path / "eager")
    auto = ("--engine", "auto", "--seeds", "1,2")
    monkeypatch.setattr(EngineSwitch, "_time", lambda self, engines, n: [2.0, 1.0])
    assert [line.get("engine") for line in edit(tmp_path / "eager", *auto)] == [None, None]
    assert [line["engine"] for line in edit(tmp_path / "new", *auto)] == ["native", "native"]
    monkeypatch.setattr(EngineSwitch, "_time", lambda self, engines, n: [1.0, 1.0])
    assert [line["engine"] for line in edit(tmp_path / "native", *auto)] == ["native", "native"]
    assert not any("engine" in line for line in edit(tmp_path / "other", *auto))
    monkeypatch.setitem(ENGINES, "native", replace(ENGINES["native"], refusal=lambda target: "it is gone"))
    message = "got native: it is gone; the images of this job in .* were made with it: .*name another engine"
    with pytest.raises(AssertionError, match=message):
        edit(tmp_path / "native", *auto)


def test_auto_takes_the_engine_of_the_same_edits_first(monkeypatch, tmp_path):
    use_fakes(monkeypatch, native=0.0)
    edit(tmp_path / "out", "--engine", "native")
    edit(tmp_path / "out", "--engine", "eager", "--seeds", "3")
    for seeds in ("1", "4,1", "3"):
        lines = edit(tmp_path / "out", "--engine", "auto", "--seeds", seeds)
    assert [line.get("engine") for line in lines] == ["native", None, "native"]


def test_the_command_line_gives_engines_the_batch_size(monkeypatch, tmp_path):
    use_fakes(monkeypatch, compile=0.0)
    sizes = []
    make = ENGINES["compile"].make
    kind = replace(ENGINES["compile"], make=lambda target: sizes.append(target.batch_size) or make(target))
    monkeypatch.setitem(ENGINES, "compile", kind)
    edit(tmp_path / "three", "--engine", "compile", "--batch-size", "3")
    edit(tmp_path / "auto", "--engine", "compile")
    edit(tmp_path / "three", "--engine", "compile", "--seeds", "1,4")
    assert sizes == [3, None, 3]
