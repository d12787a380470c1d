# SPDX-License-Identifier: Apache-2.0
"""Rendering of the edits of a plan, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
        self._queries = Cached(self._query, rows(width))
        self._labels = Cached(self._label, rows(math.prod(catalog.occupancy.shape[1:])))
        self._originals: dict[int, Tensor] = {}

    def __call__(self, edits: list[Edit]) -> EditBatch:
        """Return the styles and images of a batch, and its locality if it is measured."""
        plan, generator = self._plan, self._generator
        images = [(plan.targets, e.target) for e in edits] + [(plan.references, e.reference) for e in edits]
        image_rows, styles = _stack(images, self._styles)
        query_rows, queries = _stack([(e.part, e.query) for e in edits], self._queries)
        index = torch.tensor([image_rows[: len(edits)], image_rows[len(edits) :], query_rows], device="cpu").T  # [E, 3]
        strength = torch.tensor([edit.strength for edit in edits], dtype=torch.float32, device="cpu")
        blended = blend(
            styles, styles, queries, edits=index.to(generator.device), strength=strength, backend=self._backend
        )
        w = torch.cat([plan.targets.w(edit.target) for edit in edits])
        if (row := generator.transform_row) is not None and self._transform:
            reference = torch.cat([plan.references.w(edit.reference) for edit in edits])[:, row]
            w[:, row] = w[:, row].lerp(reference, (strength * self._transform).to(w)[:, None])
        batch = EditBatch(edits, blended, generator.synthesize(blended, w))
        return self._measured(batch) if self._measure else batch

    def _measured(self, batch: EditBatch) -> EditBatch:
        targets = dict.fromkeys(edit.target for edit in batch.edits)
        self._originals = {row: image for row, image in self._originals.items() if row in targets}
        source = self._plan.targets
        for row in targets:
            if row not in self._originals:
                self._originals[row] = self._generator.synthesize(source.styles(row), source.w(row))
        originals = torch.cat([self._originals[edit.target] for edit in batch.edits])
        region = torch.cat([self._roi(edit) for edit in batch.edits])  # [E, h, w]
        return replace(batch, targets=originals, roi=region, locality=locality(batch.images, originals, region))

    def _roi(self, edit: Edit) -> Tensor:
        labels = self._labels(self._plan.targets, edit.target), self._labels(self._plan.references, edit.reference)
        target, reference = (self._catalog.part_map(grid, edit.part) for grid in labels)
        return roi(target, reference, self._roi_mode)

    def _query(self, part: str, strategy: Strategy) -> Tensor:
        return self._compute_query(part, strategy).to(self._generator.device)

    def _label(self, source: ImageSource, row: int) -> Tensor:
        return self._catalog.labels(self._generator, source.w(row), backend=self._backend)  # [1, h, w]


def _styles(source: ImageSource, row: int) -> Tensor:
    return source.styles(row)


def _stack(keys: Sequence[tuple], compute: Callable[..., Tensor]) -> tuple[list[int], Tensor]:
    """Compute the value of each distinct key once. Return the row of each key, and the tensor with these rows."""
    rows = {key: row for row, key in enumerate(dict.fromkeys(keys))}
    values = [compute(*key) for key in rows]
    return [rows[key] for key in keys], torch.stack([value.view(-1) for value in values])
