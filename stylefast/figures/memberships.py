# SPDX-License-Identifier: Apache-2.0
"""Heat maps of memberships."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

from ..core.checks import check_shape
from . import canvas
from .canvas import GAP, INK, MARGIN, PAPER

MAX_MAPS = 32  # per image
OPACITY = 0.6  # of the heat colours; the rest is the grey image


def membership_maps(
    images: Tensor, memberships: Tensor, *, names: Sequence[object] | None = None, cell: int = 128
) -> Image.Image:
    """Show how much of each position of the images belongs to each cluster or part.

    Args:
        images: Floating-point images of shape [N, C, H, W] in [0, 1].
        memberships: Floating-point memberships of shape [N, K, h, w] in [0, 1] with K <= 32, such as
            `Catalog.memberships` returns. They are resized bilinearly. The memberships of a part are the sum of those
            of its clusters.
        names: Names of the K clusters or parts, texts or other values. The default is their numbers.
        cell: Longer side of an image in the figure, in pixels.

    Returns:
        A row per image, with the image and then the heat map of each cluster over the grey image, above a colour bar.

    Raises:
        TypeError: If `images` or `memberships` is not a floating-point tensor.
        ValueError: If a shape or the number of names does not match, there is no image or no cluster, there are more
            than 32 clusters, a membership is outside [0, 1] or NaN, an image contains NaN, or `cell` is not an integer
            >= 8.
    """
    canvas.check_not_empty("images", images)
    _check_memberships(memberships, len(images))
    k = memberships.shape[1]
    names = [str(i) for i in range(k)] if names is None else names
    if len(names) != k:
        raise ValueError(f"names must have {k} items to match the memberships, got {len(names)}")
    rows = [
        [tile, *_heat_tiles(tile, u)]
        for tile, u in zip(canvas.to_tiles(images, cell), memberships.detach().float().cpu(), strict=True)
    ]
    width, height = rows[0][0].size
    size = max(11, min(20, cell // 9))
    font, line = ImageFont.load_default(size), round(1.7 * size)
    bar = canvas.colour_bar(["0", "0.5", "1"], "membership", 400)
    bottom = MARGIN + line + len(rows) * (height + GAP) + 2 * GAP
    extent = max((k + 1) * (width + GAP) - GAP, bar.width) + 2 * MARGIN, bottom + bar.height + MARGIN
    figure = Image.new("RGB", extent, PAPER)
    draw = ImageDraw.Draw(figure)
    for column, name in enumerate(["image", *names]):
        x = MARGIN + column * (width + GAP)
        draw.text((x + width / 2, MARGIN), canvas.shorten(name, font, width), INK, font, anchor="ma")
        for row, tiles in enumerate(rows):
            figure.paste(tiles[column], (x, MARGIN + line + row * (height + GAP)))
    figure.paste(bar, (MARGIN, bottom))
    return figure


def _heat_tiles(tile: Image.Image, u: Tensor) -> list[Image.Image]:
    """Return the heat maps of memberships [K, h, w] over a tile."""
    grey = torch.from_numpy(np.array(tile)).float().mean(2, keepdim=True)  # [H, W, 1]
    size = (tile.height, tile.width)
    fine = interpolate(u[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]
    colours = canvas.heat_colours()[(fine * 255).round().clamp(0, 255).long()]  # [K, H, W, 3]
    return [canvas.to_image(OPACITY * pixels + (1 - OPACITY) * grey) for pixels in colours]


def _check_memberships(memberships: Tensor, n: int) -> None:
    if not isinstance(memberships, Tensor) or not memberships.is_floating_point():
        kind = getattr(memberships, "dtype", type(memberships).__name__)
        raise TypeError(f"memberships must be a floating-point tensor [N, K, h, w], got {kind}")
    check_shape("memberships", memberships, N=n, K=None, h=None, w=None)
    if not memberships.numel() or memberships.shape[1] > MAX_MAPS:
        shape = tuple(memberships.shape)
        raise ValueError(f"memberships [N, K, h, w] must have K in [1, {MAX_MAPS}] and h, w >= 1, got {shape}")
    low, high = (float(value) for value in memberships.aminmax())
    if not (low >= 0 and high <= 1 + 1e-5):  # sums of memberships of a part round
        raise ValueError(f"memberships must lie in [0, 1], got values from {low} to {high}")
