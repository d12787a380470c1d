# SPDX-License-Identifier: Apache-2.0
"""Conversion of images to 8-bit pixels, and of pixels to the contents of image files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core.checks import check_choice
from ..core.images import check_images
from .atomic import PathLike
from .budget import check_file
from .png import encode as encode_png

FORMATS: dict[str, dict[str, Any]] = {  # suffix -> options of Pillow; PNG has its own encoder
    ".png": {},
    ".jpg": {"format": "JPEG", "quality": 90},
    ".webp": {"format": "WEBP", "quality": 90, "method": 2},
}
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # errors of `read_image`


def to_uint8(images: Tensor) -> np.ndarray:
    """Convert images to 8 bits per channel.

    Args:
        images: Floating-point images of shape [N, C, H, W] in [0, 1]: grey, RGB or RGBA. Values are clamped, then
            rounded.

    Returns:
        Pixels of shape [N, H, W, C], uint8.

    Raises:
        TypeError: If `images` is not a floating-point tensor.
        ValueError: If `images` has another shape or contains NaN.
    """
    check_images("images", images)
    n, channels, h, w = images.shape
    pixels = np.empty((n, h, w, channels), np.uint8)
    for i, image in enumerate(images.detach()):
        for c, plane in enumerate(image.float().cpu().numpy()):
            scaled = np.clip(plane, 0, 1)
            scaled *= 255
            np.rint(scaled, out=scaled)
            if np.isnan(scaled.max()):
                raise ValueError(f"images must not hold NaN, got some in image {i}")
            pixels[i, ..., c] = scaled
    return pixels


def to_uint8_tensor(images: Tensor) -> Tensor:
    """Convert images to the pixels of `to_uint8`, on their own device.

    NaN, which has no pixel value, is not refused, because that would wait for the device.

    Args:
        images: Floating-point images of shape [N, C, H, W] in [0, 1].

    Returns:
        Pixels of shape [N, H, W, C], uint8, contiguous.
    """
    scaled = images.float().clamp(0, 1).mul_(255).round_()
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def encode(pixels: np.ndarray, suffix: str) -> bytes:
    """Encode an image as the contents of a file.

    Args:
        pixels: Grey, RGB or RGBA pixels of shape [H, W, C], uint8. JPEG has no alpha channel: RGBA is composited over
            white.
        suffix: Suffix of the file, one of `FORMATS`.

    Returns:
        Contents of the file.

    Raises:
        ValueError: If the suffix is unknown, or the pixels of a PNG have another shape or dtype.
    """
    check_choice("suffix", suffix, tuple(FORMATS))
    if suffix == ".png":
        return encode_png(pixels)
    image, file = to_pillow(pixels), io.BytesIO()
    (flatten(image) if suffix == ".jpg" else image).save(file, **FORMATS[suffix])
    return file.getvalue()


def to_pillow(pixels: np.ndarray) -> Image.Image:
    """Convert pixels [H, W, C], uint8, to a Pillow image: grey (C = 1), RGB (C = 3) or RGBA (C = 4)."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def read_image(path: PathLike) -> Image.Image:
    """Read an image file in one of `FORMATS` as RGB, over white if it has an alpha channel.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the path is a folder, a pipe, a socket or a device.
        OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError: If the file is damaged or is not an image.
    """
    check_file(path)
    with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
        return flatten(image).convert("RGB")


def flatten(image: Image.Image) -> Image.Image:
    """Composite an image with an alpha channel over white. Other images are returned as they are."""
    if "A" not in image.getbands():
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
