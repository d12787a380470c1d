# SPDX-License-Identifier: Apache-2.0
"""Images that a resumed job keeps: they are judged by size, modification time and checksum."""

from __future__ import annotations

import errno
import os
import stat
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from jobs import files, grid, job, journal, manifest, run, without_journals

N = 12


@pytest.fixture(scope="module")
def expected_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an uninterrupted job."""
    directory = tmp_path_factory.mktemp("whole") / "new" / "folder"
    run(directory)
    return files(directory)


def missing(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def altered(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [missing, truncated, altered])
def test_files_that_are_not_as_recorded_are_made_again(tmp_path: Path, expected_files: dict[str, bytes], damage: Any):
    run(tmp_path)
    names = sorted(name for name in expected_files if name.endswith(".png"))
    for name in names[3:5]:
        damage(tmp_path / name)
    resumed = run(tmp_path)
    assert (resumed.n_written, resumed.n_existing) == (2, N - 2) and files(tmp_path) == expected_files


def altered_in_the_past(path: Path) -> None:
    """Alter an image and set its modification time back by a second, to before its entry was written."""
    status = path.stat()
    altered(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 10**9))


def test_an_image_older_than_its_entry_is_not_read_again(tmp_path: Path, expected_files: dict[str, bytes]):
    run(tmp_path)
    for path in tmp_path.glob("*.png"):
        altered_in_the_past(path)
    assert run(tmp_path).n_written == 0 and files(tmp_path) != expected_files
    assert run(tmp_path, verify=True).n_written == N and files(tmp_path) == expected_files


def test_an_image_newer_than_its_entry_is_verified(tmp_path: Path, expected_files: dict[str, bytes]):
    run(tmp_path)
    for path in tmp_path.glob("*.png"):
        os.utime(path)  # newer than the manifest, as after a copy
    altered(tmp_path / next(name for name in expected_files if name.endswith(".png")))
    assert run(tmp_path).n_written == 1 and files(tmp_path) == expected_files


def test_an_image_altered_before_the_last_entry_is_verified(tmp_path: Path, expected_files: dict[str, bytes]):
    batches = iter(job(tmp_path))
    for _ in range(3):
        next(batches)
    first = min(tmp_path.glob("*.png"), key=lambda path: path.stat().st_mtime_ns)
    altered(first)
    time.sleep(0.05)
    next(batches)  # the entries of this batch are written after the image was altered
    batches.close()  # type: ignore[attr-defined]
    assert first.stat().st_mtime_ns < journal(tmp_path).stat().st_mtime_ns
    assert run(tmp_path).n_existing == 7 and files(tmp_path) == expected_files


def test_an_image_altered_before_the_manifest_is_verified(tmp_path: Path, expected_files: dict[str, bytes]):
    run(tmp_path)
    path = tmp_path / next(name for name in expected_files if name.endswith(".png"))
    altered(path)
    time.sleep(0.05)
    run(tmp_path, grid((8,)))  # writes a manifest that is newer than the image
    assert path.stat().st_mtime_ns < time.time_ns() - 10**7
    assert run(tmp_path).n_written == 1 and path.read_bytes() == expected_files[path.name]


def test_a_checksum_is_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(tmp_path)
    for path in tmp_path.glob("*.png"):
        os.utime(path)
    time.sleep(0.05)
    read, n_read = Path.read_bytes, [0]

    def counted(self: Path) -> bytes:
        n_read[0] += self.suffix == ".png"
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", counted)
    for expected in (N, N):
        assert run(tmp_path).n_existing == N and n_read[0] == expected


def test_images_that_are_links_stay_links(tmp_path: Path, expected_files: dict[str, bytes]):
    directory, store = tmp_path / "out", tmp_path / "store"
    run(directory)
    store.mkdir()
    first, second = sorted(directory.glob("*.png"))[:2]
    for path in (first, second):
        path.unlink()
        path.symlink_to(f"../store/{path.name}")
    (store / second.name).write_bytes(b"old")
    (store / second.name).chmod(0o604)
    assert run(directory).n_written == 2 and files(directory) == expected_files
    assert first.is_symlink() and second.is_symlink() and sorted(files(store)) == [first.name, second.name]
    assert stat.S_IMODE(os.stat(second).st_mode) == 0o604


@pytest.mark.parametrize("target, message", [("itself.png", "symbolic links"), ("manifest.jsonl/x", "Not a directory")])
def test_links_that_cannot_be_followed_are_errors(tmp_path: Path, target: str, message: str):
    run(tmp_path)
    path = sorted(tmp_path.glob("*.png"))[0]
    path.unlink()
    path.symlink_to(path.name if target == "itself.png" else target)
    with pytest.raises(OSError, match=f"{message}.*: '{path}'"):
        run(tmp_path)
    assert path.is_symlink()


def test_a_full_disk_ends_the_job_without_half_written_files(
    tmp_path: Path, expected_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    full = sorted(name for name in expected_files if name.endswith(".png"))[5]
    write = Path.write_bytes

    def write_bytes(self: Path, content: bytes) -> int:
        return write(Path("/dev/full") if content == expected_files[full] else self, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/seed"):
        run(tmp_path)
    left, entries = without_journals(tmp_path)
    assert full not in left and len(entries) == len(left) and left.items() <= expected_files.items()
    monkeypatch.undo()
    run(tmp_path)
    assert files(tmp_path) == expected_files


def test_a_full_disk_leaves_no_incomplete_line_in_a_journal(
    tmp_path: Path, expected_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    write, calls = os.write, count()

    def no_space(descriptor: int, content: bytes) -> int:
        if content.startswith(b"[") and next(calls) == 3:
            write(descriptor, content[:20])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", no_space)
    with pytest.raises(OSError, match="No space left on device: '.*/manifest.0001"):
        run(tmp_path)
    monkeypatch.undo()
    left, entries = without_journals(tmp_path)
    assert 3 <= len(entries) == len(left)
    assert run(tmp_path).n_existing == len(left) and files(tmp_path) == expected_files


@pytest.mark.parametrize("ending", [b"", b"\r\n"])
def test_a_manifest_without_a_last_newline_keeps_its_entries(tmp_path: Path, ending: bytes):
    run(tmp_path, grid((1,)))
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(path.read_bytes().removesuffix(b"\n") + ending)
    run(tmp_path, grid((2,)))
    assert [line["target"] for line in manifest(tmp_path)] == ["seed0001"] * 4 + ["seed0002"] * 4


@pytest.mark.parametrize("text", [b"my notes", b"null\n", b"[]", b"\xff\xfe", b'{"image": "a'])
def test_a_manifest_of_another_program_is_not_replaced(tmp_path: Path, text: bytes):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(text)
    with pytest.raises(ValueError, match="manifest.jsonl, line 1 is not an entry of an edit"):
        run(tmp_path, grid((1,)))
    assert path.read_bytes() == text
