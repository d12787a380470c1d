# SPDX-License-Identifier: Apache-2.0
"""Images that a resumed job keeps: they are judged by size, modification time and checksum."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from jobs import files, run

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


def replaced(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize("damage", [missing, truncated, altered, replaced])
def test_files_that_are_not_as_recorded_are_made_again(tmp_path: Path, expected_files: dict[str, bytes], damage: Any):
    run(tmp_path)
    names = sorted(name for name in expected_files if name.endswith(".png"))
    for name in names[3:5]:
        damage(tmp_path / name)
    resumed = run(tmp_path)
    assert (resumed.n_written, resumed.n_existing) == (2, N - 2) and files(tmp_path) == expected_files
    assert not any(path.is_symlink() for path in tmp_path.iterdir())


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


@pytest.mark.parametrize("target", ["itself.png", "manifest.jsonl/x"])
def test_links_that_lead_nowhere_are_made_again(tmp_path: Path, expected_files: dict[str, bytes], target: str):
    run(tmp_path)
    path = sorted(tmp_path.glob("*.png"))[0]
    path.unlink()
    path.symlink_to(path.name if target == "itself.png" else target)
    assert run(tmp_path).n_written == 1 and files(tmp_path) == expected_files
