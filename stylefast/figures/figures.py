# SPDX-License-Identifier: Apache-2.0
"""Figures of clusters, contributions and edits, as Pillow images; only `save` writes to the disk.

Images are torch tensors [N, C, H, W] in [0, 1] on any device: grey, RGB or RGBA, which figures composite over white.
Each is a tile whose longer side has `cell` pixels, resized by Lanczos. Names are in Pillow's typeface, which is ASCII.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool1d, interpolate

from ..core.checks import check_clusters, check_no_nan, check_shape
from ..core.images import check_images
from ..io.atomic import PathLike, atomic_write
from ..io.images import flatten, to_pillow, to_uint8
from ..locality import check_mask, delta_e, resize_mask
from . import canvas
from .canvas import FAINT, GAP, INK, MARGIN, PAPER

__all__ = ["cluster_overlay", "contribution_map", "edit_grid", "heat_map", "save", "to_pil"]

TINT = 0.55  # fraction of the cluster's colour in an overlay; the rest is the grey image
OUTLINE = (92, 224, 255)  # colour of a part's outline on a heat map, a hue that the map does not have
STEPS = 32  # columns per site in a contribution map


def to_pil(images: Tensor) -> list[Image.Image]:
    """Convert images to Pillow images.

    Args:
        images: Floating-point images of shape [N, C, H, W] in [0, 1]. Values are clamped, then rounded to 8 bits.

    Returns:
        N grey, RGB or RGBA images of W×H pixels.

    Raises:
        TypeError: If `images` is not a floating-point tensor.
        ValueError: If `images` does not have shape [N, C, H, W] with C = 1, 3 or 4, or contains NaN.
    """
    return [to_pillow(pixels) for pixels in to_uint8(images)]


def cluster_overlay(
    images: Tensor,
    labels: Tensor,
    *,
    parts: Mapping[str, Sequence[int]] | None = None,
    n_clusters: int,
    cell: int = 256,
) -> Image.Image:
    """Draw clusters, or parts made of them, over the images in distinct colours, with a legend.

    Args:
        images: Floating-point images of shape [N, C, H, W] in [0, 1].
        labels: Integer labels in [0, K) of shape [N, h, w]. They are resized by "nearest".
        parts: Ids of the clusters of each part, by the name of the part. Clusters of no part are not tinted, and a
            cluster of several parts counts for the first. Without parts, every cluster is tinted and numbered.
        n_clusters: Number of clusters K.
        cell: Longer side of an image in the figure, in pixels.

    Returns:
        The images in rows of six, above the legend.

    Raises:
        TypeError: If `images` is not a floating-point tensor, or `labels` is not an integer tensor.
        ValueError: If a shape does not match, there is no image, a label or a cluster of a part is out of range, or
            `images` contains NaN.
    """
    _check_not_empty("images", images)
    _check_labels(labels, len(images), n_clusters)
    groups = parts if parts is not None else {str(k): [k] for k in range(n_clusters)}
    check_clusters("parts", groups, n_clusters)
    group_of = torch.full((n_clusters,), -1, device="cpu")
    for index, ids in reversed(list(enumerate(groups.values()))):
        group_of[list(ids)] = index
    colours = canvas.distinct_colours(len(groups))
    palette = torch.tensor(
        [*colours, PAPER], dtype=torch.float32, device="cpu"
    )  # [G + 1, 3]; group -1 has the last row
    tiles = []
    for tile, label in zip(canvas.to_tiles(images, cell), labels.cpu(), strict=True):
        pixels = torch.from_numpy(np.array(tile)).float()  # [H, W, 3]
        group = group_of[label.long()].float()[None, None]
        group = interpolate(group, size=pixels.shape[:2], mode="nearest")[0, 0].long()  # [H, W]
        tinted = (1 - TINT) * pixels.mean(2, keepdim=True) + TINT * palette[group]
        pixels = torch.where((group >= 0)[..., None], tinted, pixels)
        pixels[canvas.find_borders(group)] = palette[-1]
        tiles.append(canvas.to_image(pixels))
        if parts is None:
            canvas.write_numbers(tiles[-1], group)
    return canvas.sheet(tiles, lambda width: canvas.swatches(list(groups), colours, width))


def contribution_map(M: Tensor, part_names: Sequence[str], sites: Sequence[tuple[str, int, int]]) -> Image.Image:
    """Show which channels belong to which part, with one row per part and one column per site.

    A column has 32 steps for any number of channels. The channels keep their order, and each step shows the largest M
    of its channels.

    Args:
        M: Contributions of the parts, of shape [P, S], in [0, 1]; floating-point.
        part_names: Names of the P parts.
        sites: (name, start, stop) of each site in S.

    Returns:
        The figure, 1,650 pixels wide, for a display at half that width.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If M is empty or does not have one row per name, there is no site, or a site is not within [0, S).
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    check_shape("M", M, P=len(part_names), S=None)
    if 0 in M.shape:
        raise ValueError(f"M [P, S] must have P and S >= 1, got {tuple(M.shape)}")
    wrong = [site for site in sites if not 0 <= site[1] < site[2] <= M.shape[1]]
    if wrong or not sites:
        raise ValueError(f"sites must be (name, start, stop) within S = {M.shape[1]}, got {(wrong or sites)[:1]}")
    values = M.detach().float().cpu()
    columns = [adaptive_max_pool1d(values[:, start:stop], STEPS) for _, start, stop in sites]  # each [P, STEPS]
    figure = Figure(figsize=(11, 1.7 + 0.42 * len(part_names)), dpi=150, layout="constrained")
    axes = figure.subplots()
    heights = axes.imshow(
        torch.cat(columns, dim=1).numpy(),
        cmap=ListedColormap((canvas.heat_colours() / 255).numpy()),
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
    )
    _label_axes(axes, part_names, [name for name, _, _ in sites])
    bar = figure.colorbar(heights, ax=axes, pad=0.01, aspect=12, label="contribution M")
    bar.outline.set_visible(False)
    raster = FigureCanvasAgg(figure)
    raster.draw()
    return Image.fromarray(np.asarray(raster.buffer_rgba())).convert("RGB")


