# SPDX-License-Identifier: Apache-2.0
"""Edits on disk: names, images, the manifest, what is made again and what is not."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from editors import catalog_of
from forked import in_ranks
from jobs import files, grid, manifest, run
from networks import shared
from PIL import Image

from stylefast import output
from stylefast.editing import EditBatch, Random, Sequential, Simultaneous, Softmax, StyleEditor
from stylefast.generators.toy import toy
from stylefast.locality import Locality
from stylefast.output import Job

N = 12
KEYS = ["file", "target", "reference", "part", "query", "strength", "network", "job", "bytes", "sha256", "locality"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted job leaves."""
    directory = tmp_path_factory.mktemp("whole") / "new" / "folder"
    run(directory)
    return files(directory)


def test_an_image_and_a_line_for_every_edit(tmp_path: Path):
    plan = grid(strength=0.5)
    job = Job(plan, tmp_path, settings={"network": "toy"}, batch_size=5, progress=False)
    batches = list(job)
    assert [len(batch.edits) for batch in batches] == [5, 5, 2]
    assert (job.total, job.made, job.found) == (N, N, 0)
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
def test_a_line_holds_the_settings_of_its_query(tmp_path: Path, query: Any, expected: dict[str, Any]):
    run(tmp_path, grid((1,), parts="nose", queries=query))
    (line,) = manifest(tmp_path)
    assert line["query"] == expected and line["strength"] == 1
    assert run(tmp_path, grid((1,), parts="nose", queries=query)).found == 1


def test_locality_is_strict_json(tmp_path: Path):
    values = ([0.1, 0.0], [0.2, math.nan], [1.5, 3.0], [0.5, 0.0], [3.0, math.inf])
    measured = Locality(*(torch.tensor(column, dtype=torch.float64) for column in values))
    batch = EditBatch([], torch.zeros(0, 1), torch.zeros(0, 3, 1, 1), locality=measured)
    first, second = (output._locality(batch, i) for i in range(2))
    assert first == {"in_mse": 0.1, "out_mse": 0.2, "delta_e_inside": 1.5, "delta_e_outside": 0.5, "ratio": 3.0}
    assert second == {"in_mse": 0, "out_mse": None, "delta_e_inside": 3.0, "delta_e_outside": 0, "ratio": None}
    with pytest.raises(ValueError, match="JSON"):
        run(tmp_path, settings={"strange": math.nan})
    assert files(tmp_path) == {}
    run(tmp_path, measure=True)
    assert all(set(line["locality"]) == set(first) for line in manifest(tmp_path))


@pytest.mark.parametrize("suffix, kind", [(".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP")])
def test_the_suffix_names_the_format(tmp_path: Path, suffix: str, kind: str):
    run(tmp_path, suffix=suffix)
    for line in manifest(tmp_path):
        assert line["file"].endswith(suffix) and Image.open(tmp_path / line["file"]).format == kind


def test_nothing_is_made_again(tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch):
    run(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    monkeypatch.setattr(output.Maker, "__call__", None)
    job = run(tmp_path)
    assert (job.made, job.found) == (0, N) and files(tmp_path) == whole
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}


