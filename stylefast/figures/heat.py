# SPDX-License-Identifier: Apache-2.0
"""Heat maps of the differences between edits and targets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from ..core.checks import check_no_nan
from ..locality import check_mask, delta_e
from . import canvas
from .outlines import FINE, fine_regions, outline

OUTLINE = (92, 224, 255)  # colour of a part's outline, a hue that the heat colours do not have


def heat_map(
    edited: Tensor, target: Tensor, *, mask: Tensor | None = None, vmax: float | None = None, cell: int = 256
) -> Image.Image:
    """Show where and how visibly an edit changed its target, by CIELAB ΔE averaged over each pixel of the figure.

    Args:
        edited: Floating-point edited images of shape [N, C, H, W] in [0, 1].
        target: Target images of the same shape, dtype and device.
        mask: Region of the part, of shape [N, h, w]; bool, or floating-point weights in [0, 1]. The region of weights
            above one half is outlined. A mask with the resolution of the image has a smooth outline.
        vmax: Smallest ΔE that has the lightest colour, > 0. The default is the 99.5th percentile of the pixels, rounded
            up to 1, 2 or 5 times a power of ten, and at least 1, which is just visible.
        cell: Longer side of a map in the figure, in pixels.

    Returns:
        The maps in rows of six, above their colour bar. No change has the darkest colour.

    Raises:
        TypeError: If the images are not floating-point tensors or differ in dtype, or `mask` is neither bool nor
            floating-point.
        ValueError: If a shape or a device does not match, there is no image, an image contains NaN, a weight is NaN or
            outside [0, 1], `vmax` is not a finite number > 0, or `cell` is not an integer >= 8.
    """
    tiles, ticks = heat_tiles(edited, target, mask, vmax, cell)
    return canvas.sheet(tiles, lambda width: canvas.colour_bar(ticks, "CIELAB difference", width))


def heat_tiles(
    edited: Tensor, target: Tensor, mask: Tensor | None, vmax: float | None, cell: int
) -> tuple[list[Image.Image], list[str]]:
    """Return the maps of `heat_map` and the ticks of their colour bar."""
    canvas.check_not_empty("edited", edited)
    errors = delta_e(edited, target).detach().cpu()  # [N, H, W]
    check_no_nan("the difference of edited and target", errors)
    width, height = canvas.cell_size(errors.shape[1:], cell)
    errors = adaptive_avg_pool2d(errors[:, None], (height, width))[:, 0]
    if vmax is None:
        vmax = scale_end(float(np.quantile(errors.numpy(), 0.995)))
    if not (vmax > 0 and math.isfinite(vmax)):
        raise ValueError(f"vmax must be a finite number > 0, got {vmax}")
    colours = canvas.heat_colours()[(errors / vmax * 255).clamp(max=255).round().long()]  # [N, H, W, 3]
    if mask is not None:
        check_mask("mask", mask, n=len(errors))
        line = torch.tensor(OUTLINE, dtype=torch.float32, device="cpu")
        for pixels, weights in zip(colours, mask.cpu(), strict=True):
            pixels.lerp_(line, outline(_fine_inside(weights, (height, width)))[..., None])
    ticks = ["0", f"{vmax / 2:g}", f"{vmax:g}" + ("+" if errors.max() > vmax else "")]
    return [canvas.to_image(pixels) for pixels in colours], ticks


def scale_end(value: float) -> float:
    """Return the smallest of 1, 2 or 5 times a power of ten that is >= value and >= 1."""
    power = 10.0 ** math.floor(math.log10(max(value, 1.0)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


def _fine_inside(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Return the fine pixels of a tile of size (H, W) at which a mask [h, w] is above one half, bool."""
    if mask.dtype == torch.bool:
        return fine_regions(mask, size)
    fine = interpolate(mask[None, None].float(), size=[FINE * side for side in size], mode="bilinear")
    return fine[0, 0] > 0.5
