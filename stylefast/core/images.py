# SPDX-License-Identifier: Apache-2.0
"""Images as tensors [N, C, H, W] in [0, 1], which are grey (C = 1), RGB (C = 3) or RGBA (C = 4)."""

from __future__ import annotations

import torch
from torch import Tensor

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by number of channels, as Pillow calls them
CHANNELS = "C = 1 (grey), 3 (RGB) or 4 (RGBA)"


def check_images(name: str, images: Tensor) -> None:
    """Raise TypeError or ValueError unless `images` is a floating-point tensor [N, C, H, W] with 1, 3 or 4 channels."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"{name} must be a floating-point tensor [N, C, H, W] in [0, 1], got {got}")
    if images.ndim != 4 or images.shape[1] not in MODES:
        raise ValueError(f"{name} must have shape [N, C, H, W] with {CHANNELS}, got {tuple(images.shape)}")


def to_rgb(images: Tensor) -> Tensor:
    """Convert images to RGB. Grey is repeated, and RGBA is composited over white: `a rgb + (1 - a)`.

    Args:
        images: Floating-point images of shape [..., C, H, W] in [0, 1], with C = 1, 3 or 4.

    Returns:
        Images of shape [..., 3, H, W]. RGB images are returned as they are.
    """
    channels = images.shape[-3]
    if channels == 1:
        return images.expand(*images.shape[:-3], 3, -1, -1)
    if channels == 3:
        return images
    colours, alpha = images.split((3, 1), dim=-3)
    return torch.addcmul(1 - alpha, alpha, colours)
