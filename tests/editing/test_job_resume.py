# SPDX-License-Identifier: Apache-2.0
"""Resumed jobs: which images are kept or made again, interruptions, invalid manifests, shards and ranks."""

from __future__ import annotations

import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from editors import catalog_of
from forked import in_ranks
from jobs import files, grid, job, journal, manifest, run, without_journals
from networks import shared

from stylefast.editing import EditBatch, EditRenderer, Job, StyleEditor
from stylefast.editing.writer import ImageWriter
from stylefast.generators.toy import toy

N = 12


@pytest.fixture(scope="module")
def expected_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an uninterrupted job."""
    directory = tmp_path_factory.mktemp("whole") / "new" / "folder"
    run(directory)
    return files(directory)


def test_a_finished_job_makes_no_image_again(
    tmp_path: Path, expected_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    run(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    monkeypatch.setattr(EditRenderer, "__call__", None)
    resumed = run(tmp_path)
    assert (resumed.n_written, resumed.n_existing) == (0, N) and files(tmp_path) == expected_files
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}


def test_files_that_no_manifest_lists_are_made_again(tmp_path: Path, expected_files: dict[str, bytes]):
    run(tmp_path)
    lines = (tmp_path / "manifest.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "manifest.jsonl").write_text("".join(lines[:4] + lines[6:]))
    resumed = run(tmp_path)
    assert (resumed.n_written, resumed.n_existing) == (2, N - 2) and files(tmp_path) == expected_files


def test_edits_whose_inputs_have_changed_are_made_again(tmp_path: Path):
    def again(plan: Any = None, **options: Any) -> int:
        return run(tmp_path, plan, overwrite=True, **options).n_written

    assert again() == N and again() == 0
    assert again(metadata={"note": 1}) == N and again(metadata={"note": 1}) == 0
    assert again(measure=True, metadata={"note": 1}) == N and again() == N
    assert again(editor=StyleEditor(shared("sg2"), catalog_of("sg2"), rgb=True)) == N
    other = replace(catalog_of("sg2"), parts={"eyes": [0], "nose": [1], "mouth": []})
    assert again(editor=StyleEditor(shared("sg2"), other)) == N
    weights = toy("sg2", seed=1)
    other = replace(catalog_of("sg2"), fingerprint=weights.fingerprint)
    assert again(grid(generator=weights), editor=StyleEditor(weights, other)) == N
    assert again(resume=False) == N and again(resume=False) == N and again() == 0


def test_a_larger_plan_keeps_the_existing_images(tmp_path: Path):
    run(tmp_path, grid((2, 3)))
    resumed = run(tmp_path, grid((1, 2, 3), parts=("nose", "mouth", "eyes")))
    assert (resumed.n_written, resumed.n_existing) == (10, 8) and len(manifest(tmp_path)) == 18


def interrupted(directory: Path, after: int, error: type[BaseException] = KeyboardInterrupt, **options: Any) -> Job:
    """Run a job whose renderer raises an error after `after` batches of two edits; return the job."""
    stopped = job(directory, **options)
    render, left = stopped.render, after

    def failing(edits: Any) -> EditBatch:
        nonlocal left
        if left == 0:
            raise error("stopped")
        left -= 1
        return render(edits)

    stopped.render = failing  # type: ignore[assignment]
    with pytest.raises(error, match="stopped"):
        list(stopped)
    return stopped


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_complete_files_and_their_journal(
    tmp_path: Path, expected_files: dict[str, bytes], error: type[BaseException]
):
    for after in range(6):
        directory = tmp_path / str(after)
        stopped = interrupted(directory, after, error)
        left, entries = without_journals(directory)
        assert left.items() <= expected_files.items() and len(left) == stopped.n_written <= 2 * after
        assert {entry["file"] for entry in entries} == set(left)
        resumed = run(directory)
        assert (resumed.n_existing, resumed.n_written) == (len(left), N - len(left))
        assert files(directory) == expected_files


def test_a_job_interrupted_several_times_is_completed(tmp_path: Path, expected_files: dict[str, bytes]):
    for after in (1, 1, 0, 2, 1):
        interrupted(tmp_path, after)
    assert 2 <= len(list(tmp_path.glob("manifest.*.jsonl"))) <= 4 and not (tmp_path / "manifest.jsonl").exists()
    assert run(tmp_path).n_existing == 10 and files(tmp_path) == expected_files


@pytest.mark.parametrize("submitted", [False, True])
def test_an_interrupt_while_an_image_is_queued_loses_nothing(
    tmp_path: Path, expected_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, submitted: bool
):
    submit, calls = ThreadPoolExecutor.submit, count(1)

    def interrupted(*arguments: Any) -> Any:
        last = next(calls) == 5
        if submitted or not last:
            future = submit(*arguments)
        if last:
            raise KeyboardInterrupt
        return future

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    left, entries = without_journals(tmp_path)
    assert len(entries) == len(left) == 4 + submitted
    monkeypatch.undo()
    assert run(tmp_path).n_existing == 4 + submitted and files(tmp_path) == expected_files


def test_a_caller_that_stops_iterating_interrupts_the_job(tmp_path: Path, expected_files: dict[str, bytes]):
    batches = iter(job(tmp_path))
    next(batches), next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(list(tmp_path.glob("*.png"))) == 4
    assert run(tmp_path).n_existing == 4 and files(tmp_path) == expected_files


def test_a_journal_cut_in_a_line_is_read_up_to_that_line(tmp_path: Path, expected_files: dict[str, bytes]):
    interrupted(tmp_path, 3)
    os.truncate(journal(tmp_path), journal(tmp_path).stat().st_size - 9)
    assert run(tmp_path).n_existing == 5 and files(tmp_path) == expected_files


@pytest.mark.parametrize(
    "line, why",
    [
        (b"{", "Expecting property name"),
        (b"\xff\xfe", "codec can't decode"),
        (b"[1, 2]", "it is not a JSON object"),
        (b"7", "it is not a JSON object"),
        (b"[" * 100_000, "recursion"),
        (b'{"file": "a.png", "strength": 1' + b"0" * 300 + b"}", "integers must have at most 300 digits, got 301"),
        (b'{"a": ' * 101 + b"1" + b"}" * 101, "objects and lists must be nested at most 100 deep"),
        (b'{"file": "a.png", "target": "seed0001"}', "it has no bytes"),
        (b'{"file": ["a"], "bytes": 1, "sha256": "", "locality": null}', "file must be a name"),
    ],
)
def test_a_manifest_with_an_invalid_line_is_refused(tmp_path: Path, line: bytes, why: str):
    run(tmp_path)
    good = (tmp_path / "manifest.jsonl").read_bytes()
    (tmp_path / "manifest.jsonl").write_bytes(good + line + b"\n" + good)
    before = files(tmp_path)
    with pytest.raises(
        ValueError, match=f"^{re.escape(str(tmp_path / 'manifest.jsonl'))}, line 13 is not an entry of an edit: .*{why}"
    ):
        run(tmp_path)
    assert files(tmp_path) == before


def test_a_damaged_journal_is_refused_with_its_line(tmp_path: Path):
    interrupted(tmp_path, 3)
    path = journal(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    for damaged in (b"{", b"[1]", b"[" * 100_000, b"[1e999, {}]", b'[1, {"file": "a.png"}]', b"\xff"):
        path.write_bytes(b"".join([*lines[:3], damaged + b"\n", *lines[3:]]))
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))}, line 4 is not "):
            run(tmp_path)
    path.write_bytes(b"".join(lines))
    assert run(tmp_path).n_existing == 6


def test_a_writer_that_fails_ends_the_job(
    tmp_path: Path, expected_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    calls, lock, write = [0], threading.Lock(), ImageWriter._write

    def failing(self: ImageWriter, pixels: Any, file: str) -> Any:
        with lock:
            calls[0] += 1
            if calls[0] == 7:
                raise OSError("the disk is gone")
        return write(self, pixels, file)

    monkeypatch.setattr(ImageWriter, "_write", failing)
    before = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path)
    assert threading.active_count() == before
    left, entries = without_journals(tmp_path)
    assert len(entries) == len(left) < N and left.items() <= expected_files.items()
    monkeypatch.undo()
    assert run(tmp_path).n_existing == len(left) and files(tmp_path) == expected_files


def test_shards_make_all_images_and_a_job_then_lists_them(tmp_path: Path, expected_files: dict[str, bytes]):
    jobs = [run(tmp_path, shard=(i, 4)) for i in (2, 0, 3, 1)]
    assert [(job.n_written, job.n_existing, job.total) for job in jobs] == [(2, 0, 2), (4, 0, 4), (2, 0, 2), (4, 0, 4)]
    assert len(list(tmp_path.glob("manifest.000?.*.jsonl"))) == 4 and not (tmp_path / "manifest.jsonl").exists()
    resumed = run(tmp_path)
    assert (resumed.n_written, resumed.n_existing) == (0, N) and files(tmp_path) == expected_files


def job_of(rank: int, directory: Path) -> tuple[int, int, int]:
    ended = run(directory, group=dist.group.WORLD)
    return ended.n_written, ended.n_existing, ended.total


def test_ranks_make_the_files_of_one_process_and_resume(tmp_path: Path):
    (alone,) = in_ranks(1, job_of, tmp_path / "1")
    expected = files(tmp_path / "1")
    assert alone == (N, 0, N)
    for size in (2, 3, 7):
        counts = in_ranks(size, job_of, tmp_path / str(size))
        assert sum(written for written, _, _ in counts) == N and {total for *_, total in counts} == {N}
        assert files(tmp_path / str(size)) == expected
    directory = tmp_path / "2"
    for name in sorted(name for name in expected if name.endswith(".png"))[:5]:
        (directory / name).unlink()
    counts = in_ranks(3, job_of, directory)
    assert sum(written for written, _, _ in counts) == 5 and sum(existing for _, existing, _ in counts) == N - 5
    assert files(directory) == expected


@pytest.mark.parametrize("once", [True, False])
def test_a_progress_bar_that_raises_loses_no_entry(
    tmp_path: Path, expected_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, once: bool
):
    calls = count(1)

    def update(self: Any, n: int = 1) -> None:
        if n and (next(calls) == 9 if once else next(calls) >= 9):  # updates by 0 (no image was kept) do not count
            raise KeyboardInterrupt

    monkeypatch.setattr("tqdm.std.tqdm.update", update)
    stopped = job(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        list(stopped)
    images = sorted(name for name in files(tmp_path) if name.endswith(".png"))
    entries = [entry["file"] for entry in without_journals(tmp_path)[1]]
    assert sorted(entries) == images and stopped.n_written <= len(images)
    monkeypatch.undo()
    assert run(tmp_path).n_existing == len(images) and files(tmp_path) == expected_files