def missing(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def altered(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)


def replaced(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize("damage", [missing, truncated, altered, replaced])
def test_files_that_are_not_as_recorded_are_made_again(tmp_path: Path, whole: dict[str, bytes], damage: Any):
    run(tmp_path)
    names = sorted(name for name in whole if name.endswith(".png"))
    for name in names[3:5]:
        damage(tmp_path / name)
    job = run(tmp_path)
    assert (job.made, job.found) == (2, N - 2) and files(tmp_path) == whole
    assert not any(path.is_symlink() for path in tmp_path.iterdir())


def test_files_that_no_manifest_lists_are_made_again(tmp_path: Path, whole: dict[str, bytes]):
    run(tmp_path)
    lines = (tmp_path / "manifest.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "manifest.jsonl").write_text("".join(lines[:4] + lines[6:]))
    job = run(tmp_path)
    assert (job.made, job.found) == (2, N - 2) and files(tmp_path) == whole


def test_edits_that_would_be_others_now_are_made_again(tmp_path: Path):
    def again(plan: Any = None, **options: Any) -> int:
        return run(tmp_path, plan, **options).made

    assert again() == N and again() == 0
    assert again(settings={"note": 1}) == N and again(settings={"note": 1}) == 0
    assert again(measure=True, settings={"note": 1}) == N and again() == N
    assert again(grid(editor=StyleEditor(shared("sg2"), catalog_of("sg2"), rgb=True))) == N
    other = replace(catalog_of("sg2"), parts={"eyes": [0], "nose": [1], "mouth": []})
    assert again(grid(editor=StyleEditor(shared("sg2"), other))) == N
    weights = toy("sg2", seed=1)
    other = replace(catalog_of("sg2"), fingerprint=weights.fingerprint)
    assert again(grid(editor=StyleEditor(weights, other))) == N
    assert again(resume=False) == N and again(resume=False) == N and again() == 0


def test_a_larger_plan_keeps_what_there_is(tmp_path: Path):
    run(tmp_path, grid((2, 3)))
    job = run(tmp_path, grid((1, 2, 3), parts=("nose", "mouth", "eyes")))
    assert (job.made, job.found) == (10, 8) and len(manifest(tmp_path)) == 18


def interrupted(directory: Path, after: int, error: type[BaseException] = KeyboardInterrupt, **options: Any) -> Job:
    """A job whose generator fails after some batches of two."""
    job = Job(grid(), directory, batch_size=2, progress=False, **options)
    make, left = job.make, after

    def failing(edits: Any) -> EditBatch:
        nonlocal left
        if left == 0:
            raise error("stopped")
        left -= 1
        return make(edits)

    job.make = failing  # type: ignore[assignment]
    with pytest.raises(error, match="stopped"):
        list(job)
    return job


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_whole_files_and_a_journal_that_lists_them(
    tmp_path: Path, whole: dict[str, bytes], error: type[BaseException]
):
    for after in range(6):
        directory = tmp_path / str(after)
        job = interrupted(directory, after, error)
        left = files(directory)
        journal = left.pop("manifest.0001.jsonl", b"").decode().splitlines()
        assert left.items() <= whole.items() and len(left) == job.made <= 2 * after
        assert {json.loads(line)["file"] for line in journal} == set(left)
        rest = run(directory)
        assert (rest.found, rest.made) == (len(left), N - len(left)) and files(directory) == whole


def test_interruptions_of_what_was_interrupted(tmp_path: Path, whole: dict[str, bytes]):
    for after in (1, 1, 0, 2, 1):
        interrupted(tmp_path, after)
    assert 2 <= len(list(tmp_path.glob("manifest.*.jsonl"))) <= 4 and not (tmp_path / "manifest.jsonl").exists()
    assert run(tmp_path).found == 10 and files(tmp_path) == whole


def test_a_reader_who_stops_is_an_interruption(tmp_path: Path, whole: dict[str, bytes]):
    batches = iter(Job(grid(), tmp_path, batch_size=2, progress=False))
    next(batches), next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(list(tmp_path.glob("*.png"))) == 4
    assert run(tmp_path).found == 4 and files(tmp_path) == whole


def test_a_journal_cut_in_a_line_is_read_up_to_it(tmp_path: Path, whole: dict[str, bytes]):
    interrupted(tmp_path, 3)
    journal = tmp_path / "manifest.0001.jsonl"
    os.truncate(journal, journal.stat().st_size - 9)
    assert run(tmp_path).found == 5 and files(tmp_path) == whole


@pytest.mark.parametrize("name", ["manifest.jsonl", "manifest.0007.jsonl"])
@pytest.mark.parametrize(
    "line, why",
    [
        (b"{", "Expecting property name"),
        (b"\xff\xfe", "codec can't decode"),
        (b"[1, 2]", "it does not say file"),
        (b"7", "not iterable"),
        (b'{"file": "a.png", "target": "seed0001"}', "it does not say bytes"),
        (b'{"file": ["a"], "bytes": 1, "sha256": "", "locality": null}', "file must be a name"),
    ],
)
def test_a_manifest_with_a_line_that_is_none_is_refused(tmp_path: Path, name: str, line: bytes, why: str):
    run(tmp_path)
    good = (tmp_path / "manifest.jsonl").read_bytes()
    (tmp_path / name).write_bytes(good + line + b"\n" + good)
    before = files(tmp_path)
    with pytest.raises(
        ValueError, match=f"^{re.escape(str(tmp_path / name))}, line 13 is no record of an edit: .*{why}"
    ):
        run(tmp_path)
    assert files(tmp_path) == before


def test_a_writer_that_fails_ends_the_job(tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch):
    calls, lock, write = [0], threading.Lock(), Job._write

    def failing(self: Job, pixels: Any, file: str) -> Any:
        with lock:
            calls[0] += 1
            if calls[0] == 7:
                raise OSError("the disk is gone")
        return write(self, pixels, file)

    monkeypatch.setattr(Job, "_write", failing)
    before = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path)
    assert threading.active_count() == before
    left = files(tmp_path)
    assert left.pop("manifest.0001.jsonl").count(b"\n") == len(left) < N and left.items() <= whole.items()
    monkeypatch.undo()
    assert run(tmp_path).found == len(left) and files(tmp_path) == whole


def test_a_full_disk_ends_the_job_and_leaves_nothing_half_written(tmp_path: Path, whole: dict[str, bytes]):
    full = sorted(name for name in whole if name.endswith(".png"))[5]
    (tmp_path / f".{full[:-4]}.part.png").symlink_to("/dev/full")  # where that file is written before it is whole
    with pytest.raises(OSError, match="No space left on device"):
        run(tmp_path)
    left = files(tmp_path)
    assert full not in left and left.pop("manifest.0001.jsonl") and left.items() <= whole.items()
    run(tmp_path)
    assert files(tmp_path) == whole


def test_what_a_killed_writer_left_is_taken_away(tmp_path: Path, whole: dict[str, bytes]):
    for name in whole:
        path = tmp_path / name
        path.with_name(f".{path.stem}.part{path.suffix}").write_bytes(b"half")
    run(tmp_path)
    assert files(tmp_path) == whole


def test_few_images_wait_for_the_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gate, most, waiting, lock, write = threading.Event(), 0, 0, threading.Lock(), Job._write
    to_bytes = output.to_bytes

    def counted(images: Any) -> Any:
        nonlocal most, waiting
        with lock:
            waiting += len(images)
            most = max(most, waiting)
            gate.set() if most == 3 else None
        return to_bytes(images)

    def slow(self: Job, pixels: Any, file: str) -> Any:
        nonlocal waiting
        gate.wait(30)
        with lock:
            waiting -= 1
        return write(self, pixels, file)

    monkeypatch.setattr(Job, "_write", slow)
    monkeypatch.setattr(output, "to_bytes", counted)
    run(tmp_path, writers=1, batch_size=1)
    assert 3 <= most <= 4


def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path):
    catalog = replace(catalog_of("sg2"), parts={"../x": [0]})
    with pytest.raises(ValueError, match="separators, got 'seed0001_../x_"):
        run(tmp_path / "out", grid(editor=StyleEditor(shared("sg2"), catalog), parts="../x"))
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


def test_images_with_nan_are_refused(tmp_path: Path):
    generator = toy("sg2")
    generator.network.get_submodule("torgbs.3").weight.data[0] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        run(
            tmp_path, grid(editor=StyleEditor(generator, replace(catalog_of("sg2"), fingerprint=generator.fingerprint)))
        )
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"suffix": ".xyz"}, "suffix must be one of .png, .jpg, .webp, got '.xyz'"),
        ({"writers": 0}, "writers must be >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"share": (2, 2)}, r"share must be \(i, n\) with 0 <= i < n, got \(2, 2\)"),
        ({"roi_mode": "both"}, "mode must be .*'both'"),
    ],
)
def test_jobs_that_cannot_be(tmp_path: Path, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_shares_make_what_one_job_makes_and_a_job_for_all_lists_it(tmp_path: Path, whole: dict[str, bytes]):
    jobs = [run(tmp_path, share=(i, 4)) for i in (2, 0, 3, 1)]
    assert [(job.made, job.found, job.total) for job in jobs] == [(2, 0, 2), (4, 0, 4), (2, 0, 2), (4, 0, 4)]
    assert len(list(tmp_path.glob("manifest.000?.jsonl"))) == 4 and not (tmp_path / "manifest.jsonl").exists()
    job = run(tmp_path)
    assert (job.made, job.found) == (0, N) and files(tmp_path) == whole


def job_of(rank: int, directory: Path) -> tuple[int, int, int]:
    job = run(directory, group=dist.group.WORLD)
    return job.made, job.found, job.total


def test_ranks_make_what_one_process_makes_and_others_go_on(tmp_path: Path):
    (alone,) = in_ranks(1, job_of, tmp_path / "1")
    expected = files(tmp_path / "1")
    assert alone == (N, 0, N)
    for size in (2, 3, 7):
        found = in_ranks(size, job_of, tmp_path / str(size))
        assert sum(made for made, _, _ in found) == N and {total for *_, total in found} == {N}
        assert files(tmp_path / str(size)) == expected
    directory = tmp_path / "2"
    for name in sorted(name for name in expected if name.endswith(".png"))[:5]:
        (directory / name).unlink()
    found = in_ranks(3, job_of, directory)
    assert sum(made for made, _, _ in found) == 5 and sum(there for _, there, _ in found) == N - 5
    assert files(directory) == expected
