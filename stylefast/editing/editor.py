# SPDX-License-Identifier: Apache-2.0
"""Local edits of images: what a plan lists, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor
from tqdm import tqdm

from ..catalog import Catalog
from ..generators import Generator
from .plan import Grid
from .renderer import EditBatch, EditRenderer
from .sources import ImageSource, StoredLatents
from .strategies import DEFAULT, Query


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
        targets: Tensor | ImageSource,
        references: Tensor | ImageSource,
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
        own, others = (
            x if isinstance(x, ImageSource) else StoredLatents(self.generator, x) for x in (targets, references)
        )
        plan = Grid(self, own, others, parts, queries, strength=strength)
        make = EditRenderer(plan, batch_size=batch_size, measure=measure, roi_mode=roi_mode)

        def batches() -> Iterator[EditBatch]:
            with tqdm(total=len(plan), desc="edits", unit="image", delay=2, disable=not progress) as bar:
                for edits in plan.batches(batch_size):
                    batch = make(edits)
                    bar.update(len(edits))
                    yield batch

        return batches()
