# SPDX-License-Identifier: Apache-2.0
"""Images as 8-bit pixels, and pixels as the bytes of image files."""

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
        images: [N, 3, H, W] floating in [0, 1]; clamped, then rounded.

    Returns:
        [N, H, W, 3] uint8.

    Raises:
        TypeError, ValueError: images of another type or shape, or NaN in them.
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
        pixels: [H, W, 3] uint8, RGB.
        suffix: one of `FORMATS`.

    Raises:
        ValueError: an unknown suffix, or pixels of another shape or type.
    """
    check_choice("suffix", suffix, tuple(FORMATS))
    if suffix == ".png":
        return encode_png(pixels)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **FORMATS[suffix])
    return file.getvalue()
