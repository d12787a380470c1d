# SPDX-License-Identifier: Apache-2.0
"""Values of the controls of the tab Edit, and the edit that they request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..catalog import Catalog
from ..editing import StoredLatents, Strategy
from .edits import EditRequest, PartEdit, Picture
from .exploring import Explorer
from .queries import strategy_of

TARGET, REFERENCE = 1, 10  # seeds at the start; the reference of each further part has the next seed
BLOCK = 20  # neighbouring seeds on a slider


class PartControls(NamedTuple):
    """Controls of one part: its name, the seed or row of its reference, and its strength."""

    part: str | None
    reference: Any
    strength: Any


@dataclass(frozen=True)
class Controls:
    """Values of all controls, as the page sends them.

    Args:
        catalog: Catalog of the session.
        target: Seed or row of the target.
        target_file: Latents from which targets come; None for seeds.
        reference_file: Latents from which references come; None for seeds.
        parts: Controls of the parts of the edit.
        strategy: One of `QUERIES`.
        epsilon: Budget of the sequential strategy.
        rho: Threshold of the sequential strategy.
        rgb: Whether to edit the toRGB sites too.
    """

    catalog: Catalog
    target: Any
    target_file: StoredLatents | None
    reference_file: StoredLatents | None
    parts: Sequence[PartControls]
    strategy: str
    epsilon: Any
    rho: Any
    rgb: bool

    def query(self) -> Strategy:
        """Return the strategy.

        Raises:
            ValueError: If a value that it needs is missing.
        """
        if self.strategy != "sequential":
            return strategy_of(self.strategy, 0, 0)
        return strategy_of(self.strategy, _number("epsilon", self.epsilon), _number("rho", self.rho))

    def request(self, explorer: Explorer) -> EditRequest:
        """Return the edit.

        Raises:
            ValueError: If a value is missing or out of range.
        """
        target = _picture(explorer, "target", self.target, self.target_file)
        edits = [
            PartEdit(
                controls.part or "",
                _picture(explorer, f"the reference of {controls.part}", controls.reference, self.reference_file),
                _number("strength", controls.strength),
            )
            for controls in self.parts
        ]
        return EditRequest(target, tuple(edits), self.query(), self.rgb)


def part_names(catalog: Catalog) -> list[str]:
    """Return the parts that can be edited: those with clusters."""
    return [part for part, clusters in catalog.parts.items() if clusters]


def neighbours(value: Any, stored: StoredLatents | None) -> tuple[int, int, int]:
    """Return the least and largest value of a slider around a seed or a row, and its value."""
    number = value if isinstance(value, int) and value >= 0 else 0
    if stored is not None:
        return 0, max(1, len(stored) - 1), min(number, len(stored) - 1)
    first = number // BLOCK * BLOCK
    return first, first + BLOCK - 1, number


def _picture(explorer: Explorer, name: str, value: Any, stored: StoredLatents | None) -> Picture:
    return explorer.seed(name, value) if stored is None else explorer.row(name, stored, value)


def _number(name: str, value: Any) -> float:
    if not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, got {'nothing' if value is None else repr(value)}")
    return float(value)
