# SPDX-License-Identifier: Apache-2.0
"""Heat maps of memberships, compared with colours that are computed from the images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from stylefast import figures
from stylefast.figures import canvas
from stylefast.figures.canvas import GAP, MARGIN


def random_images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def lanczos(image: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(figures.to_pil(image[None])[0].resize(size, Image.Resampling.LANCZOS))


def test_membership_maps_blend_heat_over_the_grey_image():
    images = random_images(2, 3, 32, 32)
    u = torch.tensor([[1.0, 0.25, 0.0], [0.0, 0.5, 1.0]])[:, :, None, None].expand(2, 3, 4, 4)
    figure = figures.membership_maps(images, u, names=["hair", "1", "a long name of a part"], cell=32)
    line = round(1.7 * 11)  # of the names
    assert figure.size == (400 + 2 * MARGIN, MARGIN + line + 2 * (32 + GAP) + 2 * GAP + 36 + MARGIN)
    pixels = np.asarray(figure).astype(float)
    for n in range(2):
        y = MARGIN + line + n * (32 + GAP)
        row = [pixels[y : y + 32, MARGIN + i * (32 + GAP) :][:, :32] for i in range(4)]
        plain = lanczos(images[n], (32, 32)).astype(float)
        assert (row[0] == plain).all()
        for tile, value in zip(row[1:], u[n, :, 0, 0].tolist(), strict=True):
            heat_colour = canvas.heat_colours()[round(value * 255)].numpy()
            grey = plain.mean(axis=2, keepdims=True)
            assert np.abs(tile - (0.6 * heat_colour + 0.4 * grey)).max() <= 1
    assert (pixels[MARGIN : MARGIN + 11, MARGIN + 36 : MARGIN + 68] < 100).any()  # the name "hair"


@pytest.mark.parametrize(
    "memberships, error, message",
    [
        (torch.zeros(1, 2, 4, 4, dtype=torch.int64), TypeError, "memberships must be a floating-point tensor"),
        (torch.zeros(2, 2, 4, 4), ValueError, "memberships must have shape"),
        (torch.zeros(1, 33, 4, 4), ValueError, r"memberships \[N, K, h, w\] must have K in \[1, 32\]"),
        (torch.full((1, 2, 4, 4), 1.1), ValueError, r"memberships must lie in \[0, 1\], got values from 1.1"),
        (torch.full((1, 2, 4, 4), math.nan), ValueError, r"memberships must lie in \[0, 1\], got values from nan"),
        (torch.zeros(1, 3, 4, 4), ValueError, "names must have 3 items to match the memberships, got 2"),
    ],
)
def test_membership_maps_refuse_invalid_memberships(memberships, error, message):
    with pytest.raises(error, match=message):
        figures.membership_maps(random_images(1, 3, 8, 8), memberships, names=["a", "b"])
