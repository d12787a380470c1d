# SPDX-License-Identifier: Apache-2.0
"""Several jobs in one folder, one after the other or at the same time, and files of the user beside them."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from editors import catalog_of, editor_of
from forked import SECONDS, in_ranks, start
from jobs import files, grid, job, journal, manifest, run
from networks import shared

from stylefast import Catalog
from stylefast.editing import EditRenderer, Grid, SeedLatents, StyleEditor
from stylefast.io.private import new_token

N = 12
FIRST, SECOND = (1, 2, 3), (4, 5)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("catalog") / "toy.safetensors"
    catalog_of("sg2").save(path)
    return path


@pytest.fixture(scope="module")
def expected_files(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> dict[str, bytes]:
    """The files of the two plans, one after the other."""
    directory = tmp_path_factory.mktemp("whole")
    run(directory, grid(FIRST))
    run(directory, grid(SECOND))
    return files(directory)


def truncated(truncation: float) -> Grid:
    """The grid of 12 edits with another truncation of the targets."""
    targets = SeedLatents(shared("sg2"), [1, 2, 3], truncation=truncation)
    return Grid(targets, SeedLatents(shared("sg2"), [7]), ("nose", "eyes"), grid().queries)


def test_a_folder_lists_the_images_of_all_jobs(tmp_path: Path, expected_files: dict[str, bytes]):
    run(tmp_path, grid(SECOND))
    assert [line["file"] for line in manifest(tmp_path)][0].startswith("seed0004_nose")  # the order of the plan
    run(tmp_path, grid(FIRST))
    names = [line["file"] for line in manifest(tmp_path)]
    assert names == sorted(name for name in files(tmp_path) if name.endswith(".png")) and len(names) == 20
    assert files(tmp_path) == expected_files
    assert run(tmp_path, grid(FIRST)).n_existing == N and files(tmp_path) == expected_files
    assert run(tmp_path, grid((2,))).n_existing == 4 and files(tmp_path) == expected_files


@pytest.mark.parametrize("resume", [True, False])
def test_images_with_other_settings_are_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool):
    run(tmp_path, truncated(0.7), metadata={"truncation": 0.7, "note": "x"})
    before = files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(EditRenderer, "__call__", None)
        message = (
            f"got {tmp_path}/seed0001_nose_seed0007_sequential_2.png: its truncation is 0.7, not 1.2, its note is "
            '"x", not missing; choose another folder, or replace them'
        )
        with pytest.raises(ValueError, match=message):
            run(tmp_path, truncated(1.2), metadata={"truncation": 1.2}, resume=resume)
        with pytest.raises(ValueError, match="its generator, catalog, .* or latents are other ones; choose"):
            run(tmp_path, truncated(1.2), metadata={"truncation": 0.7, "note": "x"}, resume=resume)
    assert files(tmp_path) == before
    replaced = run(tmp_path, truncated(1.2), metadata={"truncation": 1.2}, resume=resume, overwrite=True)
    assert (replaced.n_written, len(manifest(tmp_path))) == (N, N) and files(tmp_path).keys() == before.keys()
    assert all(line["truncation"] == 1.2 for line in manifest(tmp_path)) and files(tmp_path) != before


def test_the_first_image_that_would_be_replaced_is_named(tmp_path: Path):
    run(tmp_path, grid((3,)), metadata={"note": 1})
    run(tmp_path, grid((2,)), metadata={"note": 2})
    with pytest.raises(ValueError, match="seed0003_nose_seed0007_sequential_2.png: its note is 1, not 2"):
        run(tmp_path, metadata={"note": 2})
    assert run(tmp_path, metadata={"note": 2}, overwrite=True).n_existing == 4
    for path in tmp_path.glob("seed0003*"):
        path.unlink()
    assert run(tmp_path, metadata={"note": 3}, overwrite=True).n_written == N
    for path in tmp_path.glob("seed000*"):
        path.unlink()
    assert run(tmp_path, metadata={"note": 4}).n_written == N  # there is nothing to replace


def test_names_of_a_damaged_manifest_are_quoted_briefly(tmp_path: Path):
    run(tmp_path)
    path = tmp_path / "manifest.jsonl"
    for name in ("x" * 5000, "\\u001b[31m\\ud800"):
        text = path.read_text("utf-8")
        path.write_text(text.replace('"target"', f'"{name}"'), "utf-8")
        with pytest.raises(ValueError, match="must not have images of the same names with other settings") as error:
            run(tmp_path)
        message = str(error.value)
        assert len(message) < len(str(tmp_path)) + 2000 and message.isprintable()
        path.write_text(text, "utf-8")


def test_other_settings_with_other_names_share_a_folder(tmp_path: Path):
    run(tmp_path, grid(parts="nose"), metadata={"note": 1})
    run(tmp_path, grid(parts="eyes"), metadata={"note": 2})
    assert [line["note"] for line in manifest(tmp_path)] == [2, 2, 1, 1] * 3
    assert run(tmp_path, grid(parts="nose"), metadata={"note": 1}).n_written == 0


def test_a_measured_image_keeps_its_locality(tmp_path: Path):
    run(tmp_path)
    assert run(tmp_path, measure=True).n_written == N
    before = files(tmp_path)
    assert run(tmp_path).n_written == 0 and files(tmp_path) == before
    assert all(line["locality"] for line in manifest(tmp_path))


def test_a_running_job_keeps_its_journal(tmp_path: Path, expected_files: dict[str, bytes]):
    batches = iter(job(tmp_path, grid(FIRST)))
    for _ in range(3):
        next(batches)
    run(tmp_path, grid(SECOND))
    assert journal(tmp_path).stat().st_size > 0 and len(manifest(tmp_path)) >= 8 + 2
    for _ in batches:
        pass
    assert files(tmp_path) == expected_files


def test_two_jobs_with_other_settings_do_not_run_at_once(tmp_path: Path):
    batches = iter(job(tmp_path, metadata={"note": 1}))
    next(batches)
    with pytest.raises(ValueError, match="at the same time, got .*, where a running job .*: its note is 1, not 2"):
        run(tmp_path, grid(SECOND), metadata={"note": 2}, overwrite=True)
    run(tmp_path, grid(SECOND), metadata={"note": 1})
    for _ in batches:
        pass
    assert len(manifest(tmp_path)) == 20
    run(tmp_path, grid((8,)), metadata={"note": 2})


def loaded(catalog: Path) -> StyleEditor:
    """The editor with a saved catalog, because a catalog that another process builds may have other roundings."""
    generator = shared("sg2")
    return StyleEditor(generator, Catalog.load(catalog, generator))


def delayed(directory: Path, catalog: Path, plan: tuple[int, ...], seed: int) -> None:
    """Run a job with pauses."""
    rng = random.Random(seed)
    for _ in job(directory, grid(plan), editor=loaded(catalog)):
        time.sleep(rng.random() / 10)


@pytest.mark.parametrize("plans", [(FIRST, FIRST, FIRST, SECOND), (SECOND, FIRST)])
def test_processes_at_once_make_the_same_files(
    tmp_path: Path, catalog: Path, expected_files: dict[str, bytes], plans: Any
):
    processes = [start(delayed, tmp_path, catalog, plan, seed) for seed, plan in enumerate(plans)]
    for process in processes:
        process.join(SECONDS)
    assert [process.exitcode for process in processes] == [0] * len(plans)
    assert files(tmp_path) == expected_files


def test_the_entry_of_the_image_written_last_counts(tmp_path: Path):
    batches = iter(job(tmp_path))
    for _ in range(6):
        next(batches)
    run(tmp_path, batch_size=1, resume=False)  # rounds differently
    lines = manifest(tmp_path)
    for _ in batches:
        pass
    assert run(tmp_path, verify=True).n_existing == N
    assert [line["sha256"] for line in manifest(tmp_path)] == [line["sha256"] for line in lines]


def killed(directory: Path, catalog: Path) -> None:
    batches = iter(job(directory, grid(SECOND), editor=loaded(catalog)))
    for _ in range(4):
        next(batches)
    os._exit(1)


def test_the_entries_of_a_killed_job_are_kept(tmp_path: Path, catalog: Path):
    start(killed, tmp_path, catalog).join()
    n_listed = journal(tmp_path).read_bytes().count(b"\n") - 1
    run(tmp_path, grid(FIRST))
    assert len(manifest(tmp_path)) == N + n_listed and n_listed >= 2
    assert not list(tmp_path.glob("manifest.*.jsonl"))


def conflict_of(rank: int, directory: Path) -> str:
    try:
        run(directory, metadata={"note": 2}, group=dist.group.WORLD)
    except ValueError as error:
        return str(error)
    return ""


def test_all_ranks_refuse_what_one_rank_finds(tmp_path: Path):
    run(tmp_path, grid((3,), parts="eyes"), metadata={"note": 1})
    first, *others = in_ranks(3, conflict_of, tmp_path)
    assert "its note is 1, not 2" in first and others == [first] * 2


def test_files_that_look_like_journals_are_left_alone(tmp_path: Path, expected_files: dict[str, bytes]):
    run(tmp_path, grid(SECOND))
    backup = (tmp_path / "manifest.jsonl").read_bytes()
    line = backup.splitlines(keepends=True)[0]
    token = new_token()
    mine = {
        "manifest.2024.jsonl": b'{"my": "notes"}\n',
        "manifest.0003.jsonl": line + b"{\n",
        "manifest.0004.jsonl": b"",
        "manifest.0005.jsonl": b"x" * 100,
        "manifest.0001.jsonl": backup,
        f"manifest.0001.{token}.jsonl": b'[1, {"file": "x"}]\n',
        f"manifest.0002.{token}.jsonl": json.dumps({"journal": new_token()}).encode() + b"\n",
        f"manifest.0001.{'0' * 24}.jsonl": json.dumps({"journal": "0" * 24}).encode() + b"\n[]\n",
        "manifest.0001.jsonl.bak": b"mine",
        ".manifest.part.jsonl": b"mine",
    }
    for name, content in mine.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "manifest.0009.jsonl")
    (tmp_path / "manifest.0010.jsonl").mkdir()
    os.mkfifo(tmp_path / f"manifest.0010.{new_token()}.jsonl")
    n_files = len(os.listdir(tmp_path))
    run(tmp_path, grid(FIRST))
    assert {name: (tmp_path / name).read_bytes() for name in mine} == mine
    assert {name: (tmp_path / name).read_bytes() for name in expected_files} == expected_files
    assert len(os.listdir(tmp_path)) == n_files + N


def test_a_journal_killed_in_its_first_line_is_removed(tmp_path: Path):
    for n, length in enumerate((0, 5, 12, 30)):
        token = new_token()
        (tmp_path / f"manifest.000{n}.{token}.jsonl").write_text(f'{{"journal": "{token}", '[:length])
    run(tmp_path)
    assert len(files(tmp_path)) == N + 1


def test_a_copied_folder_of_a_stopped_job_resumes(tmp_path: Path, catalog: Path):
    start(killed, tmp_path / "out", catalog).join()
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    assert run(tmp_path / "copy", grid(SECOND)).n_existing == run(tmp_path / "out", grid(SECOND)).n_existing > 0
    assert files(tmp_path / "copy") == files(tmp_path / "out")


def test_a_file_system_without_locks_is_reported(
    tmp_path: Path, expected_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    for plan in (FIRST, SECOND):
        with pytest.warns(UserWarning, match=f"{tmp_path} is on a file system without locks: only one job"):
            run(tmp_path, grid(plan))
    assert files(tmp_path) == expected_files


@pytest.mark.parametrize("name", ["manifest.jsonl", ""])
def test_paths_of_another_kind_are_refused_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(EditRenderer, "__call__", None)
    if name:
        (tmp_path / "out" / name).mkdir(parents=True)
    else:
        (tmp_path / "out").touch()
    with pytest.raises(OSError, match=f"a directory: '{tmp_path / 'out' / name}'"):
        run(tmp_path / "out")
    assert len(list(tmp_path.rglob("*"))) == 1 + bool(name)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(EditRenderer, "__call__", None)
    create, editor = os.open, editor_of("sg2")

    def denied(path: Any, flags: int, *arguments: Any) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return create(path, flags, *arguments)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(PermissionError, match="denied"):
        run(tmp_path, editor=editor)


@pytest.mark.parametrize("name", ["file", "sha256", "job", "strength"])
def test_metadata_must_not_have_fields_of_edits(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match=f"metadata must not have fields that edits have, got {name}"):
        run(tmp_path, metadata={name: 1})
