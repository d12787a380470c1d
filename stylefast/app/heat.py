# SPDX-License-Identifier: Apache-2.0
"""Heat map of an edit, on a fixed scale so that the heat maps of several edits can be compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..figures.canvas import find_borders, heat_colours, scaled_size

CELL = 512  # longer side in pixels
MOST = 20.0  # CIELAB difference of the lightest colour
OUTLINE = (92, 224, 255)  # a hue that the scale does not have


def heat_size(size: Sequence[int]) -> tuple[int, int]:
    """Return the size (height, width) of the heat map of images of a size (height, width)."""
    width, height = scaled_size(size, min(CELL, max(size)))
    return height, width


def heat_pixels(delta_e: Tensor, region: Tensor) -> np.ndarray:
    """Draw the CIELAB differences, averaged over each pixel of the heat map, and the outline of a region.

    Args:
        delta_e: Differences of shape [H, W], float32.
        region: Region to outline, of the size that `heat_size` returns, bool.

    Returns:
        Pixels of shape [h, w, 3], uint8.
    """
    pooled = adaptive_avg_pool2d(delta_e[None].cpu(), heat_size(delta_e.shape))[0]
    colours = heat_colours()[(pooled * (255 / MOST)).clamp(max=255).round().long()]  # [h, w, 3]
    colours[find_borders(region.cpu())] = torch.tensor(OUTLINE, dtype=torch.float32, device="cpu")
    return colours.byte().numpy()


def scale_colours() -> list[str]:
    """Return the colours of the scale, from no difference to the largest one, as CSS."""
    return [f"rgb({r:.0f} {g:.0f} {b:.0f})" for r, g, b in heat_colours()[::51].tolist()]