def require_matplotlib() -> None:
    """Raise ImportError if `contribution_map` cannot run, before other work is done."""
    if find_spec("matplotlib") is None:
        raise ImportError("contribution_map needs matplotlib: pip install matplotlib")


def _label_axes(axes: Any, part_names: Sequence[str], site_names: Sequence[str]) -> None:
    """Name the parts and sites of a contribution map, and separate them by lines."""
    ends = [STEPS * i - 0.5 for i in range(len(site_names) + 1)]
    axes.set_xticks([end + STEPS / 2 for end in ends[:-1]], site_names, rotation=90)
    axes.set_yticks(range(len(part_names)), part_names)
    axes.vlines(ends[1:-1], -0.5, len(part_names) - 0.5, "white", linewidth=1)
    axes.hlines([i - 0.5 for i in range(1, len(part_names))], ends[0], ends[-1], "white", linewidth=3)
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)


def edit_grid(
    targets: Tensor, references: Tensor, edits: Tensor, *, part_names: Sequence[str], cell: int = 160
) -> Image.Image:
    """Arrange edits in a table: targets at the left, references at the top, one block of rows per part.

    Args:
        targets: Floating-point target images of shape [T, C, H, W] in [0, 1].
        references: Reference images of shape [R, C, H', W'].
        edits: Edited images of shape [P, T, R, C, H", W"].
        part_names: Names of the P parts.
        cell: Longer side of every image in the figure, in pixels.

    Returns:
        The figure, about `(R + 1)·cell` pixels wide and `(P·T + 1)·cell` pixels high.

    Raises:
        TypeError: If an argument is not a floating-point tensor.
        ValueError: If a shape or the number of names does not match, there is no image, or an image contains NaN.
    """
    _check_not_empty("targets", targets)
    _check_not_empty("references", references)
    P, T, R = len(part_names), len(targets), len(references)
    check_shape("edits", edits, P=P, T=T, R=R, C=None, H=None, W=None)
    _check_not_empty("edits", edits.flatten(0, 2))
    target_tiles, reference_tiles, edit_tiles = (
        canvas.to_tiles(images, cell) for images in (targets, references, edits.flatten(0, 2))
    )
    all_tiles = (target_tiles, reference_tiles, edit_tiles)
    width, height = (max(tiles[0].size[axis] for tiles in all_tiles) for axis in (0, 1))
    text_size = max(12, cell // 10)
    font, line = ImageFont.load_default(text_size), int(1.6 * text_size)
    origin = MARGIN + line
    xs = [origin, *(origin + 2 * GAP + r * (width + GAP) for r in range(1, R + 1))]
    ys = [origin, *(origin + 2 * GAP * (1 + row // T) + (1 + row) * (height + GAP) for row in range(P * T))]
    figure = Image.new("RGB", (xs[-1] + width + MARGIN, ys[-1] + height + MARGIN), PAPER)
    draw = ImageDraw.Draw(figure)
    draw.text(((xs[1] + xs[-1] + width) / 2, MARGIN), "references", FAINT, font, anchor="ma")
    draw.text((origin + width / 2, ys[1] - 2 * GAP), "targets", FAINT, font, anchor="md")
    for x, tile in zip(xs[1:], reference_tiles, strict=True):
        figure.paste(tile, (x, origin))
    for row, y in enumerate(ys[1:]):
        for x, tile in zip(xs, (target_tiles[row % T], *edit_tiles[row * R : (row + 1) * R]), strict=True):
            figure.paste(tile, (x, y))
    for name, y in zip(part_names, ys[1::T], strict=True):
        text = Image.new("L", (T * (height + GAP) - GAP, line))
        ImageDraw.Draw(text).text((text.width / 2, 0), name, 255, font, anchor="ma")
        figure.paste(INK, (MARGIN, y), text.rotate(90, expand=True))
    return figure


def heat_map(
    edited: Tensor, target: Tensor, *, mask: Tensor | None = None, vmax: float | None = None, cell: int = 256
) -> Image.Image:
    """Show where and how visibly an edit changed its target, by CIELAB ΔE averaged over each pixel of the figure.

    Args:
        edited: Floating-point edited images of shape [N, C, H, W] in [0, 1].
        target: Target images of the same shape, dtype and device.
        mask: Region of the part, of shape [N, h, w]; bool, or floating-point weights in [0, 1]. The region of weights
            above one half is outlined.
        vmax: Smallest ΔE that has the lightest colour, > 0. The default is the 99.5th percentile of the pixels, rounded
            up to 1, 2 or 5 times a power of ten, and at least 1, which is just visible.
        cell: Longer side of a map in the figure, in pixels.

    Returns:
        The maps in rows of six, above their colour bar. No change has the darkest colour.

    Raises:
        TypeError: If the images are not floating-point tensors or differ in dtype, or `mask` is neither bool nor
            floating-point.
        ValueError: If a shape or a device does not match, there is no image, an image contains NaN, a weight is NaN or
            outside [0, 1], or `vmax` is not a finite number > 0.
    """
    _check_not_empty("edited", edited)
    errors = delta_e(edited, target).detach().cpu()  # [N, H, W]
    check_no_nan("the difference of edited and target", errors)
    width, height = canvas.scaled_size(errors.shape[1:], cell)
    errors = adaptive_avg_pool2d(errors[:, None], (height, width))[:, 0]
    if vmax is None:
        vmax = _round_up(float(np.quantile(errors.numpy(), 0.995)))
    if not (vmax > 0 and math.isfinite(vmax)):
        raise ValueError(f"vmax must be a finite number > 0, got {vmax}")
    colours = canvas.heat_colours()[(errors / vmax * 255).clamp(max=255).round().long()]  # [N, H, W, 3]
    if mask is not None:
        check_mask("mask", mask, n=len(errors))
        for pixels, inside in zip(colours, resize_mask(mask.cpu(), errors.shape[1:]) > 0.5, strict=True):
            pixels[canvas.find_borders(inside)] = torch.tensor(OUTLINE, dtype=torch.float32, device="cpu")
    tiles = [canvas.to_image(pixels) for pixels in colours]
    ticks = ["0", f"{vmax / 2:g}", f"{vmax:g}" + ("+" if errors.max() > vmax else "")]
    return canvas.sheet(tiles, lambda width: canvas.colour_bar(ticks, "CIELAB difference", width))


def save(image: Image.Image, path: PathLike, *, quality: int = 80) -> None:
    """Write an image to a file, completely or not at all.

    Args:
        image: The image.
        path: Path of the file. Its suffix determines the format. Missing folders are created. JPEG has RGBA over white.
        quality: Quality of JPEG and WebP, 1..100. PNG is exact.

    Raises:
        ValueError: If Pillow does not know the suffix.
        OSError: If the file cannot be written. An existing file stays unchanged after any exception.
    """
    if Path(path).suffix.lower() in (".jpg", ".jpeg"):
        image = flatten(image)
    with atomic_write(path) as temporary:
        image.save(temporary, quality=quality)


def _round_up(value: float) -> float:
    """Return the smallest of 1, 2 or 5 times a power of ten that is >= value and >= 1."""
    power = 10.0 ** math.floor(math.log10(max(value, 1.0)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)


def _check_not_empty(name: str, images: Tensor) -> None:
    check_images(name, images)
    if not images.numel():
        raise ValueError(f"{name} must hold at least one image, got {tuple(images.shape)}")


def _check_labels(labels: Tensor, n: int, n_clusters: int) -> None:
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be an integer tensor [N, h, w], got {labels.dtype}")
    check_shape("labels", labels, N=n, h=None, w=None)
    if not labels.numel():
        raise ValueError(f"labels [N, h, w] must have h and w >= 1, got {tuple(labels.shape)}")
    low, high = (int(value) for value in labels.aminmax())
    if not 0 <= low <= high < n_clusters:
        raise ValueError(f"labels must lie in [0, K) with K = {n_clusters}, got {low}..{high}")
