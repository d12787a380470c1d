# SPDX-License-Identifier: Apache-2.0
"""Conversion of images to 8-bit pixels, and of pixels to the contents of image files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..core.checks import check_choice, check_images
from .png import encode as encode_png

FORMATS: dict[str, dict[str, Any]] = {  # suffix -> options of Pillow; PNG has its own encoder
    ".png": {},
    ".jpg": {"format": "JPEG", "quality": 90},
    ".webp": {"format": "WEBP", "quality": 90, "method": 2},
}


def to_uint8(images: Tensor) -> np.ndarray:
    """Convert images to 8 bits per channel.

    Args:
        images: Floating-point images of shape [N, 3, H, W] in [0, 1]. Values are clamped, then rounded.

    Returns:
        Pixels of shape [N, H, W, 3], uint8.

    Raises:
        TypeError: If `images` is not a floating-point tensor.
        ValueError: If `images` has another shape or contains NaN.
    """
    check_images("images", images)
    n, _, h, w = images.shape
    pixels = np.empty((n, h, w, 3), np.uint8)
    for i, image in enumerate(images.detach()):
        for c, plane in enumerate(image.float().cpu().numpy()):
            scaled = np.clip(plane, 0, 1)
            scaled *= 255
            np.rint(scaled, out=scaled)
            if np.isnan(scaled.max()):
                raise ValueError(f"images must not hold NaN, got some in image {i}")
            pixels[i, ..., c] = scaled
    return pixels


def encode(pixels: np.ndarray, suffix: str) -> bytes:
    """Encode an image as the contents of a file.

    Args:
        pixels: RGB pixels of shape [H, W, 3], uint8.
        suffix: Suffix of the file, one of `FORMATS`.

    Returns:
        Contents of the file.

    Raises:
        ValueError: If the suffix is unknown, or the pixels of a PNG have another shape or dtype.
    """
    check_choice("suffix", suffix, tuple(FORMATS))
    if suffix == ".png":
        return encode_png(pixels)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **FORMATS[suffix])
    return file.getvalue()
