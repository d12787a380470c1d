# SPDX-License-Identifier: Apache-2.0
"""Close-ups: the part of an image around a box, enlarged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from PIL import Image
from torch import Tensor

from ..core.boxes import box_around
from ..locality import check_mask

Box: TypeAlias = Sequence[float]

MAX_ZOOM = 3.0  # of a close-up, relative to the tile of the whole image


def mask_boxes(masks: Tensor) -> list[tuple[float, float, float, float]]:
    """Return a box around the region of every mask, with a margin.

    At each edge of a box, up to 3 % of the mass of the region may be outside, because single cells of the same cluster
    can lie far from the part.

    Args:
        masks: Regions of a part, such as the `roi` of a batch of edits, of shape [N, h, w]; bool, or floating-point
            weights in [0, 1].

    Returns:
        N boxes (x from, y from, x to, y to) as fractions of the frame. The box of an empty region is the whole frame.

    Raises:
        TypeError: If `masks` is neither bool nor floating-point.
        ValueError: If a shape does not match, or a weight is NaN or outside [0, 1].
    """
    check_mask("masks", masks)
    boxes = (box_around(mask.sum(0).tolist(), mask.sum(1).tolist()) for mask in masks.double())
    return [(0.0, 0.0, 1.0, 1.0) if box is None else (box[0], box[1], box[2], box[3]) for box in boxes]


def check_box(name: str, box: Box) -> None:
    """Raise ValueError unless a box is (x from, y from, x to, y to) in [0, 1]."""
    if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise ValueError(f"{name} must be boxes (x from, y from, x to, y to) in [0, 1], got {tuple(box)}")


def zoom(box: Box, size: tuple[int, int], tile: tuple[int, int]) -> float:
    """Return the zoom of a close-up relative to a tile.

    It is the largest zoom, up to a limit, at which the box fits into the close-up, but not so small that the close-up
    would be larger than the image.

    Args:
        box: Box (x from, y from, x to, y to) as fractions of the frame.
        size: Width and height of the close-up in pixels.
        tile: Width and height of the whole image in the figure.
    """
    fitting = min(MAX_ZOOM, *(size[i] / (tile[i] * (box[i + 2] - box[i])) for i in (0, 1)))
    return max(fitting, *(size[i] / tile[i] for i in (0, 1)))


def close_up(picture: Image.Image, box: Box, size: tuple[int, int], tile: tuple[int, int]) -> Image.Image:
    """Enlarge the area of a picture around a box that fills the close-up, at the zoom for the box."""
    spans = []
    for i, length in enumerate(picture.size):
        wanted = min(size[i] / (zoom(box, size, tile) * tile[i]), 1.0) * length
        begin = min(max((box[i] + box[i + 2]) / 2 * length - wanted / 2, 0.0), length - wanted)
        spans.append((begin, min(begin + wanted, float(length))))
    (left, right), (top, bottom) = spans
    return picture.resize(size, Image.Resampling.LANCZOS, box=(left, top, right, bottom))
