# SPDX-License-Identifier: Apache-2.0
"""Images as the bytes of files."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.checks import check_images


def to_bytes(images: Tensor) -> Tensor:
    """Convert images to 8 bits, as files hold them.

    Args:
        images: [N, 3, H, W] floating in [0, 1]; clamped, then rounded.

    Returns:
        [N, H, W, 3] uint8 on the CPU.

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
    return torch.from_numpy(pixels)


FORMATS: dict[str, dict[str, Any]] = {  # what Pillow is given; PNG is encoded here
    ".png": {},
    ".jpg": {"format": "JPEG", "quality": 90},
    ".webp": {"format": "WEBP", "quality": 90, "method": 2},
}
