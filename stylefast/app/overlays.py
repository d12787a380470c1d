# SPDX-License-Identifier: Apache-2.0
"""Images with clusters drawn over them, for the tab Parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, max_pool2d

from ..catalog import Catalog
from ..figures.canvas import Colour, find_borders, scaled_size
from ..io.images import to_pillow
from ..io.tensors import checksum
from .memo import Memo
from .workspace import Workspace

SIDE, TILE = 768, 256  # pixels of the longer side of the large image, and of the small images
MAX_VIEWS = 96  # label maps and images in memory
TINT, FILL = 0.45, 0.7  # fraction of the colour in a named cluster, and in a selected one; the rest is grey
LINE = 0.7  # opacity of the outlines
GAP = 8  # pixels between the small images
NUMBER = 13  # pixels
WHITE: Colour = (255, 255, 255)
DARK: Colour = (15, 23, 42)
BLUE: Colour = (37, 99, 235)


class View(NamedTuple):
    """One image at the size of the screen with its clusters.

    Attributes:
        pixels: Pixels of shape [H, W, 3], float32 in 0..255.
        labels: Labels of shape [H, W], int64.
        lines: Opacity of the outlines of the clusters, [H, W] in [0, 1].
        anchors: Position (x, y) of the number of every cluster that is large enough for one.
    """

    pixels: Tensor
    labels: Tensor
    lines: Tensor
    anchors: dict[int, tuple[float, float]]

    def cluster_at(self, x: float, y: float) -> int:
        """Return the cluster of a pixel. Positions outside of the image belong to the nearest pixel."""
        height, width = self.labels.shape
        row, column = min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)
        return int(self.labels[row, column])


@dataclass(frozen=True)
class _Clusters:
    """Clusters as the key of a cache. Catalogs with other parts have equal keys."""

    layer: str
    features: str
    centroids: int
    catalog: Catalog = field(compare=False)


class Views:
    """Cached views of the images of seeds.

    Args:
        workspace: Source of the images.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._view = Memo(self._compute, MAX_VIEWS)

    def __call__(self, catalog: Catalog, seed: int | None, side: int = SIDE) -> View:
        """Return the view of the image of a seed, or of the mean image if there is none.

        Args:
            catalog: Catalog of the clusters.
            seed: Seed of the image.
            side: Pixels of the longer side.
        """
        return self._view(_Clusters(catalog.layer, catalog.features, clusters_id(catalog), catalog), seed, side)

    def _compute(self, clusters: _Clusters, seed: int | None, side: int) -> View:
        image = to_pillow(self._workspace.image(seed))
        width, height = scaled_size((image.height, image.width), side)
        pixels = torch.from_numpy(np.array(image.resize((width, height), Image.Resampling.LANCZOS))).float()
        generator, w = self._workspace.generator, self._workspace.w(seed)
        labels = clusters.catalog.labels(generator, w, size=(height, width))[0].long().cpu()
        return View(pixels, labels, LINE * outlines(labels, 1), find_anchors(labels))


def clusters_id(catalog: Catalog) -> int:
    """Return a checksum of the clusters of a catalog."""
    return checksum({"": catalog.centroids})


