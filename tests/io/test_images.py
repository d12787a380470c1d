# SPDX-License-Identifier: Apache-2.0
"""Conversion of images to 8-bit pixels and to the contents of image files."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from stylefast.io.images import FORMATS, encode, to_uint8


def test_pixels_are_clamped_and_rounded():
    image = torch.tensor([[[-1.0, 0.0, 0.5]], [[1.0, 2.0, 0.25]], [[1 / 255, 0.998, 0.9]]])  # [3, 1, 3]
    pixels = to_uint8(image[None].double())
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [[[[0, 255, 1], [0, 255, 254], [128, 64, 230]]]]


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_suffix_names_the_format(suffix: str):
    pixels = np.full((8, 12, 3), 100, np.uint8)
    with Image.open(io.BytesIO(encode(pixels, suffix))) as image:
        assert image.format == {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}[suffix]
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - pixels).max() <= (0 if suffix == ".png" else 2)


def test_jpeg_composites_an_alpha_channel_over_white():
    pixels = np.full((8, 8, 4), (200, 100, 0, 51), np.uint8)  # a fifth of the colour
    with Image.open(io.BytesIO(encode(pixels, ".jpg"))) as image:
        assert image.mode == "RGB"
        assert np.abs(np.asarray(image).mean((0, 1)) - [0.2 * c + 0.8 * 255 for c in (200, 100, 0)]).max() <= 2


@pytest.mark.parametrize("suffix, mode", [(".png", "L"), (".jpg", "L"), (".webp", "RGB")])
def test_grey_pixels_stay_grey(suffix: str, mode: str):
    pixels = np.repeat(np.arange(0, 256, 4, np.uint8), 64).reshape(64, 64, 1)
    with Image.open(io.BytesIO(encode(pixels, suffix))) as image:
        assert image.mode == mode
        assert np.abs(np.asarray(image.convert("L")).astype(int) - pixels[..., 0]).max() <= 4


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_alpha_channels_are_kept(suffix: str):
    pixels = np.full((8, 8, 4), (200, 100, 0, 51), np.uint8)
    with Image.open(io.BytesIO(encode(pixels, suffix))) as image:
        assert image.mode == "RGBA" and (np.asarray(image)[..., 3] == 51).all()


def test_an_unknown_suffix_is_refused():
    with pytest.raises(ValueError, match="suffix must be one of '.png', '.jpg', '.webp', got '.gif'"):
        encode(np.zeros((2, 2, 3), np.uint8), ".gif")
