# SPDX-License-Identifier: Apache-2.0
"""Local edits of images: what a plan lists, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from .catalog import Catalog
from .generators import Generator
from .images import Images, Stored
from .locality import Locality, locality, roi
from .ops.blend import blend
from .plan import Edit, Grid, Pairs, Plan
from .settings import DEFAULT, Query, Random, Sequential, Simultaneous, Softmax
from .table import Table

__all__ = [
    "Edit", "EditBatch", "Grid", "Maker", "Pairs", "Plan", "Query", "Random", "Sequential", "Simultaneous", "Softmax",
    "StyleEditor",
]  # fmt: skip

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


class StyleEditor:
    """Edits the images of one generator with one catalog.

    Args:
        generator: where styles and images come from.
        catalog: of that generator, annotated.
        rgb: also edit the toRGB sites, which change colours everywhere.
        transform: how much of the reference's input transform an edit takes (StyleGAN3: it turns and shifts the whole
            image), times the edit's strength: w_0 = target + transform (reference - target) of the row of w that drives
            it. 0 keeps the target's, 1 takes the reference's.
        backend: as in `stylefast.blend`.

    Raises:
        ValueError: the catalog belongs to another generator, or `transform` is asked of one that has none.

    Example:
        >>> editor = StyleEditor(generator, catalog)
        >>> for batch in editor.edit(targets, references, ["eyes"]): show(batch.images)
    """

    def __init__(
        self,
        generator: Generator,
        catalog: Catalog,
        *,
        rgb: bool = False,
        transform: float = 0.0,
        backend: str | None = None,
    ) -> None:
        catalog.check(generator)
        if not 0 <= transform <= 1 or (transform and generator.transform_row is None):
            allowed = "in [0, 1]" if generator.transform_row is not None else f"0, as {generator.name} has none"
            raise ValueError(f"transform must be {allowed}, got {transform}")
        self.generator = generator
        self.catalog = catalog
        self.rgb = rgb
        self.transform = transform
        self.sites = [site for site in generator.sites if rgb or site.kind != "rgb"]
        self.backend = backend

    def query(self, part: str, setting: Query) -> Tensor:
        """The query of a part: q [S]. Raises ValueError for an unknown part or a setting out of range."""
        return setting(self.catalog, part, self.sites)

    def edit(
        self,
        targets: Tensor | Images,
        references: Tensor | Images,
        parts: str | Sequence[str],
        *,
        queries: Query | Sequence[Query] = DEFAULT,
        strength: float = 1.0,
        measure: bool = False,
        roi_mode: str = "union",
        batch_size: int = 4,
        progress: bool = True,
    ) -> Iterator[EditBatch]:
        """Edits every target with every reference, part and query (in this order, the last running fastest).

        styles = target + strength q o (reference - target), image = synthesis(styles) at the target's latent

        Arguments are checked at once, the work is done as batches are taken; memory does not grow with the grid.

        Args:
            targets: latents w of T images, as `generator.latents` gives them; or images of `stylefast.images`.
            references: likewise, R images.
            parts: one or several parts of the catalog.
            queries: one or several of `Sequential`, `Simultaneous`, `Softmax`, `Random`.
            strength: multiplies the query.
            measure: also make the targets' images and measure locality.
            roi_mode: where a part is: in the "target", the "reference", or the "union" of both.
            batch_size: edits a batch.
            progress: show a progress bar if it takes longer than two seconds.

        Returns:
            An iterator over `EditBatch`.

        Raises:
            ValueError: unknown part or roi_mode, setting out of range, latents of another shape, batch_size below 1.

        Source: "Editing in Style" (Collins et al., CVPR 2020), equation 3.
        """
        own, others = (x if isinstance(x, Images) else Stored(self.generator, x) for x in (targets, references))
        plan = Grid(self, own, others, parts, queries, strength=strength)
        make = Maker(plan, batch_size=batch_size, measure=measure, roi_mode=roi_mode)

        def batches() -> Iterator[EditBatch]:
            with tqdm(total=len(plan), desc="edits", unit="image", delay=2, disable=not progress) as bar:
                for edits in plan.batches(batch_size):
                    batch = make(edits)
                    bar.update(len(edits))
                    yield batch

        return batches()


class Maker:
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

    def _label(self, images: Images, row: int) -> Tensor:
        labels = self.editor.catalog.labels(self.editor.generator, images.w(row), backend=self.editor.backend)
        return labels.flatten(1)  # [1, h w]
