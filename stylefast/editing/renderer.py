# SPDX-License-Identifier: Apache-2.0
"""Rendering of the edits of a plan, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import torch
from torch import Tensor

from ..catalog import Catalog
from ..core.checks import check_integer
from ..core.copies import Cached
from ..generators import Generator
from ..locality import Locality, check_roi_mode, locality, roi
from ..ops.blend import blend
from .plan import Edit, Plan
from .sources import ImageSource, max_cached_rows
from .strategies import Strategy

CACHE_BYTES = 1 << 29  # bound of each of the three caches: styles, queries, labels
MAX_PATTERNS = 16  # patterns of equal images in a batch that are tried, because each costs an additional synthesis


@dataclass(frozen=True)
class EditBatch:
    """Batch of E edits and their results.

    Args:
        edits: The edits.
        styles: Blended styles, [E, S].
        images: Edited images, [E, C, H, W] float32 in [0, 1].
        targets: Unedited images, [E, C, H, W]; None if locality was not measured.
        roi: Region of interest of each edit, [E, h, w] bool; None if locality was not measured.
        locality: Locality of each edit; None if it was not measured.
    """

    edits: list[Edit]
    styles: Tensor
    images: Tensor
    targets: Tensor | None = None
    roi: Tensor | None = None
    locality: Locality | None = None


class EditRenderer:
    """Renderer of the edits of a plan. `StyleEditor.renderer` creates one.

    The styles and labels of images and the queries of parts are cached in a bounded amount of memory. The result of an
    edit depends only on the edits of its batch.

    Images that must be equal are synthesised once: an edit that moves nothing is the image of its target, and two edits
    of a batch can have the same query. This never changes a bit of an image. A batch that becomes smaller by it is
    first synthesised in both sizes, and its size is kept if the images differ. The bits of an image can depend on its
    row, so that this is found out for each pattern of equal images, for at most `MAX_PATTERNS` patterns.

    Args:
        generator: Generator that synthesises the images.
        catalog: Catalog that labels the images whose locality is measured.
        query: Function that returns the query [S] of a part and a strategy.
        plan: Plan of the edits.
        batch_size: Largest number of edits per batch.
        measure: Whether to measure locality, which also renders the unedited targets.
        roi_mode: Region of interest of a part, as in `stylefast.locality.roi`.
        transform: How much of the reference's input transform an edit takes, as in `StyleEditor`.
        backend: Name of a backend, as in `stylefast.assign`.

    Raises:
        ValueError: If `batch_size` is below 1, or `roi_mode` is unknown.
    """

    def __init__(
        self,
        generator: Generator,
        catalog: Catalog,
        query: Callable[[str, Strategy], Tensor],
        plan: Plan,
        *,
        batch_size: int,
        measure: bool,
        roi_mode: str,
        transform: float,
        backend: str | None,
    ) -> None:
        check_integer("batch_size", batch_size, 1)
        check_roi_mode(roi_mode)
        self._generator, self._catalog, self._plan = generator, catalog, plan
        self._measure, self._roi_mode, self._transform, self._backend = measure, roi_mode, transform, backend

        def rows(n_elements: int) -> int:
            return max(2 * batch_size, max_cached_rows(n_elements, CACHE_BYTES))

        width = generator.style_width
        self._compute_query = query
        self._styles = Cached(_styles, rows(width))
        self._queries = Cached(self._query, rows(width))  # (q, digest)
        self._labels = Cached(self._label, rows(math.prod(catalog.occupancy.shape[1:])))
        self._originals: dict[int, Tensor] = {}  # images of the targets of the latest batch, each synthesised alone
        self._is_exact: dict[tuple[int, ...], bool] = {}  # pattern -> whether only its first edits have the same bits

    def __call__(self, edits: list[Edit]) -> EditBatch:
        """Return the styles and images of a batch, and its locality if it is measured."""
        plan, generator = self._plan, self._generator
        images = [(plan.targets, e.target) for e in edits] + [(plan.references, e.reference) for e in edits]
        image_rows, styles = _stack(images, self._styles)
        query_rows, queries = _stack([(e.part, e.query) for e in edits], lambda *key: self._queries(*key)[0])
        index = torch.tensor([image_rows[: len(edits)], image_rows[len(edits) :], query_rows], device="cpu").T  # [E, 3]
        strength = torch.tensor([edit.strength for edit in edits], dtype=torch.float32, device="cpu")
        blended = blend(
            styles, styles, queries, edits=index.to(generator.device), strength=strength, backend=self._backend
        )
        w = torch.cat([plan.targets.w(edit.target) for edit in edits])
        if (row := generator.transform_row) is not None and self._transform:
            reference = torch.cat([plan.references.w(edit.reference) for edit in edits])[:, row]
            w[:, row] = w[:, row].lerp(reference, (strength * self._transform).to(w)[:, None])
        targets = {edit.target for edit in edits}
        self._originals = {row: image for row, image in self._originals.items() if row in targets}
        batch = EditBatch(edits, blended, self._synthesize(edits, blended, w))
        return self._measured(batch) if self._measure else batch

    def _synthesize(self, edits: list[Edit], styles: Tensor, w: Tensor) -> Tensor:
        """Synthesise the edits, equal rows once if this gives the same bits."""
        synthesize, rows = self._generator.synthesize, list(map(self._row, edits))
        if rows == [(edits[0].target,)]:
            return self._original(edits[0].target).clone()
        pattern = tuple(map(rows.index, rows))  # for each edit, the first one with an equal image
        first = sorted({*pattern})
        if len(first) == len(rows) or not self._is_exact.get(pattern, len(self._is_exact) < MAX_PATTERNS):
            return synthesize(styles, w)
        few = synthesize(*(torch.stack([x[i] for i in first]) for x in (styles, w)))
        images = torch.stack([few[first.index(i)] for i in pattern])
        if pattern not in self._is_exact:
            expected = synthesize(styles, w)
            self._is_exact[pattern] = torch.equal(images, expected)
            return expected
        return images

    def _row(self, edit: Edit) -> tuple:
        """Return a key that is equal for edits with equal styles and latents."""
        digest = self._queries(edit.part, edit.query)[1]
        moves_w = self._generator.transform_row is not None and self._transform
        if edit.strength == 0 or (digest is None and not moves_w):
            return (edit.target,)
        return edit.target, edit.reference, digest, edit.strength

    def original(self, source: ImageSource, row: int) -> Tensor:
        """Return the unedited image of a row, [1, C, H, W], which is synthesised alone.

        The image of a target of the latest batch is not synthesised again if that batch needed it.
        """
        if source is self._plan.targets and row in self._originals:
            return self._originals[row]
        return self._generator.synthesize(source.styles(row), source.w(row))

    def _original(self, row: int) -> Tensor:
        if row not in self._originals:
            self._originals[row] = self.original(self._plan.targets, row)
        return self._originals[row]

    def _measured(self, batch: EditBatch) -> EditBatch:
        originals = torch.cat([self._original(edit.target) for edit in batch.edits])
        region = torch.cat([self._roi(edit) for edit in batch.edits])  # [E, h, w]
        return replace(batch, targets=originals, roi=region, locality=locality(batch.images, originals, region))

    def _roi(self, edit: Edit) -> Tensor:
        labels = self._labels(self._plan.targets, edit.target), self._labels(self._plan.references, edit.reference)
        target, reference = (self._catalog.part_map(grid, edit.part) for grid in labels)
        return roi(target, reference, self._roi_mode)

    def _query(self, part: str, strategy: Strategy) -> tuple[Tensor, bytes | None]:
        """Return the query on the device of the generator, and its digest, which is None if it selects nothing."""
        q = self._compute_query(part, strategy)
        digest = blake2b(q.cpu().numpy().tobytes()).digest() if q.any() else None
        return q.to(self._generator.device), digest

    def _label(self, source: ImageSource, row: int) -> Tensor:
        return self._catalog.labels(self._generator, source.w(row), backend=self._backend)  # [1, h, w]


def _styles(source: ImageSource, row: int) -> Tensor:
    return source.styles(row)


def _stack(keys: Sequence[tuple], compute: Callable[..., Tensor]) -> tuple[list[int], Tensor]:
    """Compute the value of each distinct key once. Return the row of each key, and the tensor with these rows."""
    rows = {key: row for row, key in enumerate(dict.fromkeys(keys))}
    values = [compute(*key) for key in rows]
    return [rows[key] for key in keys], torch.stack([value.view(-1) for value in values])
