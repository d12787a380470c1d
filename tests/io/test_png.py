# SPDX-License-Identifier: Apache-2.0
"""PNG files: Pillow reads back the same pixels, whichever library compresses them."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from stylefast.io import png


@pytest.mark.parametrize("deflate", [png.deflate, zlib])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (33, 65), (256, 100)])
def test_pillow_reads_the_pixels(shape: tuple[int, int], mode: str, deflate: object, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(png, "deflate", deflate)
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, len(mode)), np.uint8)
    for variant in (pixels, pixels[::-1, ::-1], np.zeros_like(pixels)):
        with Image.open(io.BytesIO(png.encode(variant))) as image:
            image.verify()  # compares the checksums
        with Image.open(io.BytesIO(png.encode(variant))) as image:
            assert image.format == "PNG" and image.mode == mode
            assert (np.asarray(image).reshape(variant.shape) == variant).all()


def test_smooth_images_give_small_files():
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 256, 3))
    assert len(png.encode(ramp)) < ramp.size / 50


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_pixels_are_refused(pixels: np.ndarray):
    with pytest.raises(ValueError, match=r"pixels must be \[H, W, C\] uint8 with C = 1, 3 or 4, got \("):
        png.encode(pixels)
