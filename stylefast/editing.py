# SPDX-License-Identifier: Apache-2.0
"""Local edits of images: targets x references x parts x queries, as a lazy grid, batch by batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from . import query
from .catalog import Catalog
from .generators import Generator, Site
from .locality import Locality, locality, roi
from .ops.blend import blend


@dataclass(frozen=True)
class Sequential:
    """The channels with the largest contribution, until the budget for changes elsewhere is spent (equation 5).

    epsilon and rho, as in `stylefast.query.sequential`, are numbers or one value an edited site.
    """

    epsilon: float | tuple[float, ...] = 1.0
    rho: float | tuple[float, ...] = 0.1
    fractional: bool = False

    @property
    def name(self) -> str:
        return f"sequential_{self.epsilon:g}" if isinstance(self.epsilon, (int, float)) else "sequential"

    def __call__(self, catalog: Catalog, part: str, sites: Sequence[Site]) -> Tensor:
        """q [S], zero outside `sites`."""
        q, m = torch.zeros(catalog.contributions.shape[1]), catalog.contribution(part)
        budgets, thresholds = (_per_site(value, sites) for value in (self.epsilon, self.rho))
        for site, epsilon, rho in zip(sites, budgets, thresholds, strict=True):
            q[site.slice] = query.sequential(m[site.slice], epsilon, rho, fractional=self.fractional)
        return q


@dataclass(frozen=True)
class Simultaneous:
    """Every channel in proportion to its contribution (equation 4); strength is lambda."""

    strength: float = 1.0

    @property
    def name(self) -> str:
        return "simultaneous"

    def __call__(self, catalog: Catalog, part: str, sites: Sequence[Site]) -> Tensor:
        """q [S], zero outside `sites`."""
        return _only(query.simultaneous(catalog.contribution(part), self.strength), sites)


@dataclass(frozen=True)
class Softmax:
    """The channels that belong to the part clearly more than to any other part of the catalog (Retrieve in Style)."""

    temperature: float = 0.1
    threshold: float = 0.8

    @property
    def name(self) -> str:
        return "softmax"

    def __call__(self, catalog: Catalog, part: str, sites: Sequence[Site]) -> Tensor:
        """q [S], zero outside `sites`."""
        parts = [name for name, ids in catalog.parts.items() if ids]
        catalog.clusters(part)
        m = torch.stack([catalog.contribution(name) for name in parts])  # [P, S]
        q = query.softmax(m, parts.index(part), temperature=self.temperature, threshold=self.threshold)
        return _only(q, sites)


@dataclass(frozen=True)
class Random:
    """As many channels as `like` takes, drawn at random from all edited sites: the control of an experiment."""

    like: Sequential = Sequential()
    seed: int = 0

    @property
    def name(self) -> str:
        return "random"

    def __call__(self, catalog: Catalog, part: str, sites: Sequence[Site]) -> Tensor:
        """q [S], zero outside `sites`."""
        q, rng = self.like(catalog, part, sites), torch.Generator().manual_seed(self.seed)
        channels = torch.cat([torch.arange(site.start, site.stop) for site in sites])
        drawn = torch.zeros_like(q)
        drawn[channels[torch.randperm(len(channels), generator=rng)]] = q[channels]
        return drawn


Query = Sequential | Simultaneous | Softmax | Random


@dataclass(frozen=True)
class Edit:
    """One edit: rows of the targets and references given to `StyleEditor.edit`, the part, and the query."""

    target: int
    reference: int
    part: str
    query: Query


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
        backend: as in `stylefast.blend`.

    Raises:
        ValueError: the catalog belongs to another generator.

    Example:
        >>> editor = StyleEditor(generator, catalog)
        >>> for batch in editor.edit(targets, references, ["eyes"]): show(batch.images)
    """

    def __init__(
        self, generator: Generator, catalog: Catalog, *, rgb: bool = False, backend: str | None = None
    ) -> None:
        catalog.check(generator)
        self.generator = generator
        self.catalog = catalog
        self.sites = [site for site in generator.sites if rgb or site.kind != "rgb"]
        self.backend = backend

    def query(self, part: str, setting: Query) -> Tensor:
        """The query of a part: q [S]. Raises ValueError for an unknown part or a setting out of range."""
        return setting(self.catalog, part, self.sites)

    def edit(
        self,
        targets: Tensor,
        references: Tensor,
        parts: str | Sequence[str],
        *,
        queries: Query | Sequence[Query] = Sequential(),
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
            targets: latents w of T images, as `generator.latents` gives them.
            references: latents of R images.
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
        if batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {batch_size}")
        if not math.isfinite(strength):
            raise ValueError(f"strength must be a finite number, got {strength}")
        nowhere = torch.zeros(0, 1, 1, dtype=torch.bool)
        roi(nowhere, nowhere, roi_mode)  # refuses an unknown mode now, not at the first batch
        parts = [parts] if isinstance(parts, str) else list(parts)
        settings = list(queries) if isinstance(queries, Sequence) else [queries]
        rows = list(itertools.product(parts, settings))
        if not rows:
            raise ValueError("parts and queries must each name at least one")
        table = torch.stack([self.query(part, setting) for part, setting in rows]).to(self.generator.device)  # [Q, S]
        target_styles, reference_styles = (self.generator.styles(w) for w in (targets, references))

        def batches() -> Iterator[EditBatch]:
            grid = itertools.product(range(len(targets)), range(len(references)), range(len(rows)))
            total = len(targets) * len(references) * len(rows)
            measured = _Measured(self, targets, target_styles, references, roi_mode, batch_size) if measure else None
            with tqdm(total=total, desc="edits", unit="image", delay=2, disable=not progress) as bar:
                while chunk := list(itertools.islice(grid, batch_size)):
                    index = torch.tensor(chunk, device=self.generator.device)  # [E, 3]
                    edits = [Edit(t, r, *rows[q]) for t, r, q in chunk]
                    styles = blend(
                        target_styles, reference_styles, table, edits=index, strength=strength, backend=self.backend
                    )
                    images = self.generator.synthesize(styles, targets[index[:, 0]])
                    bar.update(len(chunk))
                    batch = EditBatch(edits, styles, images)
                    yield measured(batch) if measured else batch

        return batches()


class _Measured:
    """The targets' images, regions and locality of edits; keeps the originals of one batch."""

    def __init__(
        self,
        editor: StyleEditor,
        targets: Tensor,
        target_styles: Tensor,
        references: Tensor,
        roi_mode: str,
        batch_size: int,
    ) -> None:
        self.generator, self.catalog = editor.generator, editor.catalog
        self.targets, self.target_styles, self.roi_mode = targets, target_styles, roi_mode
        self.labels = [
            torch.cat(
                [self.catalog.labels(self.generator, chunk, backend=editor.backend) for chunk in w.split(batch_size)]
            )
            for w in (targets, references)
        ]  # [T, h, w], [R, h, w]
        self.originals: dict[int, Tensor] = {}

    def __call__(self, batch: EditBatch) -> EditBatch:
        wanted = dict.fromkeys(edit.target for edit in batch.edits)
        self.originals = {t: image for t, image in self.originals.items() if t in wanted}
        for t in wanted:
            if t not in self.originals:
                self.originals[t] = self.generator.synthesize(self.target_styles[t : t + 1], self.targets[t : t + 1])
        before = torch.cat([self.originals[edit.target] for edit in batch.edits])
        region = torch.cat([self._roi(edit) for edit in batch.edits])  # [E, h, w]
        return replace(batch, targets=before, roi=region, locality=locality(batch.images, before, region))

    def _roi(self, edit: Edit) -> Tensor:
        rows = zip(self.labels, (edit.target, edit.reference), strict=True)
        target, reference = (self.catalog.part_map(labels[i : i + 1], edit.part) for labels, i in rows)
        return roi(target, reference, self.roi_mode)


def _per_site(value: float | tuple[float, ...], sites: Sequence[Site]) -> tuple[float, ...]:
    if isinstance(value, (int, float)):
        return (value,) * len(sites)
    if len(value) != len(sites):
        raise ValueError(f"a query must have one value or one for each of {len(sites)} edited sites, got {len(value)}")
    return tuple(value)


def _only(q: Tensor, sites: Sequence[Site]) -> Tensor:
    kept = torch.zeros_like(q)
    for site in sites:
        kept[site.slice] = q[site.slice]
    return kept