def outlines(regions: Tensor, width: int) -> Tensor:
    """Return the opacity of soft lines between regions [H, W], in [0, 1].

    Args:
        regions: Number of the region of each pixel.
        width: Width of the lines, in pixels.
    """
    line = find_borders(regions).float()[None, None]
    if width > 1:
        line = max_pool2d(line, width, stride=1, padding=width // 2)[..., : regions.shape[0], : regions.shape[1]]
    return avg_pool2d(line, 3, stride=1, padding=1)[0, 0].mul(2).clamp(max=1)


def find_anchors(labels: Tensor) -> dict[int, tuple[float, float]]:
    """Return a position (x, y) for the number of every cluster that covers at least 0.3 % of the image.

    The position is where the cluster is widest on a grid of 48 × 48 cells.
    """
    cells, (height, width) = 48, labels.shape
    anchors = {}
    for k in labels.unique().tolist():
        coverage = adaptive_avg_pool2d((labels == k).float()[None], cells)  # [1, cells, cells]
        if coverage.mean() >= 0.003:
            near, far = (avg_pool2d(coverage, 2 * r + 1, stride=1, padding=r) for r in (2, 20))
            y, x = divmod(int(((near + 0.1 * far) * coverage).argmax()), cells)  # `far` decides between equal `near`
            anchors[k] = (x + 0.5) / cells * width, (y + 0.5) / cells * height
    return anchors


def draw_clusters(
    view: View,
    colours: Mapping[int, Colour],
    selected: Sequence[int],
    colour: Colour,
    *,
    numbers: bool = True,
    box: Sequence[float] = (),
) -> np.ndarray:
    """Draw the outlines of all clusters over an image. Named and selected clusters are tinted, without other colours.

    Args:
        view: The image and its clusters.
        colours: Colours of the named clusters.
        selected: Selected clusters.
        colour: Colour of the selected clusters.
        numbers: Whether to write the numbers of the clusters.
        box: Corners (x, y) or (x from, y from, x to, y to) of a box as fractions of the frame, which is drawn too.

    Returns:
        Pixels of shape [H, W, 3], uint8.
    """
    n = int(view.labels.max()) + 1
    palette = torch.zeros(n, 3, dtype=torch.float32, device="cpu")
    opacity = torch.zeros(n, dtype=torch.float32, device="cpu")
    fills = {k: (c, TINT) for k, c in colours.items()} | dict.fromkeys(selected, (colour, FILL))
    for k, (value, strength) in fills.items():
        if k < n:
            palette[k], opacity[k] = torch.tensor(value, dtype=torch.float32, device="cpu"), strength
    alpha = opacity[view.labels][..., None]  # [H, W, 1]
    base = torch.where(alpha > 0, view.pixels.mean(2, keepdim=True), view.pixels)  # colours of the image mix with tints
    pixels = base.lerp(palette[view.labels], alpha)
    pixels = _over(pixels, WHITE, view.lines)
    if selected:
        inside = torch.isin(view.labels, torch.tensor(selected, device="cpu"))
        pixels = _over(pixels, DARK, outlines(inside, 5))
        pixels = _over(pixels, WHITE, outlines(inside, 2))
    image = to_pillow(pixels.round().byte().numpy())
    draw = ImageDraw.Draw(image)
    if numbers:
        font = ImageFont.load_default(NUMBER)
        for k, anchor in view.anchors.items():
            draw.text(anchor, str(k), WHITE, font, anchor="mm", stroke_width=2, stroke_fill=DARK)
    if box:
        _draw_box(draw, box, image.size)
    return np.asarray(image)


def spotlight(view: View, clusters: Sequence[int]) -> np.ndarray:
    """Show clusters of an image in their colours, with an outline, and the rest of the image grey and pale.

    Args:
        view: The image and its clusters.
        clusters: Clusters to show. Without clusters, the image is shown as it is.

    Returns:
        Pixels of shape [H, W, 3], uint8.
    """
    if not clusters:
        return view.pixels.round().byte().numpy()
    inside = torch.isin(view.labels, torch.tensor(clusters, device="cpu"))
    pale = view.pixels.mean(2, keepdim=True) * 0.35 + 255 * 0.55
    pixels = torch.where(inside[..., None], view.pixels, pale)
    pixels = _over(pixels, BLUE, outlines(inside, 1))
    return pixels.round().byte().numpy()


def sheet(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Arrange images [H, W, 3] of one size in rows on white."""
    height, width, _ = images[0].shape
    n_rows = -(-len(images) // columns)
    shape = n_rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3
    pixels = np.full(shape, 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        pixels[top : top + height, left : left + width] = image
    return pixels


def _over(pixels: Tensor, colour: Colour, opacity: Tensor) -> Tensor:
    """Blend a colour over pixels [H, W, 3] with an opacity [H, W]."""
    value = torch.tensor(colour, dtype=torch.float32, device="cpu")
    return pixels.lerp(value, opacity[..., None])


def _draw_box(draw: Any, box: Sequence[float], size: tuple[int, int]) -> None:
    """Draw a box, or a cross at its first corner."""
    points = [(x * size[0], y * size[1]) for x, y in zip(box[::2], box[1::2], strict=True)]
    for width, colour in ((5, DARK), (2, WHITE)):
        if len(points) == 2:
            draw.rectangle((*points[0], *points[1]), outline=colour, width=width)
        else:
            (x, y), reach = points[0], 10
            draw.line((x - reach, y, x + reach, y), colour, width)
            draw.line((x, y - reach, x, y + reach), colour, width)
