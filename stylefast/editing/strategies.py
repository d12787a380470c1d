# SPDX-License-Identifier: Apache-2.0
"""Strategies, which compute the query of an edit from the contribution M of a part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from .. import query
from ..catalog import Catalog
from ..core.checks import check_seed
from ..generators import Site

DEFAULT_EPSILON, DEFAULT_SHARE = 16.0, 0.55  # docs/design.md has the measurement


@dataclass(frozen=True)
class Sequential:
    """Strategy that takes the channels with the largest contribution until the budget ε is spent.

    It is equation 5 of "Editing in Style", site by site; see `stylefast.query.sequential`. `Sequential()` adapts to the
    part: with ε = 16, it takes the channels whose contribution exceeds 0.55 times that of the best channel, so at least
    one. With a number for ε or ρ, the other one is ε = 1 or ρ = 0.1 by default, for every part.

    Args:
        epsilon: Budget ε, a number or one value per edited site.
        rho: Threshold ρ, a number or one value per edited site.
        fractional: Whether the first channel over the budget moves by the fraction that fits into the remaining budget.
        share: Threshold ρ as a multiple of the largest contribution of the part to a channel of the edited sites.
            It excludes `rho`.

    Raises:
        ValueError: If both `rho` and `share` are given, or `share` is not in [0, 1].
    """

    epsilon: float | tuple[float, ...] | None = None
    rho: float | tuple[float, ...] | None = None
    fractional: bool = False
    share: float | None = None

    def __post_init__(self) -> None:
        if self.share is not None and (self.rho is not None or not 0 <= self.share <= 1):
            raise ValueError(f"share must be in [0, 1], without rho, got {self.share} and rho = {self.rho}")
        if self.epsilon is None and self.rho is None and self.share is None:
            object.__setattr__(self, "share", DEFAULT_SHARE)
        if self.epsilon is None:
            object.__setattr__(self, "epsilon", 1.0 if self.share is None else DEFAULT_EPSILON)
        if self.rho is None and self.share is None:
            object.__setattr__(self, "rho", 0.1)

    @property
    def name(self) -> str:
        is_numbered = isinstance(self.epsilon, (int, float)) and self != Sequential()
        return f"sequential_{self.epsilon:g}" if is_numbered else "sequential"

    def __call__(self, catalog: Catalog, part: str, sites: Sequence[Site]) -> Tensor:
        """Return the query of a part, q [S]; it is zero outside `sites`."""
        m = catalog.contribution(part)
        q = torch.zeros_like(m, dtype=torch.float32)
        rho = self.rho
        if self.share is not None:
            rho = self.share * max((m[site.slice].max().item() for site in sites), default=0.0)
        budgets, thresholds = (_per_site(value, sites) for value in (self.epsilon, rho))
        for site, budget, threshold in zip(sites, budgets, thresholds, strict=True):
            q[site.slice] = query.sequential(m[site.slice], budget, threshold, fractional=self.fractional)
        return q


@dataclass(frozen=True)
class Simultaneous:
    """Strategy that moves every channel in proportion to its contribution.

    It is equation 4 of "Editing in Style"; see `stylefast.query.simultaneous`.

    Args:
        strength: Factor λ of the contribution. The product is limited to 1.
    """

    strength: float = 1.0

    @property
    def name(self) -> str:
        return "simultaneous"

    def __call__(self, catalog: Catalog, part: str, sites: Sequence[Site]) -> Tensor:
        """Return the query of a part, q [S]; it is zero outside `sites`."""
        return _restrict(query.simultaneous(catalog.contribution(part), self.strength), sites)


@dataclass(frozen=True)
class Softmax:
    """Strategy that takes the channels that belong to the part clearly more than to any other part of the catalog.

    It is the strategy of "Retrieve in Style"; see `stylefast.query.softmax`.

    Args:
        temperature: Temperature τ of the softmax over parts.
        threshold: Threshold θ of the softmax.
    """

    temperature: float = 0.1
    threshold: float = 0.8

    @property
    def name(self) -> str:
        return "softmax"

    def __call__(self, catalog: Catalog, part: str, sites: Sequence[Site]) -> Tensor:
        """Return the query of a part, q [S]; it is zero outside `sites`."""
        parts = [name for name, ids in catalog.parts.items() if ids]
        catalog.clusters(part)
        m = torch.stack([catalog.contribution(name) for name in parts])  # [P, S]
        q = query.softmax(m, parts.index(part), temperature=self.temperature, threshold=self.threshold)
        return _restrict(q, sites)


@dataclass(frozen=True)
class Random:
    """Strategy that takes random channels of all edited sites, as a control.

    Args:
        like: Strategy whose query values are permuted, so that the number of channels is the same.
        seed: Random seed of the permutation.
    """

    like: Sequential = Sequential()
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed("seed", self.seed)

    @property
    def name(self) -> str:
        return "random"

    def __call__(self, catalog: Catalog, part: str, sites: Sequence[Site]) -> Tensor:
        """Return the query of a part, q [S]; it is zero outside `sites`."""
        q, rng = self.like(catalog, part, sites), torch.Generator().manual_seed(self.seed)
        channels = torch.cat([torch.arange(site.start, site.stop, device="cpu") for site in sites])
        permuted = torch.zeros_like(q)
        permuted[channels[torch.randperm(len(channels), generator=rng, device="cpu")]] = q[channels]
        return permuted


Strategy: TypeAlias = Sequential | Simultaneous | Softmax | Random
STRATEGIES: dict[str, type[Sequential] | type[Simultaneous] | type[Softmax]] = {  # by name in files and options
    "sequential": Sequential,
    "simultaneous": Simultaneous,
    "softmax": Softmax,
}


def _per_site(value: float | tuple[float, ...] | None, sites: Sequence[Site]) -> tuple[float, ...]:
    assert value is not None  # `Sequential` replaces None
    if isinstance(value, (int, float)):
        return (value,) * len(sites)
    if len(value) != len(sites):
        expected = f"one number or one for each of {len(sites)} edited sites"
        raise ValueError(f"epsilon and rho must be {expected}, got {len(value)} values")
    return tuple(value)


def _restrict(q: Tensor, sites: Sequence[Site]) -> Tensor:
    """Return q at the sites, and zero elsewhere."""
    restricted = torch.zeros_like(q)
    for site in sites:
        restricted[site.slice] = q[site.slice]
    return restricted
