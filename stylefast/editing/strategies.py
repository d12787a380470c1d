# SPDX-License-Identifier: Apache-2.0
"""Strategies: how the contribution of a part becomes the query of an edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from .. import query
from ..catalog import Catalog
from ..generators import Site


@dataclass(frozen=True)
class Sequential:
    """The channels with the largest contribution, until the budget for changes elsewhere is spent (equation 5).

    epsilon and rho, as in `stylefast.query.sequential`, are numbers or one value per edited site.
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
        return _restrict(query.simultaneous(catalog.contribution(part), self.strength), sites)


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
        return _restrict(q, sites)


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
        permuted = torch.zeros_like(q)
        permuted[channels[torch.randperm(len(channels), generator=rng)]] = q[channels]
        return permuted


Strategy: TypeAlias = Sequential | Simultaneous | Softmax | Random
STRATEGIES: dict[str, type[Sequential] | type[Simultaneous] | type[Softmax]] = {  # by their names in files
    "sequential": Sequential,
    "simultaneous": Simultaneous,
    "softmax": Softmax,
}


def _per_site(value: float | tuple[float, ...], sites: Sequence[Site]) -> tuple[float, ...]:
    if isinstance(value, (int, float)):
        return (value,) * len(sites)
    if len(value) != len(sites):
        raise ValueError(f"a query must have one value or one for each of {len(sites)} edited sites, got {len(value)}")
    return tuple(value)


def _restrict(q: Tensor, sites: Sequence[Site]) -> Tensor:
    """q at the sites, zero elsewhere."""
    restricted = torch.zeros_like(q)
    for site in sites:
        restricted[site.slice] = q[site.slice]
    return restricted
