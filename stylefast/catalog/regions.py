# SPDX-License-Identifier: Apache-2.0
"""Names of clusters, given by their ids or by areas of the mean image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.checks import to_tensor
from ..core.text import suggestion

MAX_NAME = 100  # bytes of the name of a part
Box: TypeAlias = Sequence[float]
Region: TypeAlias = Sequence[int] | Sequence[Box] | torch.Tensor | np.ndarray

# Boxes of the parts of an aligned face as fractions of the frame: x from, y from, x to, y to. A cluster gets the first
# name that fits it, so the parts of the face come before the skin and the background, whose boxes contain them.
FFHQ_REGIONS: dict[str, list[Box]] = {
    "eyes": [(0.26, 0.40, 0.47, 0.53), (0.53, 0.40, 0.74, 0.53)],
    "nose": [(0.41, 0.50, 0.59, 0.66)],
    "mouth": [(0.36, 0.66, 0.64, 0.80)],
    "skin": [(0.22, 0.26, 0.78, 0.92)],
    "background": [(0.0, 0.0, 1.0, 1.0)],
}


def name_clusters(
    regions: Mapping[str, Region], occupancy: Tensor, threshold: float, *, nearest: bool = True
) -> dict[str, list[int]]:
    """Return the ids of the clusters of each part, as `Catalog.annotate` defines them.

    A cluster k belongs to an area with the weights `weight[p]` at the positions p if this fraction of its mass exceeds
    the threshold::

        fraction[k] = sum_p occupancy[k, p] weight[p] / sum_p occupancy[k, p]

    If no cluster that is still without a name exceeds it, the area gets the one with the largest positive fraction,
    unless `nearest` is False.

    Args:
        regions: Region of each part, by the name of the part.
        occupancy: Fraction of images in which a position has the label of a cluster, [K, h, w].
        threshold: Threshold of the fraction, in [0, 1).
        nearest: Whether an area without a cluster above the threshold gets the nearest one.

    Raises:
        ValueError: If a name cannot be used, the threshold, an id, a box or a mask is out of range, a list of ids is
            empty, or an id belongs to two parts.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be in [0, 1), got {threshold}")
    part_of = _listed(regions, len(occupancy))
    for part, area in ((part, region) for part, region in regions.items() if not _is_ids(region)):
        fraction = fractions_inside(part, area, occupancy).nan_to_num()  # 0 for a cluster without mass
        fraction[list(part_of)] = 0
        chosen = (fraction > threshold).nonzero().flatten().tolist()
        if nearest and not chosen and fraction.max() > 0:
            chosen = [int(fraction.argmax())]
        part_of |= dict.fromkeys(chosen, part)
    return {part: sorted(k for k, name in part_of.items() if name == part) for part in regions}


def overlaps(regions: Mapping[str, Region], occupancy: Tensor, threshold: float) -> dict[str, float]:
    """Return how well clusters cover the area of each part: intersection over union, in [0, 1].

    With the occupancy `u[p]` of all clusters of the part together and the weights `w[p]` of its area::

        overlap = sum_p u[p] w[p] / sum_p (u[p] + w[p] - u[p] w[p])

    It is 0 if no cluster exceeds the threshold. Empty areas, whose weights are all 0, do not count: they are left out.
    Among the others, an area does not count if it contains another one, such as the skin and the background, because
    the parts inside it take clusters away: none of its weights is smaller, and the areas are not equal.

    Args:
        regions, occupancy, threshold: As in `name_clusters`.
    """
    areas = {part: w for part, w in area_weights(regions, occupancy.shape[1:]).items() if w.any()}
    named = name_clusters(regions, occupancy, threshold, nearest=False)
    covers = {part: occupancy[named[part]].sum(0).double() for part in areas}
    inner = [part for part, w in areas.items() if not any((w >= v).all() and (w > v).any() for v in areas.values())]
    return {part: _overlap(covers[part], areas[part]) for part in inner}


def _overlap(u: Tensor, w: Tensor) -> float:
    return ((u * w).sum() / (u + w - u * w).sum().clamp_min(torch.finfo(torch.float64).tiny)).item()


def has_areas(regions: Mapping[str, Region]) -> bool:
    """Return whether a region is an area and not a list of cluster ids."""
    return not all(map(_is_ids, regions.values()))


def area_weights(regions: Mapping[str, Region], size: Sequence[int]) -> dict[str, Tensor]:
    """Return the fraction of every position of a grid that an area covers, [h, w] float64, by the name of the part.

    Raises:
        ValueError: If a box or a mask is out of range.
    """
    return {part: _weights(part, region, size) for part, region in regions.items() if not _is_ids(region)}


