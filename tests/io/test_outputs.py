# SPDX-License-Identifier: Apache-2.0
"""Checks of the places of outputs."""

import os
from pathlib import Path

import pytest

from stylefast.io.outputs import check_output_file, check_output_folder


def test_places_that_can_be_written_pass_and_stay_as_they_are(tmp_path: Path):
    (tmp_path / "old.png").touch()
    for path in (tmp_path / "old.png", tmp_path / "new.png", tmp_path / "a" / "b" / "new.png"):
        check_output_file("out", path, ".jpg", ".png")
    check_output_folder("outdir", tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]


@pytest.mark.parametrize(
    "path, message",
    [
        ("out.pt", r"^out must be the path of a \.safetensors file, got '.*out\.pt'"),
        ("folder.safetensors", "^out must be a file, got the folder"),
        ("text/out.safetensors", "^out must be in a folder that can be created, but '.*text' is not a folder"),
        ("text/a/b/out.safetensors", "text' is not a folder"),
    ],
)
def test_places_that_cannot_be_written_are_refused(tmp_path: Path, path: str, message: str):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "text").touch()
    with pytest.raises(ValueError, match=message):
        check_output_file("out", tmp_path / path, ".safetensors")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_folder_that_takes_no_files_is_refused():
    with pytest.raises(ValueError, match="'/proc' cannot"):
        check_output_folder("outdir", f"/proc/out{os.getpid()}")
