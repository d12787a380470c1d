# SPDX-License-Identifier: Apache-2.0
"""Figures of edits: close-ups at their places and zooms, names, notes, and measured differences."""

import numpy as np
import pytest
import torch
from PIL import Image

from stylefast import figures
from stylefast.figures import canvas, closeups, edits
from stylefast.figures.canvas import GAP, MARGIN
from stylefast.figures.epsilon import _texts
from stylefast.locality import locality

CELL = 50


def random_images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def crop(figure: Image.Image, x: int, y: int, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(figure.crop((x, y, x + size[0], y + size[1])))


@pytest.mark.parametrize("box", [(0.3, 0.4, 0.7, 0.5), (0.4, 0.3, 0.5, 0.7)], ids=["wide", "high"])
def test_the_grid_has_close_ups_of_target_and_edit(box):
    P, T, R = 2, 2, 3
    targets, references = random_images(T, 3, 80, 80), random_images(R, 3, 80, 80, seed=1)
    edited = random_images(P, T, R, 3, 80, 80, seed=2)
    boxes = [(0.0, 0.0, 1.0, 1.0), box]
    figure = figures.edit_grid(targets, references, edited, part_names=["a", "b"], boxes=boxes, cell=CELL)
    frame = round(edits.CLOSE_WIDTH * CELL)
    size = (frame, (CELL - GAP) // 2) if box[2] > 0.6 else ((frame - GAP) // 2, CELL)
    second = frame - size[0], CELL - size[1]

    def expected(image: torch.Tensor) -> np.ndarray:
        return np.asarray(closeups.close_up(figures.to_pil(image[None])[0], box, size, (CELL, CELL)))

    top = figure.height // P  # the second part
    for r in range(R):
        x = MARGIN + CELL + 3 * GAP + r * (CELL + GAP + frame + 3 * GAP)
        beside = x + CELL + GAP
        tile = np.asarray(canvas.to_tiles(references[r : r + 1], CELL)[0])
        assert (crop(figure, x, top + MARGIN, (CELL, CELL)) == tile).all()
        assert (crop(figure, beside + second[0], top + MARGIN + second[1], size) == expected(references[r])).all()
        for t in range(T):
            y = top + MARGIN + CELL + 3 * GAP + t * (CELL + GAP)
            tile = np.asarray(canvas.to_tiles(edited[1, t, r][None], CELL)[0])
            assert (crop(figure, x, y, (CELL, CELL)) == tile).all()
            assert (crop(figure, beside, y, size) == expected(targets[t])).all()
            assert (crop(figure, beside + second[0], y + second[1], size) == expected(edited[1, t, r])).all()


def test_a_close_up_shows_the_box_as_large_as_it_fits():
    picture = Image.new("RGB", (200, 100))
    picture.paste((255, 255, 255), (80, 40, 120, 60))  # the box is white
    box, tile = (0.4, 0.4, 0.6, 0.6), (100, 50)
    filled = np.asarray(closeups.close_up(picture, box, (50, 25), tile))
    assert closeups.zoom(box, (50, 25), tile) == pytest.approx(2.5) and filled[2:-2, 2:-2].min() > 200
    limited = np.asarray(closeups.close_up(picture, box, (90, 45), tile))[..., 0] > 127
    assert closeups.zoom(box, (90, 45), tile) == closeups.MAX_ZOOM
    assert limited.sum() == pytest.approx(60 * 30, rel=0.05) and limited[22, 45]
    at_edge = np.asarray(closeups.close_up(picture, (0.0, 0.4, 0.05, 0.6), (60, 30), tile))
    assert at_edge.shape == (30, 60, 3) and at_edge.max() == 0  # it ends at 40 pixels of the picture


def test_a_close_up_of_a_large_box_is_filled_by_its_middle():
    picture = Image.new("RGB", (100, 100))
    picture.paste((255, 255, 255), (0, 25, 100, 75))
    pixels = np.asarray(closeups.close_up(picture, (0.0, 0.0, 1.0, 1.0), (80, 40), (50, 50)))
    assert closeups.zoom((0.0, 0.0, 1.0, 1.0), (80, 40), (50, 50)) == 1.6
    assert pixels.shape == (40, 80, 3) and pixels[2:-2].min() > 250


def test_mask_boxes_leave_out_stray_positions():
    masks = torch.zeros(3, 20, 40, dtype=torch.bool)
    masks[0, 5:10, 10:30] = True
    masks[0, 19, 39] = True  # 1 of 101 positions
    masks[1, :, :] = True
    first, whole, empty = figures.mask_boxes(masks)
    assert first == pytest.approx((0.19, 0.22, 0.81, 0.53), abs=1e-9)
    assert whole == empty == (0.0, 0.0, 1.0, 1.0)
    assert figures.mask_boxes(masks[:1].float()) == [first]


@pytest.mark.parametrize("boxes", [None, [(0.2, 0.2, 0.8, 0.8)]], ids=["plain", "close-ups"])
def test_an_edit_that_equals_its_target_says_so(boxes):
    targets, references = random_images(1, 3, 60, 60), random_images(1, 3, 60, 60, seed=1)
    images = torch.stack([targets, targets + 0.4 / 255, 1 - targets])[:, :, None]  # [3, 1, 1, 3, 60, 60]
    marked = []
    for edited in images:
        figure = figures.edit_grid(targets, references, edited[None], part_names=["a"], boxes=boxes, cell=60)
        frame = 0 if boxes is None else GAP + round(edits.CLOSE_WIDTH * 60)
        tile = crop(figure, figure.width - MARGIN - frame - 60, figure.height - MARGIN - 60, (60, 60))
        plain = np.asarray(canvas.to_tiles(edited[0], 60)[0])
        assert (tile[:30] == plain[:30]).all()
        marked.append(bool((tile != plain).any()))
    assert marked == [True, True, False]


def test_names_are_written_on_targets_and_references():
    images = torch.zeros(2, 3, 60, 60)
    different = torch.ones(1, 2, 2, 3, 60, 60)
    options = {"part_names": ["a"], "cell": 60}
    plain = np.asarray(figures.edit_grid(images, images, different, **options))
    for name, place in (("target_names", (0, 1)), ("reference_names", (1, 0))):
        named = np.asarray(figures.edit_grid(images, images, different, **{name: ["first", "second"]}, **options))
        y, x = np.nonzero((named != plain).any(axis=2))
        assert (x.max() > MARGIN + 100, y.max() > MARGIN + 100) == (bool(place[0]), bool(place[1]))


def test_wrong_boxes_and_names_are_refused():
    images, edited = torch.rand(2, 3, 8, 8), torch.rand(1, 2, 2, 3, 8, 8)
    for name in ("boxes", "target_names", "reference_names"):
        with pytest.raises(ValueError, match=rf"{name} must have \d items to match .*, got 3"):
            figures.edit_grid(images, images, edited, part_names=["a"], **{name: ["x", "y", "z"]})
    with pytest.raises(ValueError, match=r"boxes must be boxes .* in \[0, 1\], got \(0\.5, 0, 0\.4, 1\)"):
        figures.edit_grid(images, images, edited, part_names=["a"], boxes=[(0.5, 0, 0.4, 1)])


def test_the_epsilon_row_shows_edits_maps_and_differences():
    target, reference = random_images(1, 3, 64, 64), random_images(1, 3, 64, 64, seed=1)
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, 2:4, 2:6] = True
    edited = target.repeat(3, 1, 1, 1)
    edited[1, :, 16:32, 16:48] = 1 - edited[1, :, 16:32, 16:48]  # inside only
    edited[2] = 1 - edited[2]
    figure = figures.epsilon_row(target, reference, edited, epsilons=(0.25, 1, 4), mask=mask, cell=64, vmax=50.0)
    pixels = np.asarray(figure)
    xs = [MARGIN + i * (64 + GAP) + (2 * GAP if i > 1 else 0) for i in range(5)]
    assert figure.width == xs[-1] + 64 + MARGIN
    for x, image in zip(xs, torch.cat([target, reference, edited]), strict=True):
        tile = np.asarray(canvas.to_tiles(image[None], 64)[0])
        top = next(y for y in range(MARGIN, 80) if (pixels[y : y + 40, x : x + 64] == tile[:40]).all())
        assert top == MARGIN + 21  # below the title
    zero = canvas.heat_colours()[0].numpy()
    heat = [int((pixels[:, x : x + 64] == zero).all(axis=2).sum()) for x in xs]
    inside = 16 * 32
    assert max(heat[:2]) < 30 and heat[2] > heat[3] > 64 * 64 - inside - 120 and heat[4] < 200


def test_the_differences_below_an_edit_are_those_of_locality():
    target, mask = torch.zeros(1, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.bool)
    mask[:2, :4] = True
    edited = target.repeat(3, 1, 1, 1)
    edited[1, :, :4] = 1.0
    edited[1, 0, 7, 7] = 1.0
    edited = torch.cat([edited, target + 1e-6])
    measured = locality(edited, target.expand(4, -1, -1, -1), torch.cat([mask, mask[:1]]))
    same, local, without_part, invisible = _texts(measured)
    assert measured.ratio[3] > 0 and invisible == same
    outside = float(measured.delta_e_outside[1])
    assert same == "inside 0.00\noutside 0.00\nratio -"
    assert local == f"inside 100.00\noutside {outside:.2f}\nratio {100 / outside:.2f}"
    assert without_part == "inside -\noutside 0.00\nratio -"


def test_epsilon_rows_of_wrong_shapes_are_refused():
    images, mask = torch.rand(2, 3, 8, 8), torch.ones(1, 2, 2)
    with pytest.raises(ValueError, match=r"target must have shape .* N = 1, got \(2, 3, 8, 8\)"):
        figures.epsilon_row(images, images[:1], images, epsilons=(1, 2), mask=mask)
    with pytest.raises(ValueError, match=r"edits must have shape .* Q = 3, C = 3, H = 8, W = 8, got \(2, 3, 8, 8\)"):
        figures.epsilon_row(images[:1], images[:1], images, epsilons=(1, 2, 3), mask=mask)
    with pytest.raises(ValueError, match=r"mask must have shape \[N, h, w\] with N = 1, got \(2, 2, 2\)"):
        figures.epsilon_row(images[:1], images[:1], images, epsilons=(1, 2), mask=mask.repeat(2, 1, 1))


def test_a_sheet_has_every_image_above_its_name():
    images = random_images(12, 3, 20, 40)
    names = [f"no {i}" for i in range(12)]
    figure = figures.image_sheet([images[:5], images[5:]], names, cell=40)
    other = np.asarray(figures.image_sheet(images, [*names[:11], "no 99"], cell=40))
    tiles = canvas.to_tiles(images, 40)
    step = (figure.height - 2 * MARGIN + GAP) // 2
    for i, tile in enumerate(tiles):
        x, y = MARGIN + i % 10 * (40 + GAP), MARGIN + i // 10 * step
        assert (crop(figure, x, y, (40, 20)) == np.asarray(tile)).all()
    y, x = np.nonzero((np.asarray(figure) != other).any(axis=2))
    assert len(x) and y.min() > MARGIN + step + 20 and x.min() > MARGIN + 44 and x.max() < MARGIN + 84
    with pytest.raises(ValueError, match="names must be one per image, and at least one, got 11 for 12 images"):
        figures.image_sheet(images, names[:11])


def test_long_texts_are_shortened_to_their_width():
    font = canvas.ImageFont.load_default(14)
    text = canvas.shorten("a very long name of a part", font, 80)
    assert text.startswith("a very") and text.endswith("…") and font.getlength(text) <= 80
    assert canvas.shorten("eyes", font, 80) == "eyes"
