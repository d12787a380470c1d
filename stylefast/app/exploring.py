# SPDX-License-Identifier: Apache-2.0
"""Logic of the tab Edit: edits of one target by several parts, made at once and measured."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import query
from ..catalog import Catalog
from ..editing import Sequential, StoredLatents, Strategy, StyleEditor
from ..generators import Generator
from ..io.images import encode, to_uint8
from ..locality import Locality, lab_locality, rgb_to_lab, roi
from ..ops.blend import blend
from .edits import Change, Edited, EditRequest, Keyed, PartEdit, Picture, to_integer
from .heat import heat_pixels, heat_size
from .memo import Memo
from .workspace import Workspace

CACHE_BYTES = 1 << 28  # bound of the cached images, of the cached Lab images, and of the heat maps
MAX_CATALOGS = 64  # costs of parts that are cached
ZOOM = (2.0, 3.0)  # least and largest magnification of a part
TAIL = 0.04  # share of a part at each of its ends that the magnified square may miss
ZOOM_GRID = (64, 64)  # positions at which the labels say where the part is
MARGIN = 1.2  # side of the magnified square divided by the longer side of the part


@dataclass(frozen=True)
class _Rendered:
    image: Tensor  # [1, C, H, W]
    png: bytes
    time: float  # at which it was made, by `time.perf_counter`


class Explorer:
    """Edits of the pictures of one generator, with caches that all pages share.

    Args:
        workspace: What all pages share.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace: Workspace = workspace
        self.generator: Generator = workspace.generator
        pixels = math.prod(self.generator.image_size)
        self._cost = Memo(self._compute_cost, MAX_CATALOGS)
        self._labels = Memo(self._compute_labels, 64)
        self._render = Memo(self._synthesize, max(8, CACHE_BYTES // (20 * pixels)))
        self._lab = Memo(self._compute_lab, max(2, CACHE_BYTES // (12 * pixels)))
        self._compare = Memo(self._measure, 64)

    def seed(self, name: str, value: Any) -> Picture:
        """Return the picture of a seed.

        Args:
            name: Name of the input in the error.
            value: Seed.

        Raises:
            ValueError: If the value is not an integer in [0, 2**32).
        """
        seed = to_integer(f"seed of {name}", value, 1 << 32, "[0, 2**32)")
        return Picture(seed, f"seed{seed:04}", self.workspace.w(seed), self.workspace.styles(seed))

    def row(self, name: str, stored: StoredLatents, value: Any) -> Picture:
        """Return the picture of a row of a file of latents.

        Args:
            name: Name of the input in the error.
            stored: Latents of the file.
            value: Number of the row.

        Raises:
            ValueError: If there is no such row, or the file has styles only.
        """
        row = to_integer(f"row of {name}", value, len(stored), f"[0, {len(stored)})")
        return Picture((stored, row), stored.name(row), stored.w(row), stored.styles(row))

    def image(self, picture: Picture) -> bytes:
        """Return the unedited image as the contents of a PNG file."""
        return self._render(picture, Keyed.of(picture.styles)).png

    def query(self, catalog: Catalog, part: str, strategy: Strategy, *, rgb: bool = False) -> Tensor:
        """Return the query of a part, [S] float32, as `StyleEditor.query` does. The costs of its channels are cached.

        Raises:
            ValueError: If the part is unknown, or a parameter of the strategy is out of range.
        """
        if not isinstance(strategy, Sequential) or strategy.fractional or strategy.share is not None:
            return StyleEditor(self.generator, catalog, rgb=rgb).query(part, strategy).to(self.generator.device)
        m, cost = self._cost(catalog, tuple(catalog.clusters(part)), rgb)
        epsilon, rho = strategy.epsilon, strategy.rho
        assert epsilon is not None and rho is not None
        return query.sequential(m, epsilon, rho, cost=cost).to(self.generator.device)

    def edit(self, catalog: Catalog, request: EditRequest) -> Edited:
        """Make an edit. All parts are blended at once, as `blend_parts` defines.

        Args:
            catalog: Annotated catalog of the generator.
            request: The edit.

        Returns:
            The image. For one part, it has the bytes that `stylefast edit` writes with batch size 1.

        Raises:
            ValueError: If there is no part, a part is unknown or repeated, or a parameter is out of range.
        """
        begin = time.perf_counter()
        request.check()
        target, parts = request.target, request.parts
        queries = torch.stack([self.query(catalog, edit.part, request.query, rgb=request.rgb) for edit in parts])
        references = torch.cat([edit.reference.styles for edit in parts])
        strengths = [edit.strength for edit in parts]
        styles = Keyed.of(blend_parts(target.styles, references, queries, strengths))
        rendered = self._render(target, styles)
        moves = queries.ne(0) & torch.tensor(strengths, device=queries.device, dtype=torch.float32).ne(0)[:, None]
        n_channels = tuple(moves.sum(1).tolist())
        n_moved, seconds = int(moves.any(0).sum()), time.perf_counter() - begin
        return Edited(request, styles, rendered.png, n_channels, n_moved, seconds, rendered.time > begin)

    def change(self, catalog: Catalog, edited: Edited) -> Change:
        """Measure what an edit has changed, inside and outside its parts."""
        request = edited.request
        region, outline = (
            torch.stack([self._region(catalog, request.target, edit, size) for edit in request.parts]).amax(0)
            for size in (None, heat_size(self.generator.image_size))
        )
        return self._compare(request.target, edited.styles, Keyed.of(region), Keyed.of(outline))

    def zoom(self, catalog: Catalog, target: Picture, edit: PartEdit) -> tuple[float, float, float]:
        """Return the square to magnify around a part: its left and upper edge and its side, as fractions of the image.

        The square covers the part in the target and in the reference. Its side is 1/3 to 1/2 of the image.
        """
        region = self._region(catalog, target, edit, ZOOM_GRID)[0].double()
        sides, centres = [], []
        for axis in (0, 1):  # x, y
            mass = region.sum(axis).cumsum(0)
            ends = torch.searchsorted(mass, mass[-1] * mass.new_tensor([TAIL, 1 - TAIL])).tolist()
            begin, end = (ends[0] / len(mass), (ends[1] + 1) / len(mass)) if mass[-1] else (0.0, 1.0)
            sides.append(end - begin)
            centres.append((begin + end) / 2)
        side = min(max(MARGIN * max(sides), 1 / ZOOM[1]), 1 / ZOOM[0])
        left, top = (min(max(centre - side / 2, 0.0), 1 - side) for centre in centres)
        return left, top, side

    def _region(self, catalog: Catalog, target: Picture, edit: PartEdit, size: tuple[int, int] | None) -> Tensor:
        """Return the region of a part, [1, h, w] bool, at the size of the layer or at another one."""
        labels = (self._labels(catalog, picture, size) for picture in (target, edit.reference))
        in_target, in_reference = (catalog.part_map(grid, edit.part) for grid in labels)
        return roi(in_target, in_reference)

    def _compute_labels(self, catalog: Catalog, picture: Picture, size: tuple[int, int] | None) -> Tensor:
        return catalog.labels(self.generator, picture.w, size=size)

    def _compute_cost(self, catalog: Catalog, clusters: Sequence[int], rgb: bool) -> tuple[Tensor, Tensor]:
        """Return M of a part, [S], and the running cost of its channels, which is infinite outside the edited sites."""
        m = catalog.contributions[list(clusters)].sum(0)
        cost = torch.full_like(m, math.inf, dtype=torch.float64)
        for site in StyleEditor(self.generator, catalog, rgb=rgb).sites:
            cost[site.slice] = query.running_cost(m[site.slice])
        return m, cost

    def _synthesize(self, picture: Picture, styles: Keyed) -> _Rendered:
        image = self.generator.synthesize(styles.tensor, picture.w)
        return _Rendered(image, encode(to_uint8(image)[0], ".png"), time.perf_counter())

    def _compute_lab(self, picture: Picture) -> Tensor:
        return rgb_to_lab(self._render(picture, Keyed.of(picture.styles)).image)

    def _measure(self, target: Picture, styles: Keyed, region: Keyed, outline: Keyed) -> Change:
        difference = rgb_to_lab(self._render(target, styles).image) - self._lab(target)  # [1, 3, H, W]
        heat = heat_pixels(difference[0].square().sum(0).sqrt(), outline.tensor[0])
        return Change(Locality(*(value[0] for value in lab_locality(difference, region.tensor))), encode(heat, ".png"))


def blend_parts(target: Tensor, references: Tensor, queries: Tensor, strengths: Sequence[float]) -> Tensor:
    """Blend several parts into a target, each from a reference of its own.

    Where the queries of the parts sum to more than 1, they are divided by their sum. With the sum Q of all queries and
    the strength s of each part p, per channel::

        out = target + Σ_p s_p·(q_p / max(1, Q))·(reference_p − target)

    A channel that only one part moves has the bits of `blend` for this part alone.

    Args:
        target: Styles of shape [1, S].
        references: Styles of the reference of each part, [P, S].
        queries: Query of each part, [P, S] float32.
        strengths: Strength of each part.

    Returns:
        Blended styles of shape [1, S].
    """
    shares = queries / queries.sum(0).clamp(min=1)
    blended = target
    for reference, share, strength in zip(references, shares, strengths, strict=True):
        moved = blend(target, reference, share, strength=strength)
        both = torch.where(moved == target, blended, blended + (moved - target))
        blended = torch.where(blended == target, moved, both)
    return blended
