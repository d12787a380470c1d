# SPDX-License-Identifier: Apache-2.0
"""Boxes around the parts of edits, by which a viewer shows the part enlarged."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

STRAY = 0.03  # share of a region at each edge of a box that may be outside, because single cells lie far from the part
MARGIN = 0.12  # of the width and height of a box, at each edge
DIGITS = 4


def box_around(columns: Sequence[float], rows: Sequence[float]) -> list[float] | None:
    """Return the box around a region [h, w], with a margin, for the sums of its weights over columns and rows.

    At each edge, up to 3 % of the region may be outside.

    Args:
        columns: Sum of each column, w values >= 0.
        rows: Sum of each row, h values >= 0.

    Returns:
        Left, top, right and bottom edge in fractions of the image, or None if the region is empty.
    """
    if not sum(columns):
        return None
    (left, right), (top, bottom) = _extent(columns), _extent(rows)
    return [left, top, right, bottom]


def _extent(sums: Sequence[float]) -> tuple[float, float]:
    first, last = _edge(sums), len(sums) - _edge(sums[::-1])
    margin = MARGIN * (last - first)
    begin, end = max(0.0, first - margin) / len(sums), min(float(len(sums)), last + margin) / len(sums)
    return round(begin, DIGITS), round(end, DIGITS)


def _edge(sums: Sequence[float]) -> int:
    """Return the number of values at the beginning whose sum is at most the share of strays."""
    limit = STRAY * sum(sums)
    return next(i for i, total in enumerate(accumulate(sums)) if total > limit)
