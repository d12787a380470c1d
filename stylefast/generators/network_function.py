# SPDX-License-Identifier: Apache-2.0
"""Mapping and synthesis of a network of a known code base, which can be copied together with the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..core.copies import Rebuilt
from .code_bases import Calls


class NetworkFunction(Rebuilt):
    """One of the functions of a network that `Family.calls` makes. A copy runs the copy of the network.

    Args:
        calls: The function `Family.calls`.
        network: First argument of `calls`.
        label: Second argument of `calls`.
        options: Third argument of `calls`.
        name: Name of the function, "mapping" or "synthesis".
    """

    def __init__(
        self,
        calls: Callable[[Any, Tensor, dict[str, Any]], Calls],
        network: nn.Module,
        label: Tensor,
        options: dict[str, Any],
        name: str,
    ) -> None:
        self._function: Callable[[Tensor], Tensor] = getattr(calls(network, label, options), name)

    def __call__(self, x: Tensor) -> Tensor:
        return self._function(x)
