# SPDX-License-Identifier: Apache-2.0
"""Lists as users write them: seeds and numbers, separated by commas."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .checks import SEEDS

MAX_LISTED = 10_000_000  # seeds that a list may hold; a single range may be longer


def seeds(name: str, text: str) -> Sequence[int]:
    """Parse seeds in the notation of NVlabs' tools: "0,1,4-6" is 0, 1, 4, 5, 6. A single range takes no memory."""
    ranges: list[range] = []
    for item in split(text):
        if not (match := re.fullmatch(r"(\d{1,20})(?:-(\d{1,20}))?", item)):
            raise ValueError(f"{name} must look like 0,1,4-6, got {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"{name} must rise from first to last, got {item!r}")
        if last not in SEEDS:
            raise ValueError(f"{name} must be in [0, 2**32), got {item!r}")
        ranges.append(range(first, last + 1))
    if len(ranges) == 1:
        return ranges[0]
    if (n := sum(map(len, ranges))) > MAX_LISTED:
        raise ValueError(f"{name} must be one range, or a list of at most {MAX_LISTED:,} seeds, got {n:,}")
    listed = [seed for each in ranges for seed in each]
    if len(set(listed)) < n:
        raise ValueError(f"{name} must be different, got {text!r}")
    return listed


def split(text: str) -> list[str]:
    """Split a list at commas. Blanks around the items do not count."""
    return [item.strip() for item in text.split(",")]


def numbers(name: str, text: str) -> list[float]:
    """Parse numbers that are separated by commas."""
    try:
        return [float(item) for item in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} must be numbers separated by commas, such as 0.25,1, got {text!r}") from None
