# SPDX-License-Identifier: Apache-2.0
"""The workspace: catalogs that are missing, built or changed, cached images, heavy tasks one at a time."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from editors import catalog_of
from networks import shared

from stylefast import Catalog
from stylefast.app import workspace as workspaces
from stylefast.app.memo import Memo
from stylefast.app.workspace import ChangedFileError, Workspace
from stylefast.core.checks import check_choice
from stylefast.generators.engines.engine import NAMES
from stylefast.io.images import to_uint8


def open_toy(folder: Path) -> Workspace:
    catalog_of("sg2").save(folder / "toy.safetensors")
    return Workspace(shared("sg2"), folder / "toy.safetensors", network="toy:sg2", truncation=0.5)


def test_a_missing_catalog_names_the_command_that_builds_it(tmp_path: Path):
    path = tmp_path / "my.safetensors"
    with pytest.raises(FileNotFoundError) as caught:
        Workspace.open("toy:sg2", path)
    assert f"`stylefast catalog build --network toy:sg2 --out {path}`" in str(caught.value)
    assert not path.exists()


def test_the_default_catalog_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STYLEFAST_CACHE", str(tmp_path))
    monkeypatch.setattr(workspaces, "DEFAULT_IMAGES", 6)
    monkeypatch.setattr(workspaces, "DEFAULT_MEASURED", 2)
    opened = Workspace.open("toy:sg2", engine="eager", progress=False)
    assert opened.catalog_path.parent == tmp_path and opened.catalog.provenance["seeds"] == "0-5"
    assert opened.catalog.provenance["truncation"] == 0.7 and opened.catalog.parts == {}
    written = opened.catalog_path.stat().st_mtime_ns
    assert Workspace.open("toy:sg2", engine="eager").digest() == opened.digest()
    assert opened.catalog_path.stat().st_mtime_ns == written


def test_images_are_those_of_the_generator(tmp_path: Path):
    workspace, generator = open_toy(tmp_path), shared("sg2")
    w = generator.latents([3], truncation=0.5)
    expected = to_uint8(generator.synthesize(generator.styles(w), w))[0]
    assert np.array_equal(workspace.image(3), expected) and workspace.image(3) is workspace.image(3)
    assert torch.equal(workspace.w(3), w) and torch.equal(workspace.styles(3), generator.styles(w))
    assert torch.equal(workspace.w(None)[0], generator.w_mean)
    assert not np.array_equal(workspace.image(None), expected)
    assert not workspace.image(None).flags.writeable


@pytest.mark.parametrize(
    "name, first_line, engines",
    [
        ("", None, ["auto"]),
        ("manifest.jsonl", {"file": "a.jpg", "engine": "native"}, ["native"]),
        ("manifest.jsonl", {"file": "a.jpg"}, ["eager"]),
        ("manifest.0001.jsonl", {"journal": "0" * 24, "settings": {"engine": "openvino"}}, ["openvino"]),
        ("manifest.jsonl", {"file": "a.jpg", "engine": "gone"}, ["gone", "auto"]),
        ("manifest.jsonl", [], ["auto"]),
    ],
)
def test_a_page_keeps_the_engine_of_the_latest_batch(tmp_path: Path, name: str, first_line: Any, engines):
    used = []

    def use_engine(engine: str) -> None:
        used.append(engine)
        check_choice("engine", engine, NAMES)

    for folder, line in (("former", {"file": "a.jpg", "engine": "compile"}), ("latest", first_line)) if name else ():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(f"{json.dumps(line)}\n")
        os.utime(tmp_path / folder / name, (0, folder == "latest"))
    workspaces.choose_engine(SimpleNamespace(use_engine=use_engine), tmp_path)  # type: ignore[arg-type]
    assert used == engines


@pytest.mark.parametrize("seed", [-1, 1 << 32, 1.5, "1"])
def test_bad_seeds_are_refused(tmp_path: Path, seed: int):
    with pytest.raises(ValueError, match=r"seeds must be integers in \[0, 2\*\*32\)"):
        open_toy(tmp_path).image(seed)


def test_a_changed_file_is_replaced_only_on_request(tmp_path: Path):
    workspace = open_toy(tmp_path)
    catalog, digest = workspace.read_catalog()
    mine, theirs = (replace(catalog, parts={name: [0]}) for name in ("mine", "theirs"))
    theirs.save(workspace.catalog_path)
    with pytest.raises(ChangedFileError, match=r"toy\.safetensors was not saved, because .* has changed it"):
        workspace.save_catalog(mine, digest)
    assert Catalog.load(workspace.catalog_path).parts == {"theirs": [0]}
    assert workspace.save_catalog(mine, None) == workspace.digest()
    assert Catalog.load(workspace.catalog_path).parts == {"mine": [0]}


def test_heavy_tasks_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workspaces, "WAIT", 0.01)
    workspace, events, waits = open_toy(tmp_path), [], threading.Event()

    def second() -> None:
        with workspace.heavy_task("the second", lambda sentence: (events.append(sentence), waits.set())):
            events.append("second runs")

    with workspace.heavy_task("the first"):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(10)
        events.append("first ends")
    thread.join(10)
    assert events[0] == "Waiting for the first." and events[-1] == "second runs"
    assert events.index("first ends") < events.index("second runs")


def test_a_task_that_gives_up_while_it_waits_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workspaces, "WAIT", 0.01)
    workspace = open_toy(tmp_path)

    def give_up(sentence: str) -> None:
        raise InterruptedError(sentence)

    with (
        workspace.heavy_task("the first"),
        pytest.raises(InterruptedError, match="first"),
        workspace.heavy_task("the second", give_up),
    ):
        pytest.fail("two heavy tasks run at the same time")
    with workspace.heavy_task("the third", give_up):
        pass


def test_a_memo_keeps_recent_values_and_no_errors():
    calls = []

    def compute(x: int) -> int:
        calls.append(x)
        if x < 0:
            raise ValueError("x must be >= 0")
        return x * x

    memo = Memo(compute, 2)
    assert [memo(x) for x in (1, 2, 1, 3, 1, 2)] == [1, 4, 1, 9, 1, 4]
    assert calls == [1, 2, 3, 2]
    for _ in range(2):
        with pytest.raises(ValueError, match="x must be"):
            memo(-1)
    assert calls.count(-1) == 2


def test_threads_wait_for_one_computation():
    calls, started, go = [], threading.Event(), threading.Event()

    def compute(x: int) -> object:
        calls.append(x)
        started.set()
        assert go.wait(10)
        return object()

    memo, results = Memo(compute, 2), []
    threads = [threading.Thread(target=lambda: results.append(memo(1))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert started.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert calls == [1] and len(results) == 4 and len(set(map(id, results))) == 1
