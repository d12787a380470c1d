# SPDX-License-Identifier: Apache-2.0
"""The editor, which checks plans and renders edits with one generator and one catalog."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from torch import Tensor

from ..catalog import Catalog
from ..core.progress import progress_bar
from ..generators import Generator, Site
from ..io.tensors import checksum
from .batch_size import LARGEST, check_batch_size, fastest
from .plan import Grid, Plan
from .renderer import EditBatch, EditRenderer
from .sources import ImageSource, StoredLatents
from .strategies import Sequential, Strategy


class StyleEditor:
    """Editor of the images of one generator with one catalog.

    Args:
        generator: Generator that computes styles and images.
        catalog: Annotated catalog of that generator.
        rgb: Whether to edit the toRGB sites too, which change colours in the whole image.
        transform: How much of the reference's input transform an edit takes, in [0, 1]: 0 keeps the transform of the
            target, 1 takes the transform of the reference. The transform rotates and shifts the whole image; only
            StyleGAN3 has one. In the row of w that drives it, the edit uses
            `target + strength * transform * (reference - target)`.
        backend: Name of a backend, as in `stylefast.assign`.

    Raises:
        ValueError: If the catalog belongs to another generator, or `transform` is out of range or is not 0 for a
            generator without an input transform.

    Example::

        editor = StyleEditor(generator, catalog)
        for batch in editor.edit(targets, references, ["eyes"]):
            show(batch.images)
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

    def __repr__(self) -> str:
        return f"StyleEditor({self.catalog!r}, rgb={self.rgb}, transform={self.transform})"

    @property
    def identity(self) -> list[Any]:
        """JSON-serialisable description of everything in this editor that determines the pixels of an edit."""
        generator, catalog = self.generator, self.catalog
        tensors = checksum({"centroids": catalog.centroids, "contributions": catalog.contributions})
        clusters = [catalog.parts, catalog.features, catalog.layer]
        return [generator.fingerprint, *clusters, self.rgb, self.transform, tensors]

    def query(self, part: str, strategy: Strategy) -> Tensor:
        """Return the query of a part.

        Args:
            part: Name of a part of the catalog.
            strategy: Strategy that computes the query.

        Returns:
            Query q of shape [S], float32. It is zero at the sites that are not edited.

        Raises:
            ValueError: If the part is unknown, or a parameter of the strategy is out of range.
        """
        return strategy(self.catalog, part, self.sites)

    def check(self, plan: Plan) -> None:
        """Check that this editor can make all edits of a plan.

        Args:
            plan: Plan of the edits.

        Raises:
            ValueError: If it cannot make an edit. The message describes the first such edit.
        """
        plan.check(self.query)

    def renderer(
        self, plan: Plan, *, batch_size: int = 4, measure: bool = False, roi_mode: str = "union"
    ) -> EditRenderer:
        """Return a renderer of the edits of a plan. Arguments and errors are the same as in `edit`."""
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
        batch_size: int | Literal["auto"] = 4,
        progress: bool = True,
    ) -> Iterator[EditBatch]:
        """Edit every target with every reference, part and strategy, in this order. Strategies vary fastest.

        The edited styles are, per channel::

            styles = target + strength * q * (reference - target)

        They are synthesised with the latent of the target. The call checks the arguments. Each batch is computed when
        the iterator reaches it, so memory does not grow with the number of edits.

        Args:
            targets: Latents w of the targets, as `Generator.latents` returns them, or an image source.
            references: Latents w of the references, or an image source.
            parts: One or several parts of the catalog.
            queries: One or several strategies: `Sequential`, `Simultaneous`, `Softmax` or `Random`.
            strength: Factor of every query.
            measure: Whether to measure locality, which also renders the unedited targets.
            roi_mode: Region of interest of a part: where the part is in the "target", in the "reference", or in the
                "union" of both.
            batch_size: Edits per batch. "auto" measures a few sizes before the first batch, in at most 5 % of the time
                of all edits. If there are too few edits for that, it is 1 on a CPU and 4 on a GPU.
            progress: Whether to show a progress bar, which appears after two seconds.

        Returns:
            An iterator over `EditBatch`.

        Raises:
            TypeError: If `queries` has an element that is not a strategy, or latents are not a floating-point tensor.
            ValueError: If a part or `roi_mode` is unknown, a parameter is out of range, latents have another shape,
                or `batch_size` is below 1.

        References:
            Collins et al., "Editing in Style: Uncovering the Local Semantics of GANs", CVPR 2020, equation 3.
        """
        check_batch_size(batch_size)
        plan = Grid(self._source(targets), self._source(references), parts, queries, strength=strength)
        self.check(plan)
        largest = LARGEST if batch_size == "auto" else batch_size
        render = self.renderer(plan, batch_size=largest, measure=measure, roi_mode=roi_mode)

        def batches() -> Iterator[EditBatch]:
            size = fastest(self.generator, plan) if batch_size == "auto" else batch_size
            with progress_bar(len(plan), "edits", "image", shown=progress) as bar:
                for edits in plan.batches(size):
                    batch = render(edits)
                    bar.update(len(edits))
                    yield batch

        return batches()

    def _source(self, images: Tensor | ImageSource) -> ImageSource:
        return images if isinstance(images, ImageSource) else StoredLatents(self.generator, images)
