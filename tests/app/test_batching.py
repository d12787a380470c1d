# SPDX-License-Identifier: Apache-2.0
"""Batches of the page without a browser: the equal command, files of pairs, runs, and predicted times."""

from __future__ import annotations

import shlex
import shutil
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from commands import run as run_command

from stylefast.app import running
from stylefast.app.batch_tab import Form
from stylefast.app.batching import Batch, count_existing, is_saved, write_pairs
from stylefast.app.running import Run, Stopwatch, duration, n_images
from stylefast.app.workspace import Workspace
from stylefast.editing import Edit, EditBatch, Pairs, StyleEditor
from stylefast.editing.renderer import EditRenderer

SMALL = Batch("1,2", "7", ("nose", "eyes"), query="sequential", epsilon="0.5, 2", rho=0.2, folder="small")


def make(batch: Batch, workspace: Workspace) -> running.Progress:
    """Make the edits of a batch; return the last state."""
    return list(Run(batch.job(workspace, workspace.catalog), workspace).states())[-1]


def digests(folder: Path) -> dict[str, str]:
    paths = [*folder.rglob("*seed*"), *folder.glob("manifest.jsonl")]
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in paths}


def run_in(folder: Path, command: str) -> None:
    """Run an exported command with another folder for the images."""
    words = shlex.split(command)
    assert words[:2] == ["stylefast", "edit"]
    words[words.index("--outdir") + 1] = str(folder)
    run_command(*words[1:])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"query": "adaptive"},
        {"query": "softmax", "image_format": "webp", "strength": -1.5, "batch_size": 2},
        {"epsilon": "1", "image_format": "png", "pairs": "target,reference,part,epsilon\n3,8,mouth,\n4,8,eyes,0.3\n"},
    ],
    ids=["grid", "adaptive", "softmax", "pairs"],
)
def test_the_command_makes_the_same_bytes(changes: dict[str, Any], workspace: Workspace, tmp_path: Path):
    if "pairs" in changes:
        (tmp_path / "my pairs.csv").write_text(changes["pairs"])
        changes = changes | {"pairs": tmp_path / "my pairs.csv"}
    batch = replace(SMALL, folder=f"same bytes {len(changes)}", **changes)
    state = make(batch, workspace)
    run_in(tmp_path / "shell", batch.command(workspace))
    made = digests(batch.directory(workspace))
    assert state.is_complete and state.n_done == state.n_edits == sum("/" not in name for name in made) - 1
    assert made == digests(tmp_path / "shell")


def test_numbers_of_the_form_are_floats():
    form = "Grid of seeds", "1", "7", ["nose"], None, "sequential", "1", 0, 1, "form", "png", 1
    batch = Form.batch(*form)
    assert (repr(batch.rho), repr(batch.strength), repr(batch.batch_size)) == ("0.0", "1.0", "1")
    assert repr(batch.strategies()[0]).startswith("Sequential(epsilon=1.0, rho=0.0,")


def test_the_command_is_quoted_for_a_shell(workspace: Workspace):
    command = replace(SMALL, parts=("the 'eyes'", "$HOME"), targets="1, 4-6").command(workspace)
    words = shlex.split(command)
    assert words[words.index("--parts") + 1] == "the 'eyes',$HOME"
    assert words[words.index("--seeds") + 1] == "1,4-6" and "\n" not in command


def test_exported_pairs_are_the_edits_of_the_plan(workspace: Workspace, tmp_path: Path):
    for batch in (SMALL, replace(SMALL, query="simultaneous", strength=0.1)):
        plan = batch.job(workspace, workspace.catalog).plan
        write_pairs(plan, tmp_path / "pairs.csv")
        again = Pairs(tmp_path / "pairs.csv", plan.targets, plan.references)
        StyleEditor(workspace.generator, workspace.catalog).check(again)
        assert list(again) == list(plan) and len(again) > 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"targets": "a"}, "targets must look like 0,1,4-6"),
        ({"references": ""}, "references must look like 0,1,4-6"),
        ({"parts": ("ears",)}, "'ears'"),
        ({"epsilon": "1,x"}, "epsilon must be numbers"),
        ({"rho": 2.0}, "rho must be"),
        ({"folder": "../up"}, "folder must be a name"),
        ({"folder": ""}, "folder must be a name"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"pairs": Path("absent.csv"), "epsilon": "1"}, "absent.csv"),
        ({"pairs": Path("a.csv")}, "epsilon must be one budget"),
    ],
)
def test_a_batch_that_cannot_be_made_is_refused(changes: dict[str, Any], message: str, workspace: Workspace):
    with pytest.raises((ValueError, OSError), match=message):
        replace(SMALL, **changes).job(workspace, workspace.catalog)


def test_an_error_names_the_uploaded_file_and_keeps_no_copy(workspace: Workspace, tmp_path: Path):
    (tmp_path / "bad.csv").write_text("target,reference,part\n1,7,ears\n")
    with pytest.raises(ValueError, match=r"^bad\.csv, line 2: "):
        Batch(pairs=tmp_path / "bad.csv").job(workspace, workspace.catalog)
    kept = {*workspace.outdir.glob("pairs-*")}
    (tmp_path / "bad.csv").write_text("target,reference,part\n1,7,eyes\n3,7,eyes\n")
    batch = Batch(pairs=tmp_path / "bad.csv")
    batch.job(workspace, workspace.catalog)
    assert {*workspace.outdir.glob("pairs-*")} == kept
    words = shlex.split(batch.command(workspace))
    assert Path(words[words.index("--pairs") + 1]).read_bytes() == (tmp_path / "bad.csv").read_bytes()


