# SPDX-License-Identifier: Apache-2.0
"""Elements of the figures: colours, tiles, sheets and legends."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TypeAlias

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ..core.checks import check_integer
from ..core.images import check_images, to_rgb
from ..io.images import to_pillow, to_uint8
from ..locality import rgb_to_lab

Colour: TypeAlias = tuple[int, int, int]

MARGIN, GAP = 16, 4  # pixels around a figure and between tiles
MIN_CELL = 8  # pixels of the longer side of an image in a figure
COLUMNS = 6  # tiles per row of a sheet
TEXT = 14  # pixels
PAPER: Colour = (255, 255, 255)
INK: Colour = (31, 35, 40)
FAINT: Colour = (118, 127, 137)
# Dark to light in even steps of CIELAB lightness: 6, 19, … 97.
HEAT_HEX = ("09122a", "242763", "752a84", "c32481", "f64e66", "ff9048", "ffc954", "fff9ba")
FIRST_HEX = ("2f7fe6", "f2683c", "22b573", "e8b11c", "a45de0", "e8488b")  # first colours of `distinct_colours`


def from_hex(colours: Sequence[str]) -> Tensor:
    """Convert hex codes to colours [n, 3], float32 in 0..255."""
    return torch.tensor([list(bytes.fromhex(colour)) for colour in colours], dtype=torch.float32, device="cpu")


@cache
def heat_colours() -> Tensor:
    """Return the 256 colours from no change to the largest change, [256, 3], float32 in 0..255."""
    return interpolate(from_hex(HEAT_HEX).T[None], size=256, mode="linear", align_corners=True)[0].T.round()


@cache
def distinct_colours(n: int) -> tuple[Colour, ...]:
    """Choose n colours that are far apart in CIELAB; the first n − 1 are the colours for n − 1."""
    steps = torch.arange(0, 256, 15, dtype=torch.float32, device="cpu")
    rgb = torch.cat([from_hex(FIRST_HEX), torch.cartesian_prod(steps, steps, steps)])  # [candidates, 3]
    lab = rgb_to_lab(rgb.T.reshape(1, 3, -1, 1) / 255)[0, :, :, 0].T  # [candidates, 3]
    lightness, chroma = lab[:, 0], lab[:, 1:].norm(dim=1)
    is_usable = (lightness > 40) & (lightness < 88) & (chroma > 30) & (chroma < 85)  # not dark, pale, grey or glaring
    is_usable[: len(FIRST_HEX)] = True
    rgb, lab = rgb[is_usable], lab[is_usable]
    chosen: list[int] = []
    distance = torch.full(
        (len(rgb),), math.inf, dtype=rgb.dtype, device="cpu"
    )  # of each candidate from the nearest chosen colour
    for i in range(n):
        chosen.append(i if i < len(FIRST_HEX) else int(distance.argmax()))
        distance = distance.minimum((lab - lab[chosen[-1]]).norm(dim=1))
    return tuple((int(r), int(g), int(b)) for r, g, b in rgb[chosen].tolist())


def to_image(pixels: Tensor) -> Image.Image:
    """Convert pixels [H, W, 3] in 0..255 to an RGB image."""
    return Image.fromarray(pixels.round().byte().cpu().numpy())


def check_not_empty(name: str, images: Tensor) -> None:
    """Raise TypeError or ValueError unless `images` holds at least one image."""
    check_images(name, images)
    if not images.numel():
        raise ValueError(f"{name} must hold at least one image, got {tuple(images.shape)}")


def to_pictures(images: Tensor) -> Iterator[Image.Image]:
    """Convert images [N, C, H, W] in [0, 1] to N RGB images of the same size."""
    rgb = (to_rgb(image[None].clamp(0, 1)) for image in images)
    return (to_pillow(to_uint8(image)[0]) for image in rgb)


def to_tiles(images: Tensor, cell: int) -> list[Image.Image]:
    """Convert images [N, C, H, W] in [0, 1] to N RGB tiles whose longer side has `cell` pixels, resized by Lanczos."""
    size = cell_size(images.shape[2:], cell)
    return [picture.resize(size, Image.Resampling.LANCZOS) for picture in to_pictures(images)]


def cell_size(size: Sequence[int], cell: int) -> tuple[int, int]:
    """Return (width, height) of images of a size (height, width) in a figure. Raise ValueError unless `cell` >= 8."""
    return scaled_size(size, check_integer("cell", cell, MIN_CELL))


def scaled_size(size: Sequence[int], longer_side: int) -> tuple[int, int]:
    """Return (width, height) of a size (height, width) that is scaled to a longer side of `longer_side` pixels."""
    height, width = size
    scale = longer_side / max(size)
    return max(1, round(width * scale)), max(1, round(height * scale))


def find_borders(regions: Tensor) -> Tensor:
    """Mark the pixels of regions [H, W] whose right or lower neighbour belongs to another region."""
    is_border = torch.zeros_like(regions, dtype=torch.bool)
    is_border[:, :-1] |= regions[:, :-1] != regions[:, 1:]
    is_border[:-1] |= regions[:-1] != regions[1:]
    return is_border


def sheet(tiles: Sequence[Image.Image], legend: Callable[[int], Image.Image]) -> Image.Image:
    """Arrange tiles of one size in rows above a legend, which is drawn by a function of its width."""
    width, height = tiles[0].size
    columns = min(len(tiles), COLUMNS)
    strip = legend(max(columns * (width + GAP) - GAP, 400))
    bottom = MARGIN + math.ceil(len(tiles) / columns) * (height + GAP) + 2 * GAP
    figure = Image.new("RGB", (strip.width + 2 * MARGIN, bottom + strip.height + MARGIN), PAPER)
    for i, tile in enumerate(tiles):
        figure.paste(tile, (MARGIN + i % columns * (width + GAP), MARGIN + i // columns * (height + GAP)))
    figure.paste(strip, (MARGIN, bottom))
    return figure


def swatches(names: Sequence[str], colours: Sequence[Colour], width: int) -> Image.Image:
    """Draw a legend of colours, in as many lines as the width requires."""
    font, line = ImageFont.load_default(TEXT), 22
    positions, x, y = [], 0, 0
    for name in names:
        advance = 20 + math.ceil(font.getlength(name)) + TEXT
        if x and x + advance > width:
            x, y = 0, y + line
        positions.append((x, y))
        x += advance
    strip = Image.new("RGB", (width, y + line), PAPER)
    draw = ImageDraw.Draw(strip)
    for name, colour, (x, y) in zip(names, colours, positions, strict=True):
        draw.rounded_rectangle((x, y + 4, x + 13, y + 17), 3, colour)
        draw.text((x + 20, y + line / 2), name, INK, font, anchor="lm")
    return strip


def colour_bar(ticks: Sequence[str], title: str, width: int) -> Image.Image:
    """Draw a legend of the heat colours, with ticks in even steps."""
    font = ImageFont.load_default(TEXT)
    strip = Image.new("RGB", (width, 36), PAPER)
    ramp = Image.fromarray(heat_colours().byte().numpy()[None]).resize((256, 10))
    strip.paste(ramp, (0, 2))
    draw = ImageDraw.Draw(strip)
    for i, tick in enumerate(ticks):
        fraction = i / (len(ticks) - 1)
        anchor = "la" if i == 0 else "ra" if fraction == 1 else "ma"
        draw.text((fraction * ramp.width, 18), tick, INK, font, anchor=anchor)
    draw.text((ramp.width + TEXT, 7), title, INK, font, anchor="lm")
    return strip


def write_numbers(tile: Image.Image, regions: Tensor) -> None:
    """Write the number of every region that covers at least one per cent of the tile, where the region is widest."""
    size = max(10, max(tile.size) // 20)
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(size)
    for k, coverage in enumerate(_coverages(regions)):
        if coverage.mean() < 0.01:
            continue
        near, far = (avg_pool2d(coverage[None], 2 * reach + 1, stride=1, padding=reach) for reach in (3, 16))
        y, x = divmod(int(((near + 0.1 * far) * coverage).argmax()), 32)  # `far` decides between equal `near`
        left, top = (
            min(max((i + 0.5) / 32 * side, size), side - size) for i, side in zip((x, y), tile.size, strict=True)
        )
        draw.text((left, top), str(k), PAPER, font, anchor="mm", stroke_width=2, stroke_fill=INK)


def _coverages(regions: Tensor) -> Tensor:
    """Return which share of each cell of a grid every region [H, W] covers, [K, 32, 32].

    The regions are resized first, with "nearest", if a side is no multiple of 32.
    """
    height, width = (math.ceil(side / 32) for side in regions.shape)  # of a cell
    fine = interpolate(regions[None, None].float(), size=[32 * height, 32 * width], mode="nearest")[0, 0].long()
    numbers = fine.view(32, height, 32, width).movedim(2, 1).reshape(32 * 32, -1)  # [cells, pixels of a cell]
    n_regions = int(fine.max()) + 1
    offsets = n_regions * torch.arange(32 * 32, device="cpu")[:, None]
    counts = (offsets + numbers).flatten().bincount(minlength=n_regions * 32 * 32)
    return counts.view(32, 32, n_regions).movedim(2, 0) / (height * width)


def write_caption(tile: Image.Image, text: object) -> None:
    """Write a text into a dark strip at the bottom of a tile, shortened to its width."""
    size = max(11, min(TEXT, max(tile.size) // 12))
    font, height = ImageFont.load_default(size), int(1.5 * size)
    strip = (0, tile.height - height, tile.width, tile.height)
    tile.paste(Image.blend(tile.crop(strip), Image.new("RGB", (tile.width, height), INK), 0.75), strip)
    place = tile.width / 2, tile.height - height / 2
    ImageDraw.Draw(tile).text(place, shorten(text, font, tile.width - 6), PAPER, font, anchor="mm")


def shorten(text: object, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Return the text of a name, at most `width` pixels long. A text that is cut ends in an ellipsis."""
    text = str(text)
    if font.getlength(text) <= width:
        return text
    end = bisect_right(range(len(text)), width, key=lambda n: font.getlength(text[:n] + "…")) - 1
    return text[: max(0, end)].rstrip() + "…"


def stack(figures: Sequence[Image.Image]) -> Image.Image:
    """Arrange figures below each other."""
    column = Image.new("RGB", (max(f.width for f in figures), sum(f.height for f in figures)), PAPER)
    y = 0
    for figure in figures:
        column.paste(figure, (0, y))
        y += figure.height
    return column


def write_upright(figure: Image.Image, text: str, place: tuple[int, int], length: int, size: int = TEXT) -> None:
    """Write a text from the bottom to the top, in the middle of a column of a length below a place."""
    font, line = ImageFont.load_default(size), int(1.6 * size)
    column = Image.new("L", (length, line))
    ImageDraw.Draw(column).text((length / 2, 0), shorten(text, font, length), 255, font, anchor="ma")
    figure.paste(INK, place, column.rotate(90, expand=True))
