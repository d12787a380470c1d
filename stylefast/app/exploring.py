# SPDX-License-Identifier: Apache-2.0
"""Logic of the tab Edit: edits of one target by several parts, made at once and measured."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from hashlib import blake2b
from operator import index
from typing import Any

import torch
from torch import Tensor

from .. import query
from ..catalog import Catalog
from ..editing import Edit, Sequential, StoredLatents, Strategy, StyleEditor
from ..io.images import encode, to_uint8
from ..locality import Locality, lab_locality, rgb_to_lab, roi
from ..ops.blend import blend
from .heat import heat_pixels
from .memo import Memo
from .workspace import Workspace

CACHE_BYTES = 1 << 28  # bound of the cached images, of the cached Lab images, and of the heat maps
MAX_CATALOGS = 64  # costs of parts that are cached
ZOOM = (2.0, 3.0)  # least and largest magnification of a part
MARGIN = 1.4  # side of the magnified square divided by the longer side of the part


@dataclass(frozen=True)
class Picture:
    """Image that can be edited, or from which parts can be taken. Pictures with the same key are equal.

    Args:
        key: Hashable identity of the picture.
        name: Name in file names.
        w: Latent, [1, D] or [1, rows, D].
        styles: Styles, [1, S].
    """

    key: Hashable
    name: str = field(compare=False)
    w: Tensor = field(compare=False, repr=False)
    styles: Tensor = field(compare=False, repr=False)


@dataclass(frozen=True)
class PartEdit:
    """One part of an edit.

    Args:
        part: Name of a part of the catalog.
        reference: Picture from which the part is taken.
        strength: Factor of the query of the part.
    """

    part: str
    reference: Picture
    strength: float = 1.0


@dataclass(frozen=True)
class EditRequest:
    """Edit of one target.

    Args:
        target: Picture to edit.
        parts: Parts to change, each once, at least one.
        query: Strategy that computes the query of every part.
        rgb: Whether to edit the toRGB sites too.
    """

    target: Picture
    parts: tuple[PartEdit, ...]
    query: Strategy
    rgb: bool = False

    @property
    def file_name(self) -> str:
        """Name of the image file. An edit of one part has the name that `stylefast edit` gives it."""
        first = self.parts[0]
        label = Edit(0, 0, first.part, self.query, first.strength).label
        parts = "_".join(f"{edit.part}_{edit.reference.name}" for edit in self.parts)
        return f"{self.target.name}_{parts}_{label}.png"


@dataclass(frozen=True)
class Keyed:
    """Tensor that is compared by a digest of its bytes."""

    digest: bytes
    tensor: Tensor = field(compare=False, repr=False)

    @classmethod
    def of(cls, tensor: Tensor) -> Keyed:
        return cls(blake2b(tensor.contiguous().cpu().numpy().tobytes(), digest_size=16).digest(), tensor)


@dataclass(frozen=True)
class Edited:
    """Result of an edit.

    Args:
        request: The edit.
        styles: Blended styles, [1, S].
        png: Contents of the image file.
        n_channels: Number of channels that each part moves.
        n_moved: Number of channels that the edit moves.
        seconds: Time of the edit, from the request to the contents of the file.
        is_new: Whether the image was synthesised for this edit. Otherwise it comes from the cache.
    """

    request: EditRequest
    styles: Keyed
    png: bytes
    n_channels: tuple[int, ...]
    n_moved: int
    seconds: float
    is_new: bool

    @property
    def notes(self) -> list[str]:
        """One sentence per part that moves no channel, though its strength is not 0."""
        pairs = zip(self.request.parts, self.n_channels, strict=True)
        return [_explain(edit.part, self.request.query) for edit, n in pairs if not n and edit.strength]


@dataclass(frozen=True)
class Change:
    """What an edit has changed.

    Args:
        locality: Locality of the edit, as `stylefast edit` measures it. The region of several parts is their union.
        heat: Contents of a PNG file with the CIELAB difference of every pixel.
    """

    locality: Locality
    heat: bytes


class Explorer:
    """Edits of the pictures of one generator, with caches that all pages share.

    Args:
        workspace: What all pages share.

    Attributes:
        n_synthesised: Number of images that were synthesised.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.generator = workspace, workspace.generator
        self.n_synthesised: int = 0
        pixels = math.prod(self.generator.image_size)
        self._cost = Memo(self._compute_cost, MAX_CATALOGS)
        self._labels = Memo(self._compute_labels, 1024)
        self._render = Memo(self._synthesize, max(8, CACHE_BYTES // (20 * pixels)))  # (image, contents of the file)
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
        seed = _integer(f"seed of {name}", value, 1 << 32, "[0, 2**32)")
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
        row = _integer(f"row of {name}", value, len(stored), f"[0, {len(stored)})")
        return Picture((stored, row), stored.name(row), stored.w(row), stored.styles(row))

    def image(self, picture: Picture) -> bytes:
        """Return the unedited image as the contents of a PNG file."""
        return self._render(picture, Keyed.of(picture.styles))[1]

    def query(self, catalog: Catalog, part: str, strategy: Strategy, *, rgb: bool = False) -> Tensor:
        """Return the query of a part, [S] float32, as `StyleEditor.query` does. The costs of its channels are cached.

        Raises:
            ValueError: If the part is unknown, or a parameter of the strategy is out of range.
        """
        if not isinstance(strategy, Sequential) or strategy.fractional:
            return StyleEditor(self.generator, catalog, rgb=rgb).query(part, strategy).to(self.generator.device)
        m, cost = self._cost(catalog, tuple(catalog.clusters(part)), rgb)
        epsilon, rho = strategy.epsilon, strategy.rho
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
        begin, n_before = time.perf_counter(), self.n_synthesised
        _check(request)
        target, parts = request.target, request.parts
        queries = torch.stack([self.query(catalog, edit.part, request.query, rgb=request.rgb) for edit in parts])
        references = torch.cat([edit.reference.styles for edit in parts])
        strengths = [edit.strength for edit in parts]
        styles = Keyed.of(blend_parts(target.styles, references, queries, strengths))
        png = self._render(target, styles)[1]
        moves = queries.ne(0) & torch.tensor(strengths, device=queries.device, dtype=torch.float32).ne(0)[:, None]
        n_channels = tuple(moves.sum(1).tolist())
        is_new, seconds = self.n_synthesised > n_before, time.perf_counter() - begin
        return Edited(request, styles, png, n_channels, int(moves.any(0).sum()), seconds, is_new)

    def change(self, catalog: Catalog, edited: Edited) -> Change:
        """Measure what an edit has changed, inside and outside its parts."""
        request = edited.request
        region = reduce(torch.maximum, [self._roi(catalog, request.target, edit) for edit in request.parts])
        return self._compare(request.target, edited.styles, Keyed.of(region))

    def zoom(self, catalog: Catalog, target: Picture, edit: PartEdit) -> tuple[float, float, float]:
        """Return the square to magnify around a part: its left and upper edge and its side, as fractions of the image.

        The square covers the part in the target and in the reference. Its side is 1/3 to 1/2 of the image.
        """
        region = self._roi(catalog, target, edit)[0]
        sides, centres = [], []
        for axis in (1, 0):  # x, y
            covered = region.any(1 - axis).nonzero().flatten().tolist() or [0, region.shape[axis] - 1]
            begin, end = covered[0] / region.shape[axis], (covered[-1] + 1) / region.shape[axis]
            sides.append(end - begin)
            centres.append((begin + end) / 2)
        side = min(max(MARGIN * max(sides), 1 / ZOOM[1]), 1 / ZOOM[0])
        left, top = (min(max(centre - side / 2, 0.0), 1 - side) for centre in centres)
        return left, top, side

    def _roi(self, catalog: Catalog, target: Picture, edit: PartEdit) -> Tensor:
        masks = (catalog.part_map(self._labels(catalog, one), edit.part) for one in (target, edit.reference))
        return roi(*masks)  # [1, h, w] bool

    def _compute_labels(self, catalog: Catalog, picture: Picture) -> Tensor:
        return catalog.labels(self.generator, picture.w)

    def _compute_cost(self, catalog: Catalog, clusters: Sequence[int], rgb: bool) -> tuple[Tensor, Tensor]:
        """Return M of a part, [S], and the running cost of its channels, which is infinite outside the edited sites."""
        m = catalog.contributions[list(clusters)].sum(0)
        cost = torch.full_like(m, math.inf, dtype=torch.float64)
        for site in StyleEditor(self.generator, catalog, rgb=rgb).sites:
            cost[site.slice] = query.running_cost(m[site.slice])
        return m, cost

    def _synthesize(self, picture: Picture, styles: Keyed) -> tuple[Tensor, bytes]:
        self.n_synthesised += 1
        image = self.generator.synthesize(styles.tensor, picture.w)  # [1, C, H, W]
        return image, encode(to_uint8(image)[0], ".png")

    def _compute_lab(self, picture: Picture) -> Tensor:
        return rgb_to_lab(self._render(picture, Keyed.of(picture.styles))[0])

    def _measure(self, target: Picture, styles: Keyed, region: Keyed) -> Change:
        difference = rgb_to_lab(self._render(target, styles)[0]) - self._lab(target)  # [1, 3, H, W]
        heat = heat_pixels(difference[0].norm(dim=0), region.tensor[0])
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
