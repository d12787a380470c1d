# SPDX-License-Identifier: Apache-2.0
"""Anti-aliased areas and outlines: shares of pixels, and smooth outlines from labels of the size for them."""

import numpy as np
import torch

from stylefast import figures
from stylefast.figures import canvas
from stylefast.figures import figures as drawing
from stylefast.figures.canvas import MARGIN
from stylefast.figures.outlines import FINE, coverage, fine_regions, outline


def half_plane(height: int, width: int, slope: float) -> torch.Tensor:
    """Labels of two areas that a slanted line separates, [height, width]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (x - width / 2 > slope * (y - height / 2)).long()


def test_coverage_is_the_share_of_fine_pixels():
    mask = torch.zeros(2 * FINE, 2 * FINE, dtype=torch.bool)
    mask[:FINE, : FINE + 1] = True
    assert coverage(mask).tolist() == [[1.0, 1 / FINE], [0.0, 0.0]]


def test_a_straight_outline_is_one_sharp_pixel():
    line = outline(fine_regions(half_plane(6, 6, 0.0), (6, 6)))
    (column,) = line.amax(0).nonzero().flatten().tolist()
    assert (line[:, column] == 1).all() and column == 3  # the last column of the left area


def test_a_slanted_outline_is_one_pixel_wide_and_has_no_steps():
    size = 32
    line = outline(fine_regions(half_plane(FINE * size, FINE * size, 0.3), (size, size)))
    width = line.sum(1)[4:-4]
    assert width.min() > 0.9 and width.max() < 1.5
    assert len(line.unique()) > 5  # shades
    centre = (line * torch.arange(size)).sum(1)[4:-4] / width
    assert ((centre[1:] - centre[:-1]) - 0.3).abs().max() < 0.2  # whole pixels would give steps of 0 and 1


def test_labels_of_the_outline_size_give_smooth_overlays():
    height, width = figures.label_size((64, 128), 32)
    assert (height, width) == (16 * FINE, 32 * FINE)
    images, labels = torch.zeros(1, 3, 64, 128), half_plane(height, width, 0.5)[None]
    figure = figures.cluster_overlay(images, labels, parts={"right": [1]}, n_clusters=2, cell=32)
    pixels = np.asarray(figure)[MARGIN : MARGIN + 16, MARGIN : MARGIN + 32].astype(float)
    tint = drawing.TINT * np.array(canvas.distinct_colours(1)[0])
    assert np.abs(pixels[2:-2, -4:] - tint).max() <= 1 and pixels[2:-2, :4].max() == 0
    shades = {tuple(colour) for colour in pixels.reshape(-1, 3).tolist()} - {(0.0, 0.0, 0.0)}
    assert len(shades) > 5  # mixtures of tint, line and image
