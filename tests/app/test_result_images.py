# SPDX-License-Identifier: Apache-2.0
"""Images that cannot be read do not break the results."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from stylefast.app.results import picture


def test_an_image_with_too_many_pixels_counts_as_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.new("1", (64, 64)).save(tmp_path / "a.png")
    assert picture(tmp_path / "a.png") is not None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert picture(tmp_path / "a.png") is None


def test_a_broken_chunk_counts_as_damaged(tmp_path: Path):
    Image.new("RGB", (8, 8)).save(path := tmp_path / "a.png")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"IDAT", b"I\xff\xff\xff"))
    assert picture(path) is None
