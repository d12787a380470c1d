# SPDX-License-Identifier: Apache-2.0
"""Renders the edits of a plan, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from ..catalog import Catalog
from ..core.checks import check_integer
from ..generators import Generator
from ..locality import Locality, check_roi_mode, locality, roi
from ..ops.blend import blend
from .plan import Edit, Plan
from .sources import ImageSource, max_cached_rows
from .strategies import Strategy

CACHE_BYTES = 1 << 29  # bound of the cached styles, and of the cached queries, and of the cached labels


@dataclass(frozen=True)
class EditBatch:
    """Some edits and their results.

    Args:
        edits: E edits.
        styles: [E, S], the blended styles.
        images: [E, 3, H, W] float32 in [0, 1].
        targets: [E, 3, H, W], the unedited images; None if locality was not measured.
        roi: [E, h, w] bool, where the part is in the target or reference; None likewise.
        locality: per edit; None likewise.
    """

    edits: list[Edit]
    styles: Tensor
    images: Tensor
    targets: Tensor | None = None
    roi: Tensor | None = None
    locality: Locality | None = None


class EditRenderer:
    """Renders the edits of a plan; `StyleEditor.renderer` makes one.

    Styles, queries and labels are computed once per row, part and image as long as they fit into a bound of memory. An
    edit's result depends on the edits of its batch alone.

    Args:
        generator: synthesises the images.
        catalog: labels the images whose locality is measured.
        query: part and strategy -> query [S].
        plan: the edits.
        batch_size: the largest number of edits per batch.
        measure: whether to render the unedited targets and measure locality.
        roi_mode: as in `stylefast.locality.roi`.
        transform: as in `StyleEditor`.
        backend: as in `stylefast.blend`.

    Raises:
        ValueError: batch_size below 1, or an unknown roi_mode.
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
        self._styles = lru_cache(rows(width))(lambda source, row: source.styles(row))
        self._query = lru_cache(rows(width))(lambda part, strategy: query(part, strategy).to(generator.device))
        self._labels = lru_cache(rows(math.prod(catalog.occupancy.shape[1:])))(self._label)
        self._originals: dict[int, Tensor] = {}

    def __call__(self, edits: list[Edit]) -> EditBatch:
        """Styles and images of a batch, and its locality if it is measured."""
        plan, generator = self._plan, self._generator
        images = [(plan.targets, e.target) for e in edits] + [(plan.references, e.reference) for e in edits]
        image_rows, styles = _stack(images, self._styles)
        query_rows, queries = _stack([(e.part, e.query) for e in edits], self._query)
        index = torch.tensor([image_rows[: len(edits)], image_rows[len(edits) :], query_rows]).T  # [E, 3]
        strength = torch.tensor([edit.strength for edit in edits])
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

    def _label(self, source: ImageSource, row: int) -> Tensor:
        return self._catalog.labels(self._generator, source.w(row), backend=self._backend)  # [1, h, w]


def _stack(keys: Sequence[tuple], compute: Callable[..., Tensor]) -> tuple[list[int], Tensor]:
    """The row of each key in a tensor that holds the value of each distinct key once."""
    rows = {key: row for row, key in enumerate(dict.fromkeys(keys))}
    values = [compute(*key) for key in rows]
    return [rows[key] for key in keys], torch.stack([value.view(-1) for value in values])
