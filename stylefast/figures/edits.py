# SPDX-License-Identifier: Apache-2.0
"""The grid of edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont
from torch import Tensor

from ..core.checks import check_shape
from . import canvas
from .canvas import FAINT, GAP, INK, MARGIN, PAPER
from .closeups import Box, check_box, close_up, zoom

NO_CHANGE = "no change"
ROUNDING = 1  # difference of 8-bit values that counts as no change
CLOSE_WIDTH = 1.2  # of a close-up, relative to the tile beside it


def edit_grid(
    targets: Tensor,
    references: Tensor,
    edits: Tensor,
    *,
    part_names: Sequence[str],
    boxes: Sequence[Box] | None = None,
    target_names: Sequence[object] | None = None,
    reference_names: Sequence[object] | None = None,
    cell: int = 160,
) -> Image.Image:
    """Show every edit in the row of its part and target, and in the column of its reference.

    With boxes, there are close-ups of the part beside every edit: the target above, the edit below. References are
    repeated above the rows of each part, with a close-up of the part. An edit that equals its target in the figure says
    so.

    Args:
        targets: Floating-point target images of shape [T, C, H, W] in [0, 1].
        references: Reference images of shape [R, C, H', W'].
        edits: Edited images of shape [P, T, R, C, H", W"].
        part_names: Names of the P parts.
        boxes: Box of each part, (x from, y from, x to, y to) as fractions of the frame, such as `mask_boxes` returns.
            A close-up shows the box at up to three times the size of the image beside it. Without boxes, there are no
            close-ups.
        target_names: Names of the targets, texts or other values such as their seeds, which are written on them.
        reference_names: Names of the references.
        cell: Longer side of every image in the figure, in pixels.

    Returns:
        The figure, about `(R + 1)·cell` pixels wide and `(P·T + 1)·cell` pixels high. With boxes, it is about
        `(1 + 2.2·R)·cell` pixels wide and `P·(T + 1)·cell` pixels high.

    Raises:
        TypeError: If an argument is not a floating-point tensor.
        ValueError: If a shape or the number of names or boxes does not match, there is no image, an image contains NaN,
            a box is out of range, or `cell` is not an integer >= 8.
    """
    canvas.check_not_empty("targets", targets)
    canvas.check_not_empty("references", references)
    P, T, R = len(part_names), len(targets), len(references)
    check_shape("edits", edits, P=P, T=T, R=R, C=None, H=None, W=None)
    canvas.check_not_empty("edits", edits.flatten(0, 2))
    for name, values, n in (
        ("boxes", boxes, P),
        ("target_names", target_names, T),
        ("reference_names", reference_names, R),
    ):
        if values is not None and len(values) != n:
            raise ValueError(f"{name} must have {n} items to match the images and parts, got {len(values)}")
    shown_targets, shown_references, shown_edits = (
        Pictures.of(images, cell) for images in (targets, references, edits.flatten(0, 2))
    )
    for i, tile in enumerate(shown_edits.tiles):
        mark_unchanged(tile, shown_targets.tiles[i // R % T])
    for pictures, names in ((shown_targets, target_names), (shown_references, reference_names)):
        for tile, name in zip(pictures.tiles, names or (), strict=False):
            canvas.write_caption(tile, name)
    if boxes is None:
        return _plain_grid(shown_targets.tiles, shown_references.tiles, shown_edits.tiles, part_names, cell)
    bands = []
    for p, (part, box) in enumerate(zip(part_names, boxes, strict=True)):
        check_box("boxes", box)
        rows = slice(p * T * R, (p + 1) * T * R)
        band = Pictures(shown_edits.originals[rows], shown_edits.tiles[rows])
        bands.append(_band(part, box, shown_targets, shown_references, band))
    return canvas.stack(bands)


class Pictures(NamedTuple):
    """Images in their own size, and their tiles."""

    originals: list[Image.Image]
    tiles: list[Image.Image]

    @classmethod
    def of(cls, images: Tensor, cell: int) -> Pictures:
        """Convert images [N, C, H, W]."""
        return cls(list(canvas.to_pictures(images)), canvas.to_tiles(images, cell))


def mark_unchanged(tile: Image.Image, target: Image.Image) -> None:
    """Write on the tile of an edit that it equals its target."""
    if tile.size == target.size and np.asarray(ImageChops.difference(tile, target)).max() <= ROUNDING:
        canvas.write_caption(tile, NO_CHANGE)


def _plain_grid(
    targets: list[Image.Image],
    references: list[Image.Image],
    edits: list[Image.Image],
    part_names: Sequence[str],
    cell: int,
) -> Image.Image:
    P, T, R = len(part_names), len(targets), len(references)
    width, height = (max(tiles[0].size[axis] for tiles in (targets, references, edits)) for axis in (0, 1))
    text_size = max(12, cell // 10)
    font, line = ImageFont.load_default(text_size), int(1.6 * text_size)
    origin = MARGIN + line
    xs = [origin, *(origin + 2 * GAP + r * (width + GAP) for r in range(1, R + 1))]
    ys = [origin, *(origin + 2 * GAP * (1 + row // T) + (1 + row) * (height + GAP) for row in range(P * T))]
    figure = Image.new("RGB", (xs[-1] + width + MARGIN, ys[-1] + height + MARGIN), PAPER)
    draw = ImageDraw.Draw(figure)
    draw.text(((xs[1] + xs[-1] + width) / 2, MARGIN), "references", FAINT, font, anchor="ma")
    draw.text((origin + width / 2, ys[1] - 2 * GAP), "targets", FAINT, font, anchor="md")
    for x, tile in zip(xs[1:], references, strict=True):
        figure.paste(tile, (x, origin))
    for row, y in enumerate(ys[1:]):
        for x, tile in zip(xs, (targets[row % T], *edits[row * R : (row + 1) * R]), strict=True):
            figure.paste(tile, (x, y))
    for name, y in zip(part_names, ys[1::T], strict=True):
        canvas.write_upright(figure, name, (MARGIN, y), T * (height + GAP) - GAP, text_size)
    return figure


def _band(part: str, box: Box, targets: Pictures, references: Pictures, edits: Pictures) -> Image.Image:
    """Draw the rows of a part: the references, then the edits of every target, all with close-ups."""
    T, R = len(targets.tiles), len(references.tiles)
    width, height = (max(p.tiles[0].size[axis] for p in (targets, references, edits)) for axis in (0, 1))
    frame = round(CLOSE_WIDTH * width)  # width of the two close-ups beside an edit
    stacked, beside = (frame, max(1, (height - GAP) // 2)), (max(1, (frame - GAP) // 2), height)
    is_stacked = zoom(box, stacked, (width, height)) >= zoom(box, beside, (width, height))
    size = stacked if is_stacked else beside
    second = frame - size[0], height - size[1]  # place of the second close-up
    large, small = (ImageFont.load_default(max(12, height // lines)) for lines in (8, 12))
    step = width + GAP + frame + 3 * GAP
    xs = [MARGIN, *(MARGIN + width + 3 * GAP + r * step for r in range(R))]
    ys = [MARGIN, *(MARGIN + height + 3 * GAP + t * (height + GAP) for t in range(T))]
    figure = Image.new("RGB", (xs[-1] + step - 3 * GAP + MARGIN, ys[-1] + height + MARGIN), PAPER)

    def paste(picture: Image.Image, tile: Image.Image, x: int, y: int) -> None:
        figure.paste(close_up(picture, box, size, tile.size), (x + width + GAP, y))

    draw = ImageDraw.Draw(figure)
    draw.text((MARGIN, MARGIN), canvas.shorten(part, large, width), INK, large)
    hint = "target above,\nedit below" if is_stacked else "target left,\nedit right"
    draw.multiline_text((MARGIN, MARGIN + height), f"close-ups:\n{hint}", FAINT, small, anchor="ld")
    for x, tile, picture in zip(xs[1:], references.tiles, references.originals, strict=True):
        figure.paste(tile, (x, MARGIN))
        paste(picture, tile, x + second[0], MARGIN + second[1])
        title = canvas.shorten("reference", small, size[0])
        draw.text((x + width + GAP, MARGIN + size[1]), title, FAINT, small, anchor="ld")
    for t, y in enumerate(ys[1:]):
        figure.paste(targets.tiles[t], (MARGIN, y))
        for x, edit in zip(xs[1:], range(t * R, (t + 1) * R), strict=True):
            figure.paste(edits.tiles[edit], (x, y))
            paste(targets.originals[t], targets.tiles[t], x, y)
            paste(edits.originals[edit], edits.tiles[edit], x + second[0], y + second[1])
    return figure
