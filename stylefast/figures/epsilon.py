# SPDX-License-Identifier: Apache-2.0
"""One edit with several budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..core.checks import check_shape
from ..locality import Locality, locality
from . import canvas
from .canvas import FAINT, GAP, INK, MARGIN, PAPER, TEXT
from .closeups import close_up, mask_boxes, zoom
from .edits import Pictures, mark_unchanged
from .heat import heat_tiles

CLOSE_HEIGHTS = 0.4, 0.75  # smallest and largest height of a close-up, relative to the tile above it


def epsilon_row(
    target: Tensor,
    reference: Tensor,
    edits: Tensor,
    *,
    epsilons: Sequence[float],
    mask: Tensor,
    part: str = "",
    names: tuple[object, object] = ("", ""),
    vmax: float | None = None,
    cell: int = 200,
) -> Image.Image:
    """Show one edit with several budgets: a larger budget changes the part more, and the rest of the image, too.

    Each column has the image, a close-up of the part, the heat map, and the mean CIELAB differences to the target
    inside and outside the region, as `stylefast.locality.locality` measures them.

    Args:
        target: Floating-point target image of shape [1, C, H, W] in [0, 1].
        reference: Reference image of shape [1, C, H', W'].
        edits: Edited images of shape [Q, C, H, W], of the dtype and device of `target`.
        epsilons: Budgets of the Q edits.
        mask: Region of the part, such as the `roi` of an edit, of shape [1, h, w]; bool, or weights in [0, 1].
        part: Name of the part.
        names: Names of target and reference, texts or other values such as their seeds.
        vmax: Smallest difference that has the lightest colour, as in `heat_map`.
        cell: Longer side of every image in the figure, in pixels.

    Returns:
        The figure, about `(Q + 2)·cell` pixels wide and `3·cell` pixels high.

    Raises:
        TypeError: If an image is not a floating-point tensor, or `mask` is neither bool nor floating-point.
        ValueError: If a shape, a dtype or a device does not match, there is no edit, an image contains NaN, a weight is
            outside [0, 1], `vmax` is not a finite number > 0, or `cell` is not an integer >= 8.
    """
    canvas.check_not_empty("target", target)
    canvas.check_not_empty("reference", reference)
    check_shape("target", target, N=1, C=None, H=None, W=None)
    check_shape("reference", reference, N=1, C=None, H=None, W=None)
    check_shape("edits", edits, Q=len(epsilons), C=target.shape[1], H=target.shape[2], W=target.shape[3])
    canvas.check_not_empty("edits", edits)
    check_shape("mask", mask, N=1, h=None, w=None)
    Q = len(epsilons)
    masks, repeated = (x.expand(Q, *x.shape[1:]) for x in (mask, target))
    heat, ticks = heat_tiles(edits, repeated, masks, vmax, cell)
    measured = locality(edits, repeated, masks)
    (box,) = mask_boxes(mask)
    before, other, after = (Pictures.of(images, cell) for images in (target, reference, edits))
    for tile in after.tiles:
        mark_unchanged(tile, before.tiles[0])
    for pictures, name in zip((before, other), names, strict=True):
        if name != "":
            canvas.write_caption(pictures.tiles[0], name)
    pictures = [*before.originals, *other.originals, *after.originals]
    tiles = [*before.tiles, *other.tiles, *after.tiles]
    width, height = (max(tile.size[axis] for tile in tiles) for axis in (0, 1))
    wanted = zoom(box, (width, height), (width, height)) * (box[3] - box[1])  # of the height of a tile
    close = width, max(1, round(height * min(max(wanted, CLOSE_HEIGHTS[0]), CLOSE_HEIGHTS[1])))
    closes = [close_up(picture, box, close, tile.size) for picture, tile in zip(pictures, tiles, strict=True)]
    titles = ["target", "reference", *(f"epsilon {epsilon:g}" for epsilon in epsilons)]
    maps = [_legend(ticks, (2 * width + GAP, height)), *heat]
    return _draw(part, titles, (tiles, closes, maps), _texts(measured))


def _texts(measured: Locality) -> list[str]:
    """Return the lines below every edit. The ratio of two differences that are printed as zero is left out."""
    lines = []
    for inside, outside in zip(measured.delta_e_inside.tolist(), measured.delta_e_outside.tolist(), strict=True):
        ratio = math.nan if max(inside, outside) < 0.005 or outside == 0 else inside / outside
        lines.append(f"inside {_number(inside)}\noutside {_number(outside)}\nratio {_number(ratio)}")
    return lines


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _legend(ticks: Sequence[str], size: tuple[int, int]) -> Image.Image:
    """Draw the legend of the heat maps."""
    legend = Image.new("RGB", size, PAPER)
    font = ImageFont.load_default(TEXT)
    ImageDraw.Draw(legend).multiline_text((0, 0), "CIELAB difference to the target", INK, font)
    legend.paste(canvas.colour_bar(ticks, "", size[0]), (0, 2 * TEXT))
    hint = "The outline is the region of the part.\nBelow: mean inside and outside of it."
    ImageDraw.Draw(legend).multiline_text((0, 5 * TEXT + GAP), hint, FAINT, font)
    return legend


def _draw(part: str, titles: Sequence[str], rows: tuple[list[Image.Image], ...], texts: Sequence[str]) -> Image.Image:
    """Arrange tiles, close-ups and maps below the titles, and the texts below the maps of the edits."""
    (width, height), close, Q = rows[0][0].size, rows[1][0].height, len(texts)
    font, line = ImageFont.load_default(TEXT), round(1.5 * TEXT)
    left = MARGIN + (line + GAP if part else 0)
    xs = [left + i * (width + GAP) + (2 * GAP if i > 1 else 0) for i in range(Q + 2)]
    ys = [MARGIN + line + y for y in (0, height + GAP, height + close + 2 * GAP)]
    bottom = ys[2] + height + GAP
    figure = Image.new("RGB", (xs[-1] + width + MARGIN, bottom + 3 * line + MARGIN), PAPER)
    draw = ImageDraw.Draw(figure)
    for x, title in zip(xs, titles, strict=True):
        draw.text((x + width / 2, MARGIN), canvas.shorten(title, font, width), INK, font, anchor="ma")
    for y, row, columns in zip(ys, rows, (xs, xs, (xs[0], *xs[2:])), strict=True):
        for x, picture in zip(columns, row, strict=True):
            figure.paste(picture, (x, y))
    for x, text in zip(xs[2:], texts, strict=True):
        draw.multiline_text((x + width / 2, bottom), text, INK, font, anchor="ma", align="center")
    if part:
        canvas.write_upright(figure, part, (MARGIN, ys[0]), height)
    return figure
