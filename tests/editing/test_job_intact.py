# SPDX-License-Identifier: Apache-2.0
"""Which images a resumed job keeps, by size, modification time and checksum."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from jobs import files, run

N = 12


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
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
def test_files_that_are_not_as_recorded_are_made_again(tmp_path: Path, whole: dict[str, bytes], damage: Any):
    run(tmp_path)
    names = sorted(name for name in whole if name.endswith(".png"))
    for name in names[3:5]:
        damage(tmp_path / name)
    resumed = run(tmp_path)
    assert (resumed.n_written, resumed.n_existing) == (2, N - 2) and files(tmp_path) == whole
    assert not any(path.is_symlink() for path in tmp_path.iterdir())


def altered_in_the_past(path: Path) -> None:
    """Alter an image and set its modification time back by a second, to before its entry was written."""
    status = path.stat()
    altered(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 10**9))


def test_an_image_that_was_not_modified_is_not_read(tmp_path: Path, whole: dict[str, bytes]):
    run(tmp_path)
    for path in tmp_path.glob("*.png"):
        altered_in_the_past(path)
    assert run(tmp_path).n_written == 0 and files(tmp_path) != whole
    assert run(tmp_path, verify=True).n_written == N and files(tmp_path) == whole


def test_an_image_that_was_copied_is_compared(tmp_path: Path, whole: dict[str, bytes]):
    run(tmp_path)
    for path in tmp_path.glob("*.png"):
        os.utime(path)  # newer than the manifest, as after a copy
    altered(tmp_path / next(name for name in whole if name.endswith(".png")))
    assert run(tmp_path).n_written == 1 and files(tmp_path) == whole


@pytest.mark.parametrize("target", ["itself.png", "manifest.jsonl/x"])
def test_links_that_lead_nowhere_are_made_again(tmp_path: Path, whole: dict[str, bytes], target: str):
    run(tmp_path)
    path = sorted(tmp_path.glob("*.png"))[0]
    path.unlink()
    path.symlink_to(path.name if target == "itself.png" else target)
    assert run(tmp_path).n_written == 1 and files(tmp_path) == whole