def check_regions(regions: Mapping[str, Region], n_clusters: int) -> None:
    """Raise ValueError if `name_clusters` would refuse the regions for a catalog of K = `n_clusters` clusters."""
    _listed(regions, n_clusters)
    area_weights(regions, (1, 1))


def _listed(regions: Mapping[str, Region], n_clusters: int) -> dict[int, str]:
    """Return the part of every cluster whose id is listed. Raise ValueError as `name_clusters` does."""
    part_of: dict[int, str] = {}
    for part, region in regions.items():
        check_part_name(part)
        for k in _check_ids(part, region, n_clusters) if _is_ids(region) else ():
            if part_of.setdefault(k, part) != part:
                raise ValueError(f"cluster {k} must belong to one part, got {part_of[k]!r} and {part!r}")
    return part_of


def fractions_inside(part: str, area: Region, occupancy: Tensor) -> Tensor:
    """Return the fraction of the mass of every cluster that lies in an area, [K] float64.

    The fraction of a cluster without mass is NaN, which exceeds no threshold.

    Args:
        part: Name of the area in messages.
        area: Boxes or a mask.
        occupancy: Fraction of images in which a position has the label of a cluster, [K, h, w].

    Raises:
        ValueError: If a box or a mask is out of range.
    """
    mass = occupancy.flatten(1).double()  # [K, h w]
    return mass @ _weights(part, area, occupancy.shape[1:]).flatten() / mass.sum(1)


def clusters_of(part: str, parts: Mapping[str, list[int]]) -> list[int]:
    """Return the ids of the clusters of a part. Raise ValueError if the part is unknown or has no clusters."""
    if parts.get(part):
        return parts[part]
    if not parts:
        raise ValueError(f"part must be the name of clusters, got {part!r} for a catalog that is not annotated")
    if part in parts:
        raise ValueError(f"part must have clusters, got {part!r}, which has none in this catalog")
    raise ValueError(f"part must be one of {', '.join(map(repr, parts))}, got {part!r}{suggestion(part, parts)}")


def check_part_name(part: str) -> None:
    """Raise ValueError unless edits can use the name: in a list, and in the names of their files."""
    is_name = isinstance(part, str) and part.isprintable() and part == part.strip() and part not in ("", ".", "..")
    if not is_name or set(part) & set(",=/\\") or len(part.encode()) > MAX_NAME:
        expected = f"of 1 to {MAX_NAME} bytes, without commas, =, slashes, control characters and blanks at its ends"
        raise ValueError(f"names of parts must be texts {expected}, got {part!r}")


def _is_ids(region: Region) -> bool:
    return not isinstance(region, (Tensor, np.ndarray)) and all(isinstance(k, Integral) for k in region)


def _check_ids(part: str, ids: Any, n_clusters: int) -> list[int]:
    if not ids or not all(0 <= k < n_clusters for k in ids):
        raise ValueError(f"part {part!r} must list cluster ids in [0, {n_clusters}), got {list(ids)}")
    return [int(k) for k in ids]


def _weights(part: str, region: Any, size: Sequence[int]) -> Tensor:
    """Return the fraction of every position of the grid that a region covers, [h, w] float64."""
    if isinstance(region, (Tensor, np.ndarray)):
        mask = to_tensor(f"part {part!r}", region)
        if mask.dim() != 2 or not mask.numel():
            raise ValueError(f"part {part!r} must be a mask [h, w] with h, w >= 1, got {tuple(mask.shape)}")
        if not bool(((mask >= 0) & (mask <= 1)).all()):
            low, high = mask.double().aminmax()
            raise ValueError(f"part {part!r} must be a mask of weights in [0, 1], got {low:g} to {high:g}")
        return F.interpolate(mask.double()[None, None], size=tuple(size), mode="area")[0, 0]
    total = torch.zeros(tuple(size), dtype=torch.float64, device="cpu")
    for box in region:
        if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            raise ValueError(f"part {part!r} must have boxes (x from, y from, x to, y to) in [0, 1], got {tuple(box)}")
        rows, columns = (_covered(box[i], box[i + 2], cells) for i, cells in ((1, size[0]), (0, size[1])))
        total += rows[:, None] * columns
    return total.clamp(max=1)


def _covered(begin: float, end: float, cells: int) -> Tensor:
    edges = torch.arange(cells + 1, dtype=torch.float64, device="cpu")
    clipped = edges.clamp(begin * cells, end * cells)
    return clipped[1:] - clipped[:-1]
