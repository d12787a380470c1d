# SPDX-License-Identifier: Apache-2.0
"""Queries that the page offers."""

from __future__ import annotations

from ..editing import Sequential, Strategy
from ..editing.strategies import DEFAULT_EPSILON, DEFAULT_SHARE, STRATEGIES

ADAPTIVE = "adaptive"  # the sequential strategy whose budget and threshold adapt to the part
QUERIES = (ADAPTIVE, *STRATEGIES)
EXPLANATIONS = {
    ADAPTIVE: f"adaptive uses ε = {DEFAULT_EPSILON:g} and ρ = {DEFAULT_SHARE:g} × the largest contribution M of the "
    "part. Moving ε or ρ selects sequential.",
    "sequential": "sequential takes the channels whose contribution M is above ρ, until the budget ε is spent.",
    "simultaneous": "simultaneous moves every channel in proportion to its contribution M. It does not use ε and ρ.",
    "softmax": "softmax takes the channels that belong clearly more to this part than to others. It does not use "
    "ε and ρ.",
}


def strategy_of(query: str, epsilon: float, rho: float) -> Strategy:
    """Return the strategy of a query. Only "sequential" uses the budget and the threshold."""
    if query == "sequential":
        return Sequential(epsilon, rho)
    return Sequential() if query == ADAPTIVE else STRATEGIES[query]()
