# SPDX-License-Identifier: Apache-2.0
"""Images of the tab Parts: the seeds that they show, and the clusters that are drawn in them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .components import MAX_SEED
from .edits import to_integer
from .naming import Naming, count
from .overlays import TILE, View, Views, draw_clusters, sheet, spotlight

N_FACES, COLUMNS = 6, 3
LAST = MAX_SEED - N_FACES + 1  # largest first seed of the images
MEAN, SEED = "Mean image", "Seed"


def check_seeds(source: str, seed: Any, numbers: bool, first: Any) -> None:
    """Raise ValueError unless the seeds of the images to show can be used. No step may be taken before this check."""
    if source != MEAN:
        to_integer("seed", seed, MAX_SEED + 1, "[0, 2**32)")
    to_integer("first seed", first, LAST + 1, f"[0, 2**32 - {N_FACES}]")


def draw_image(view: View, naming: Naming, *, numbers: bool) -> np.ndarray:
    """Return an image with the clusters of the named parts and the selected clusters.

    Args:
        view: The image and its clusters.
        naming: State of the tab.
        numbers: Whether to write the numbers of the clusters.
    """
    draft, colours = naming.draft, naming.colours
    tints = {k: colours[part] for part, ids in reversed(naming.catalog.parts.items()) for k in ids}
    return draw_clusters(view, tints, draft.clusters, colours[draft.part], numbers=numbers, box=naming.box)


def draw_faces(views: Views, naming: Naming, first: int) -> tuple[np.ndarray, str]:
    """Return several images with the picked cluster, or with the selected ones, and a caption.

    Args:
        views: Source of the images.
        naming: State of the tab.
        first: Seed of the first image.
    """
    seeds = range(first, first + N_FACES)
    images = [views(naming.catalog, seed, TILE) for seed in seeds]
    picked = naming.draft.clusters if naming.picked is None else (naming.picked,)
    what = f"Cluster {naming.picked}" if naming.picked is not None else f"The {count(picked)} selected"
    where = f"the images of the seeds {seeds[0]} to {seeds[-1]}"
    caption = f"{what} in {where}:" if picked else f"{where.capitalize()}. Click a cluster to see it in them."
    return sheet([spotlight(image, picked) for image in images], COLUMNS), caption
