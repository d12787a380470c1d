# SPDX-License-Identifier: Apache-2.0
"""Choice of the k-means run whose clusters a catalog uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from torch import Tensor

from .regions import Region, has_areas, overlaps

THRESHOLD = 0.5  # of `Catalog.annotate`


def choose_run(
    runs: Tensor,
    objectives: Sequence[float],
    run: int | None,
    regions: Mapping[str, Region] | None,
    occupancies: Callable[[Tensor], Tensor],
) -> dict[str, Any]:
    """Choose the run that fits the areas of the regions best, as `best_overlap` does, and say why.

    If no area counts, the run with the best objective is chosen.

    Args:
        runs: Centroids of all runs, [B, K, C].
        objectives: Objectives of the runs.
        run: Run that the user has chosen, or None.
        regions: Regions of the parts, as in `Catalog.annotate`, or None.
        occupancies: Function that returns the occupancy of every run, [B, K, h, w]. It is called only if the user has
            not chosen a run and a region is an area.

    Returns:
        Entries of the provenance: "run", "objectives" and, if the areas were compared and at least one counts,
        "overlaps", the overlap of the parts in every run.
    """
    if run is not None or regions is None or not has_areas(regions):
        best = objectives.index(max(objectives)) if run is None else run
        return {"run": best, "objectives": list(objectives)}
    per_run = [overlaps(regions, occupancy, THRESHOLD) for occupancy in occupancies(runs)]
    choice = {"run": best_overlap(per_run, objectives), "objectives": list(objectives)}
    return {**choice, "overlaps": per_run} if any(per_run) else choice


def best_overlap(overlaps: Sequence[Mapping[str, float]], objectives: Sequence[float]) -> int:
    """Return the run in which most parts have clusters.

    Among several, it is the run whose parts have the largest mean overlap and, among several of these or if no part
    has an overlap, the run with the best objective: the first such run.

    Args:
        overlaps: Overlap of each part whose area counts, for every run, as `regions.overlaps` returns them.
        objectives: Objectives of the runs.
    """

    def quality(run: int) -> tuple[int, float, float]:
        values = overlaps[run].values()
        return sum(value > 0 for value in values), fmean(values or [0.0]), objectives[run]

    return max(range(len(overlaps)), key=quality)
