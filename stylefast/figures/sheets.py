# SPDX-License-Identifier: Apache-2.0
"""Sheets of images with their names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..core.checks import check_shape
from . import canvas
from .canvas import GAP, INK, MARGIN, PAPER

COLUMNS = 10


def image_sheet(batches: Tensor | Iterable[Tensor], names: Sequence[object], *, cell: int = 160) -> Image.Image:
    """Show images in rows of ten, with their names below them.

    Args:
        batches: Floating-point images of shape [N, C, H, W] in [0, 1]; or an iterable of such batches, which are read
            one after the other. All images have the same size.
        names: Names of the images, texts or other values such as their seeds.
        cell: Longer side of an image in the figure, in pixels.

    Returns:
        The figure.

    Raises:
        TypeError: If a batch is not a floating-point tensor.
        ValueError: If the number of names does not match, a shape is wrong, the sizes of images differ, there is no
            image, an image contains NaN, or `cell` is not an integer >= 8.
    """
    tiles: list[Image.Image] = []
    image_size: Sequence[int] | None = None
    for batch in (batches,) if isinstance(batches, Tensor) else batches:
        canvas.check_not_empty("batches", batch)
        image_size = batch.shape[2:] if image_size is None else image_size
        check_shape("batches", batch, N=None, C=None, H=image_size[0], W=image_size[1])
        tiles += canvas.to_tiles(batch, cell)
    if not tiles or len(tiles) != len(names):
        raise ValueError(f"names must be one per image, and at least one, got {len(names)} for {len(tiles)} images")
    width, height = tiles[0].size
    size = max(11, min(20, cell // 10))
    font, step = ImageFont.load_default(size), height + GAP + round(1.7 * size)
    columns, rows = min(len(tiles), COLUMNS), math.ceil(len(tiles) / COLUMNS)
    extent = 2 * MARGIN + columns * (width + GAP) - GAP, 2 * MARGIN + rows * step - GAP
    figure = Image.new("RGB", extent, PAPER)
    draw = ImageDraw.Draw(figure)
    for i, (tile, name) in enumerate(zip(tiles, names, strict=True)):
        x, y = MARGIN + i % COLUMNS * (width + GAP), MARGIN + i // COLUMNS * step
        figure.paste(tile, (x, y))
        draw.text((x + width / 2, y + height + GAP), canvas.shorten(name, font, width), INK, font, anchor="ma")
    return figure
