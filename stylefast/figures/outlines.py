# SPDX-License-Identifier: Apache-2.0
"""Anti-aliased areas and outlines of regions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, pad

from .canvas import cell_size, find_borders

FINE = 4  # fine pixels per pixel of a tile, in each direction


def label_size(image_size: Sequence[int], cell: int) -> tuple[int, int]:
    """Return the size (H, W) of the label maps from which figures draw the smoothest outlines.

    Args:
        image_size: Height and width of the images.
        cell: Longer side of an image in the figure, in pixels.

    Raises:
        ValueError: If `cell` is not an integer >= 8.
    """
    width, height = cell_size(image_size, cell)
    return FINE * height, FINE * width


def fine_regions(regions: Tensor, size: Sequence[int]) -> Tensor:
    """Resize the numbers of regions [h, w] by "nearest" to the fine pixels of a tile of size (H, W)."""
    fine = interpolate(regions[None, None].float(), size=[FINE * side for side in size], mode="nearest")
    return fine[0, 0].to(regions.dtype)


def coverage(fine: Tensor) -> Tensor:
    """Return the mean of the fine pixels of every pixel, [FINE H, FINE W] to float32 [H, W]: of a mask, its share."""
    return avg_pool2d(fine[None].float(), FINE)[0]


def outline(regions: Tensor) -> Tensor:
    """Return the share of every pixel that outlines of the regions cover, [FINE H, FINE W] to float32 [H, W].

    An outline is one pixel wide. It lies in the left or upper one of two regions, so that straight outlines are sharp.
    """
    reach = FINE - 1
    wide = max_pool2d(pad(find_borders(regions)[None].float(), (0, reach, 0, reach)), FINE, stride=1)
    return avg_pool2d(wide, FINE)[0]
