# SPDX-License-Identifier: Apache-2.0
"""The editor: one generator with one catalog, which checks plans and renders edits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..catalog import Catalog
from ..generators import Generator, Site
from ..io.tensors import checksum
from .plan import Grid, Plan
from .renderer import EditBatch, EditRenderer
from .sources import ImageSource, StoredLatents
from .strategies import Sequential, Strategy


class StyleEditor:
    """Edits the images of one generator with one catalog.

    Args:
        generator: computes styles and images.
        catalog: an annotated catalog of that generator.
        rgb: whether to edit the toRGB sites too, which change colours everywhere.
        transform: how much of the reference's input transform an edit takes (StyleGAN3: it turns and shifts the whole
            image), times the edit's strength: w_0 = target + transform (reference - target) of the row of w that drives
            it. 0 keeps the target's, 1 takes the reference's.
        backend: as in `stylefast.blend`.

    Raises:
        ValueError: the catalog belongs to another generator, or `transform` is requested of one that has none.

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
        self.sites: list[Site] = [site for site in generator.sites if rgb or site.kind != "rgb"]
        self.backend = backend

    @property
    def identity(self) -> list[Any]:
        """JSON-serialisable identity of everything in this editor that determines the pixels of an edit."""
        generator, catalog = self.generator, self.catalog
        tensors = checksum({"centroids": catalog.centroids, "contributions": catalog.contributions})
        clusters = [catalog.parts, catalog.features, catalog.layer]
        return [generator.fingerprint, *clusters, self.rgb, self.transform, tensors]

    def query(self, part: str, strategy: Strategy) -> Tensor:
        """The query of a part: q [S]. Raises ValueError for an unknown part or a parameter out of range."""
        return strategy(self.catalog, part, self.sites)

    def check(self, plan: Plan) -> None:
        """Raises ValueError for the first edit of the plan that this editor cannot make."""
        plan.check(self.query)

    def renderer(
        self, plan: Plan, *, batch_size: int = 4, measure: bool = False, roi_mode: str = "union"
    ) -> EditRenderer:
        """A renderer of a plan's edits; arguments and errors as in `edit`."""
        return EditRenderer(
            self.generator,
            self.catalog,
            self.query,
            plan,
            batch_size=batch_size,
            measure=measure,
            roi_mode=roi_mode,
            transform=self.transform,
            backend=self.backend,
        )

    def edit(
        self,
        targets: Tensor | ImageSource,
        references: Tensor | ImageSource,
        parts: str | Sequence[str],
        *,
        queries: Strategy | Sequence[Strategy] = Sequential(),
        strength: float = 1.0,
        measure: bool = False,
        roi_mode: str = "union",
        batch_size: int = 4,
        progress: bool = True,
    ) -> Iterator[EditBatch]:
        """Edits every target with every reference, part and query, in this order; queries vary fastest.

        styles = target + strength q o (reference - target), image = synthesis(styles) at the target's latent

        Arguments are checked by the call, batches are computed as they are taken; memory does not grow with the grid.

        Args:
            targets: latents w of T images, as `generator.latents` returns them, or an image source.
            references: latents w of R images, or an image source.
            parts: one or several parts of the catalog.
            queries: one or several of `Sequential`, `Simultaneous`, `Softmax`, `Random`.
            strength: factor of every query.
            measure: whether to render the targets too and measure locality.
            roi_mode: where a part is: in the "target", the "reference", or the "union" of both.
            batch_size: edits per batch.
            progress: whether to show a progress bar once two seconds have passed.

        Returns:
            An iterator over `EditBatch`.

        Raises:
            ValueError: an unknown part or roi_mode, a parameter out of range, latents of another shape, or batch_size
                below 1.

        Source: "Editing in Style" (Collins et al., CVPR 2020), equation 3.
        """
        plan = Grid(self._source(targets), self._source(references), parts, queries, strength=strength)
        self.check(plan)
        render = self.renderer(plan, batch_size=batch_size, measure=measure, roi_mode=roi_mode)

        def batches() -> Iterator[EditBatch]:
            with tqdm(total=len(plan), desc="edits", unit="image", delay=2, disable=not progress) as bar:
                for edits in plan.batches(batch_size):
                    batch = render(edits)
                    bar.update(len(edits))
                    yield batch

        return batches()

    def _source(self, images: Tensor | ImageSource) -> ImageSource:
        return images if isinstance(images, ImageSource) else StoredLatents(self.generator, images)
