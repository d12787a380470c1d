# SPDX-License-Identifier: Apache-2.0
"""What the figures are drawn with: colours, cells, sheets and legends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate

from ..locality import rgb_to_lab

Colour = tuple[int, int, int]


MARGIN, GAP, COLUMNS = 16, 4, 6  # pixels around a figure and between cells; cells a row


TEXT = 14  # pixels


PAPER: Colour = (255, 255, 255)


INK: Colour = (31, 35, 40)


FAINT: Colour = (118, 127, 137)


# Dark to light in even steps of CIELAB lightness: 6, 19, … 97.
HEAT = ("09122a", "242763", "752a84", "c32481", "f64e66", "ff9048", "ffc954", "fff9ba")


FIRST = ("2f7fe6", "f2683c", "22b573", "e8b11c", "a45de0", "e8488b")  # a few parts get these


def from_hex(colours: Sequence[str]) -> Tensor:
    """Hex codes -> [n, 3] float32 in 0..255."""
    return torch.tensor([list(bytes.fromhex(colour)) for colour in colours], dtype=torch.float32)


@cache
def heat() -> Tensor:
    """The 256 colours from no change to the largest, [256, 3] float32 in 0..255."""
    return interpolate(from_hex(HEAT).T[None], size=256, mode="linear", align_corners=True)[0].T.round()


@cache
def distinct_colours(n: int) -> tuple[Colour, ...]:
    """Choose n colours far apart in CIELAB; n colours begin with those of n − 1."""
    steps = torch.arange(0.0, 256, 15)
    rgb = torch.cat([from_hex(FIRST), torch.cartesian_prod(steps, steps, steps)])  # [candidates, 3]
    lab = rgb_to_lab(rgb.T.reshape(1, 3, -1, 1) / 255)[0, :, :, 0].T  # [candidates, 3]
    lightness, chroma = lab[:, 0], lab[:, 1:].norm(dim=1)
    usable = (lightness > 40) & (lightness < 88) & (chroma > 30) & (chroma < 85)  # neither murky, pale nor glaring
    usable[: len(FIRST)] = True
    rgb, lab = rgb[usable], lab[usable]
    chosen: list[int] = []
    distance = torch.full((len(rgb),), math.inf)  # of each candidate from the nearest chosen
    for i in range(n):
        chosen.append(i if i < len(FIRST) else int(distance.argmax()))
        distance = distance.minimum((lab - lab[chosen[-1]]).norm(dim=1))
    return tuple((int(r), int(g), int(b)) for r, g, b in rgb[chosen].tolist())


def picture(pixels: Tensor) -> Image.Image:
    """[H, W, 3] in 0..255 -> RGB image."""
    return Image.fromarray(pixels.round().byte().cpu().numpy())


def fit(size: Sequence[int], cell: int) -> tuple[int, int]:
    """(height, width) -> (width, height), with the longer side brought to cell."""
    height, width = size
    scale = cell / max(size)
    return max(1, round(width * scale)), max(1, round(height * scale))


def borders(regions: Tensor) -> Tensor:
    """Mark the pixels of regions [H, W] whose right or lower neighbour belongs to another."""
    marks = torch.zeros_like(regions, dtype=torch.bool)
    marks[:, :-1] |= regions[:, :-1] != regions[:, 1:]
    marks[:-1] |= regions[:-1] != regions[1:]
    return marks


def sheet(tiles: Sequence[Image.Image], legend: Callable[[int], Image.Image]) -> Image.Image:
    """Set tiles of one size in rows, over a legend that is told the width it has."""
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
    """A legend of colours, in as many lines as they take."""
    font, line = ImageFont.load_default(TEXT), 22
    places, x, y = [], 0, 0
    for name in names:
        advance = 20 + math.ceil(font.getlength(name)) + TEXT
        if x and x + advance > width:
            x, y = 0, y + line
        places.append((x, y))
        x += advance
    strip = Image.new("RGB", (width, y + line), PAPER)
    draw = ImageDraw.Draw(strip)
    for name, colour, (x, y) in zip(names, colours, places, strict=True):
        draw.rounded_rectangle((x, y + 4, x + 13, y + 17), 3, colour)
        draw.text((x + 20, y + line / 2), name, INK, font, anchor="lm")
    return strip


def scale(ticks: Sequence[str], title: str, width: int) -> Image.Image:
    """A legend of the heat colours, with ticks in even steps."""
    font = ImageFont.load_default(TEXT)
    strip = Image.new("RGB", (width, 36), PAPER)
    ramp = Image.fromarray(heat().byte().numpy()[None]).resize((256, 10))
    strip.paste(ramp, (0, 2))
    draw = ImageDraw.Draw(strip)
    for i, tick in enumerate(ticks):
        share = i / (len(ticks) - 1)
        draw.text((share * ramp.width, 18), tick, INK, font, anchor="la" if i == 0 else "ra" if share == 1 else "ma")
    draw.text((ramp.width + TEXT, 7), title, INK, font, anchor="lm")
    return strip


def write_numbers(tile: Image.Image, regions: Tensor) -> None:
    """Write the number of every region of one per cent or more where it is widest."""
    size = max(10, max(tile.size) // 20)
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(size)
    for k in regions.unique().tolist():
        here = adaptive_avg_pool2d((regions == k).float()[None], 32)  # [1, 32, 32]
        if here.mean() < 0.01:
            continue
        near, far = (avg_pool2d(here, 2 * reach + 1, stride=1, padding=reach) for reach in (3, 16))
        y, x = divmod(int(((near + 0.1 * far) * here).argmax()), 32)  # far decides where near is full
        place = [min(max((i + 0.5) / 32 * side, size), side - size) for i, side in zip((x, y), tile.size, strict=True)]
        draw.text((place[0], place[1]), str(k), PAPER, font, anchor="mm", stroke_width=2, stroke_fill=INK)
