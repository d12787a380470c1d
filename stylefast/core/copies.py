# SPDX-License-Identifier: Apache-2.0
"""Objects that can be copied and pickled although they hold locks, caches or closures."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any


class Rebuilt:
    """Base class of objects that are determined by the positional arguments of their constructor.

    `copy.deepcopy` and `pickle` copy the arguments and call the constructor with the copies. All other attributes are
    made anew.
    """

    _arguments: tuple[Any, ...]

    def __new__(cls, *arguments: Any) -> Any:
        instance = super().__new__(cls)
        instance._arguments = arguments
        return instance

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments


class Cached(Rebuilt):
    """Function whose most recently used values are kept. A copy starts without values.

    Args:
        function: Function of hashable arguments.
        max_size: Largest number of values that are kept.
    """

    def __init__(self, function: Callable[..., Any], max_size: int) -> None:
        self._call = lru_cache(max_size)(function)

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)