def test_changed_parts_are_not_saved(workspace: Workspace):
    assert is_saved(workspace, workspace.catalog)
    assert not is_saved(workspace, replace(workspace.catalog, parts={"eyes": [0]}))
    assert not is_saved(workspace, replace(workspace.catalog, contributions=2 * workspace.catalog.contributions))


def test_a_cancelled_run_is_resumed_to_the_same_bytes(workspace: Workspace):
    whole, halves = (replace(SMALL, targets="1-6", folder=name) for name in ("whole", "halves"))
    make(whole, workspace)
    run = Run(halves.job(workspace, workspace.catalog), workspace)
    states = []
    for state in run.states():
        states.append(state)
        run.cancel()
    assert 0 < states[-1].n_done < 24 and not states[-1].is_complete
    assert len([*halves.directory(workspace).glob("*seed*")]) == states[-1].n_done
    assert count_existing(halves.job(workspace, workspace.catalog)) == states[-1].n_done
    assert make(halves, workspace).is_complete
    assert digests(halves.directory(workspace)) == digests(whole.directory(workspace))


def test_a_run_waits_for_other_tasks_and_can_give_up(workspace: Workspace):
    run = Run(replace(SMALL, folder="waiting").job(workspace, workspace.catalog), workspace)
    with workspace.heavy_task("a long build"):
        for state in run.states():
            if state.message:
                run.cancel()
    assert state.message == "Waiting for a long build." and state.n_done == 0


def test_an_error_of_a_run_reaches_the_page(workspace: Workspace):
    job = replace(SMALL, folder="error").job(workspace, workspace.catalog)
    other = replace(SMALL, folder="error", strength=0.5)
    make(other, workspace)
    for file in other.directory(workspace).glob("*.jsonl"):
        shutil.copy(file, file.with_suffix(".bak"))
        file.write_text("{}\n")
    with pytest.raises(ValueError, match="manifest.jsonl, line 1 is not an entry"):
        list(Run(job, workspace).states())
    assert make(replace(SMALL, folder="later"), workspace).is_complete  # the lock of heavy tasks is free


def test_the_time_is_measured_once_and_grows_with_edits(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    measured, measure = [], running._measure
    monkeypatch.setattr(running, "_measure", lambda *arguments: measured.append(measure(*arguments)) or measured[-1])
    stopwatch, catalog = Stopwatch(workspace), workspace.catalog
    few = stopwatch.predict(SMALL, SMALL.job(workspace, catalog))
    many = replace(SMALL, targets="1-100")
    per_edit, per_image = measured[0]
    assert per_edit > 0 and few == pytest.approx(8 * per_edit + 3 * per_image)
    assert stopwatch.predict(many, many.job(workspace, catalog)) == pytest.approx(400 * per_edit + 101 * per_image)
    assert len(measured) == 1


def test_only_equal_images_that_exist_are_counted(workspace: Workspace):
    batch = replace(SMALL, folder="counted")
    assert count_existing(batch.job(workspace, workspace.catalog)) == 0
    make(batch, workspace)
    assert count_existing(batch.job(workspace, workspace.catalog)) == 8
    assert count_existing(replace(batch, targets="2-4").job(workspace, workspace.catalog)) == 4
    assert count_existing(replace(batch, strength=2.0).job(workspace, workspace.catalog)) == 0  # other names
    parts = {**workspace.catalog.parts, "nose": workspace.catalog.parts["mouth"]}
    job = batch.job(workspace, replace(workspace.catalog, parts=parts))
    with pytest.raises(ValueError, match="images of the same names with other settings.*; choose another folder$"):
        count_existing(job)
    next(batch.directory(workspace).glob("*eyes*")).unlink()
    job = batch.job(workspace, workspace.catalog)
    assert count_existing(job) == 7
    stopwatch = Stopwatch(workspace)
    assert stopwatch.predict(batch, job, 7) == pytest.approx(stopwatch.predict(batch, job) / 8)
    assert stopwatch.predict(batch, job, 8) == 0


def test_the_preparation_of_the_generator_is_not_predicted(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    render, calls = EditRenderer.__call__, []

    def prepare_first(self: EditRenderer, edits: list[Edit]) -> EditBatch:
        time.sleep(0 if calls else 2)
        calls.append(edits)
        return render(self, edits)

    monkeypatch.setattr(EditRenderer, "__call__", prepare_first)
    per_edit, per_image = running._measure(SMALL.job(workspace, workspace.catalog), SMALL)
    assert 0 < per_edit < 0.5 and 0 < per_image < 0.5


def test_images_of_pairs_are_counted_once(workspace: Workspace, tmp_path: Path):
    (tmp_path / "pairs.csv").write_text("target,reference,part\n1,7,eyes\n1,8,eyes\n2,7,nose\n")
    batch = Batch(pairs=tmp_path / "pairs.csv")
    assert n_images(batch.job(workspace, workspace.catalog).plan) == 4


@pytest.mark.parametrize(
    "seconds, text", [(0.2, "1 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h"), (864_000, "10 days")]
)
def test_durations_are_readable(seconds: float, text: str):
    assert duration(seconds) == text
