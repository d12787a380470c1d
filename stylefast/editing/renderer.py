# SPDX-License-Identifier: Apache-2.0
"""Renders the edits of a plan, batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..locality import Locality, locality, roi
from ..ops.blend import blend
from .plan import Edit, Plan
from .sources import ImageSource
from .table import Table

CACHE = 1 << 29  # bytes of styles, of queries and of labels that are kept


@dataclass(frozen=True)
class EditBatch:
    """Some edits and what came of them.

    Args:
        edits: E of them.
        styles: [E, S], the blended styles.
        images: [E, 3, H, W] float32 in [0, 1].
        targets: [E, 3, H, W], the unedited images; None if locality was not asked for.
        roi: [E, h, w] bool, where the part is in target or reference; None likewise.
        locality: of every edit; None likewise.
    """

    edits: list[Edit]
    styles: Tensor
    images: Tensor
    targets: Tensor | None = None
    roi: Tensor | None = None
    locality: Locality | None = None


class EditRenderer:
    """Makes the images of a plan's edits, a batch at a call.

    The styles of a latent and the query of a setting are computed once, as long as they fit into a bound, and blended
    where they are by one call a batch. What an edit becomes depends on its batch alone.

    Args:
        plan: the edits.
        batch_size: edits a batch, at most.
        measure, roi_mode: as in `StyleEditor.edit`.
        cache_bytes: bound of styles, of queries and of labels that are kept.

    Raises:
        ValueError: batch_size below 1, an unknown roi_mode.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        batch_size: int = 4,
        measure: bool = False,
        roi_mode: str = "union",
        cache_bytes: int = CACHE,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        nowhere = torch.zeros(0, 1, 1, dtype=torch.bool)
        roi(nowhere, nowhere, roi_mode)  # refuses an unknown mode now, not at the first batch
        self.plan, self.editor, self.roi_mode, self.measure = plan, plan.editor, roi_mode, measure
        editor, most = plan.editor, 2 * max(batch_size, len(plan))
        fewest = 2 * batch_size
        self._styles = Table(lambda images, row: images.styles(row), fewest, most, cache_bytes)
        self._queries = Table(lambda part, query: editor.query(part, query)[None], fewest, most, cache_bytes)
        self._labels = Table(self._label, fewest, most, cache_bytes)
        self._originals: dict[int, Tensor] = {}

    def __call__(self, edits: list[Edit]) -> EditBatch:
        """Styles and images of a batch, and locality if it is measured."""
        plan, generator = self.plan, self.editor.generator
        own, others = ([(plan.targets, e.target) for e in edits], [(plan.references, e.reference) for e in edits])
        rows, styles = self._styles(own + others)
        places, queries = self._queries([(e.part, e.query) for e in edits])
        index = torch.tensor([rows[: len(edits)], rows[len(edits) :], places]).T.to(generator.device)  # [E, 3]
        strength = torch.tensor([e.strength for e in edits])
        blended = blend(
            styles, styles, queries.to(styles.device), edits=index, strength=strength, backend=self.editor.backend
        )
        w = torch.cat([plan.targets.w(e.target) for e in edits])
        if (row := generator.transform_row) is not None and self.editor.transform:
            other = torch.cat([plan.references.w(e.reference) for e in edits])[:, row]
            share = (strength * self.editor.transform).to(w)[:, None]
            w[:, row] = w[:, row].lerp(other, share)
        batch = EditBatch(edits, blended, generator.synthesize(blended, w))
        return self._measured(batch) if self.measure else batch

    def _measured(self, batch: EditBatch) -> EditBatch:
        wanted = dict.fromkeys(edit.target for edit in batch.edits)
        self._originals = {t: image for t, image in self._originals.items() if t in wanted}
        targets, generator = self.plan.targets, self.editor.generator
        for t in wanted:
            if t not in self._originals:
                self._originals[t] = generator.synthesize(targets.styles(t), targets.w(t))
        before = torch.cat([self._originals[edit.target] for edit in batch.edits])
        region = torch.cat([self._roi(edit) for edit in batch.edits])  # [E, h, w]
        return replace(batch, targets=before, roi=region, locality=locality(batch.images, before, region))

    def _roi(self, edit: Edit) -> Tensor:
        catalog = self.editor.catalog
        rows, labels = self._labels([(self.plan.targets, edit.target), (self.plan.references, edit.reference)])
        grids = labels.view(-1, *catalog.occupancy.shape[1:])
        target, reference = (catalog.part_map(grids[row : row + 1], edit.part) for row in rows)
        return roi(target, reference, self.roi_mode)

    def _label(self, images: ImageSource, row: int) -> Tensor:
        labels = self.editor.catalog.labels(self.editor.generator, images.w(row), backend=self.editor.backend)
        return labels.flatten(1)  # [1, h w]
