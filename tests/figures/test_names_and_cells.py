# SPDX-License-Identifier: Apache-2.0
"""Names and cells of figures: names of any kind, long names, and the smallest cells."""

import time

import numpy as np
import pytest
import torch

from stylefast import figures
from stylefast.figures import canvas

IMAGES, WIDE = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 4, 40)
BOX, MASK = [(0.2, 0.2, 0.8, 0.8)], torch.ones(1, 2, 2)


def drawn(images, cell):
    """All figures with cells, by name."""
    edits, labels = images[None, :, None].repeat(1, 1, 2, 1, 1, 1), torch.zeros(2, 4, 4, dtype=torch.int64)
    one, grid = images[:1], {"part_names": ["a"], "target_names": ["b", "c"], "cell": cell}
    return {
        "cluster_overlay": lambda: figures.cluster_overlay(images, labels, n_clusters=1, cell=cell),
        "edit_grid": lambda: figures.edit_grid(images, images, edits, **grid),
        "close-ups": lambda: figures.edit_grid(images, images, edits, boxes=BOX, **grid),
        "epsilon_row": lambda: figures.epsilon_row(one, one, images, epsilons=(1, 2), mask=MASK, cell=cell),
        "heat_map": lambda: figures.heat_map(images, images, cell=cell),
        "image_sheet": lambda: figures.image_sheet(images, ["a", "b"], cell=cell),
        "membership_maps": lambda: figures.membership_maps(images, torch.ones(2, 1, 4, 4), cell=cell),
    }


@pytest.mark.parametrize("name", drawn(IMAGES, 8))
def test_cells_are_at_least_eight_pixels(name):
    for cell in (7, 0, -5, 8.5):
        with pytest.raises(ValueError, match=f"^cell must be an integer >= 8, got {cell}$"):
            drawn(IMAGES, cell)[name]()
    for images in (IMAGES, WIDE, WIDE.mT):
        assert drawn(images, 8)[name]().mode == "RGB"


def test_a_label_size_needs_a_cell_of_eight_pixels():
    with pytest.raises(ValueError, match="cell must be an integer >= 8, got 0"):
        figures.label_size((64, 64), 0)


def test_names_that_are_numbers_are_written_as_texts():
    edits = IMAGES[None, :, None].repeat(1, 1, 2, 1, 1, 1)
    u, labels, m = torch.ones(2, 2, 4, 4) / 2, torch.zeros(2, 4, 4, dtype=torch.int64), torch.rand(2, 4)
    mask, one = torch.ones(1, 2, 2), IMAGES[:1]
    for draw in (
        lambda a, b: figures.image_sheet(IMAGES, [a, b]),
        lambda a, b: figures.membership_maps(IMAGES, u, names=[a, b]),
        lambda a, b: figures.edit_grid(IMAGES, IMAGES, edits, part_names=["a"], target_names=[a, b]),
        lambda a, b: figures.epsilon_row(one, one, IMAGES, epsilons=(1, 2), mask=mask, names=(a, b)),
        lambda a, b: figures.cluster_overlay(IMAGES, labels, parts={a: [0], b: [1]}, n_clusters=2),
        lambda a, b: figures.contribution_map(m, [a, b], [("c", 0, 4)]),
    ):
        assert np.array_equal(np.asarray(draw(0, 7)), np.asarray(draw("0", "7")))


def test_images_of_other_sizes_in_a_sheet_are_refused():
    with pytest.raises(ValueError, match=r"batches must have shape .* H = 8, W = 8, got \(2, 3, 4, 40\)"):
        figures.image_sheet([IMAGES, WIDE], range(4))


def test_names_with_dollar_signs_are_written_as_they_are():
    for name, site in ((r"$\frac$", "a"), ("a", "$x^$")):
        figure = figures.contribution_map(torch.ones(2, 4), [name, "b"], [(site, 0, 4)])
        assert figure.width == 1650


def test_long_names_are_shortened_quickly():
    font = canvas.ImageFont.load_default(14)
    start = time.perf_counter()
    text = canvas.shorten("name" * 250, font, 80)
    assert time.perf_counter() - start < 0.5
    prefix = text.removesuffix("…")
    assert ("name" * 250).startswith(prefix) and font.getlength(text) <= 80
    assert font.getlength(("name" * 250)[: len(prefix) + 1] + "…") > 80
    assert canvas.shorten("name", font, 1) == "…"
