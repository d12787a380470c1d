# SPDX-License-Identifier: Apache-2.0
"""Queries that the page offers."""

from __future__ import annotations

from ..editing import Sequential, Strategy
from ..editing.strategies import STRATEGIES

ADAPTIVE = "adaptive"  # the sequential strategy whose budget and threshold adapt to the part
QUERIES = (ADAPTIVE, *STRATEGIES)


def strategy_of(query: str, epsilon: float, rho: float) -> Strategy:
    """Return the strategy of a query. Only "sequential" uses the budget and the threshold."""
    if query == "sequential":
        return Sequential(epsilon, rho)
    return Sequential() if query == ADAPTIVE else STRATEGIES[query]()
