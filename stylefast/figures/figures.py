# SPDX-License-Identifier: Apache-2.0
"""Conversion and files of images, and figures of clusters and contributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_max_pool1d

from ..core.checks import check_clusters, check_shape
from ..io.atomic import PathLike, atomic_write
from ..io.images import flatten, to_pillow, to_uint8
from . import canvas
from .canvas import PAPER
from .outlines import coverage, fine_regions, outline

TINT = 0.55  # fraction of the cluster's colour in an overlay; the rest is the grey image
STEPS = 32  # columns per site in a contribution map
FONT = 11  # points in a contribution map, 11 pixels at its normal display size
MANY = 8  # parts of a contribution map, above which its rows are lower
MAX_NAME = 30  # letters of the name of a part in a contribution map


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
        labels: Integer labels in [0, K) of shape [N, h, w]. They are resized by "nearest". Labels of the size
            that `label_size` returns, which `Catalog.labels` can compute, have smooth outlines.
        parts: Ids of the clusters of each part, by the name of the part. Clusters of no part are not tinted, and a
            cluster of several parts counts for the first. Without parts, every cluster is tinted and numbered.
        n_clusters: Number of clusters K.
        cell: Longer side of an image in the figure, in pixels.

    Returns:
        The images in rows of six, above the legend.

    Raises:
        TypeError: If `images` is not a floating-point tensor, or `labels` is not an integer tensor.
        ValueError: If a shape does not match, there is no image, a label or a cluster of a part is out of range, or
            `images` contains NaN, or `cell` is not an integer >= 8.
    """
    canvas.check_not_empty("images", images)
    _check_labels(labels, len(images), n_clusters)
    groups = parts if parts is not None else {str(k): [k] for k in range(n_clusters)}
    check_clusters("parts", groups, n_clusters)
    group_of = torch.full((n_clusters,), -1, device="cpu")
    for index, ids in reversed(list(enumerate(groups.values()))):
        group_of[list(ids)] = index
    colours = canvas.distinct_colours(len(groups))
    palette = torch.tensor([*colours, PAPER], dtype=torch.float32, device="cpu")  # [G + 1, 3]
    tints = TINT * palette
    tints[-1] = 0  # of clusters of no part
    tiles = []
    for tile, label in zip(canvas.to_tiles(images, cell), labels.cpu(), strict=True):
        plain = torch.from_numpy(np.array(tile)).float()  # [H, W, 3]
        fine = fine_regions(group_of[label.long()], plain.shape[:2])  # -1 for clusters of no part
        grey = plain.mean(2, keepdim=True)
        tint = [coverage(values) for values in tints.T[:, fine]]  # red, green, blue
        pixels = plain + coverage(fine >= 0)[..., None] * ((1 - TINT) * grey - plain) + torch.stack(tint, dim=2)
        pixels.lerp_(palette[-1], outline(fine)[..., None])
        tiles.append(canvas.to_image(pixels))
        if parts is None:
            canvas.write_numbers(tiles[-1], fine)
    return canvas.sheet(tiles, lambda width: canvas.swatches([str(name) for name in groups], colours, width))


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
    row = 0.42 if len(part_names) <= MANY else 0.26  # inches
    below = max(
        1.7, 0.6 + 0.1 * max(len(name) for name, _, _ in sites)
    )  # for the names of the sites, at 0.1 per letter
    figure = Figure(figsize=(11, below + row * len(part_names)), dpi=150, layout="constrained")
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
    share = min(1.0, 5 * 0.42 / (row * len(part_names)))  # of the height of the map
    bar = figure.colorbar(heights, ax=axes, pad=0.01, aspect=12, shrink=share, anchor=(0, 1))
    bar.set_label("contribution M", size=FONT)
    bar.ax.tick_params(labelsize=FONT)
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
    axes.set_xticks([end + STEPS / 2 for end in ends[:-1]], site_names, rotation=90, parse_math=False)
    axes.set_yticks(range(len(part_names)), [_short(name) for name in part_names], parse_math=False)
    axes.vlines(ends[1:-1], -0.5, len(part_names) - 0.5, "white", linewidth=1)
    axes.hlines(
        [i - 0.5 for i in range(1, len(part_names))],
        ends[0],
        ends[-1],
        "white",
        linewidth=3 if len(part_names) <= 8 else 2,
    )
    axes.tick_params(length=0, labelsize=FONT)
    axes.spines[:].set_visible(False)


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


def _short(name: object) -> str:
    name = str(name)
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def _check_labels(labels: Tensor, n: int, n_clusters: int) -> None:
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be an integer tensor [N, h, w], got {labels.dtype}")
    check_shape("labels", labels, N=n, h=None, w=None)
    if not labels.numel():
        raise ValueError(f"labels [N, h, w] must have h and w >= 1, got {tuple(labels.shape)}")
    low, high = (int(value) for value in labels.aminmax())
    if not 0 <= low <= high < n_clusters:
        raise ValueError(f"labels must lie in [0, K) with K = {n_clusters}, got {low}..{high}")
