# SPDX-License-Identifier: Apache-2.0
"""Rows that are kept, within a bound, in one tensor: small ones all over the heap would keep it from shrinking."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor


class Table:
    """Rows of one tensor, found by key and computed when first asked for; those not used for longest give way.

    Args:
        compute: the parts of a key -> its row [1, ...].
        fewest: rows that fit in any case: those of one call.
        most: rows that are ever wanted.
        limit: bytes.
    """

    def __init__(self, compute: Callable[..., Tensor], fewest: int, most: int, limit: int) -> None:
        self._compute, self._fewest, self._most, self._limit = compute, fewest, most, limit
        self._places: OrderedDict[Hashable, int] = OrderedDict()
        self._rows: Tensor | None = None

    def __call__(self, keys: Sequence[tuple[Any, ...]]) -> tuple[list[int], Tensor]:
        """The places of keys, and the tensor that they are places in: [capacity, ...]."""
        for key in keys:
            if key in self._places:
                self._places.move_to_end(key)
                continue
            row = self._compute(*key)
            if self._rows is None:
                capacity = min(self._most, max(self._fewest, self._limit // max(1, row.nbytes)))
                self._rows = row.new_empty(capacity, *row.shape[1:])
            full = len(self._places) == len(self._rows)
            place = self._places.popitem(last=False)[1] if full else len(self._places)
            self._rows[place] = row[0]
            self._places[key] = place
        assert self._rows is not None
        return [self._places[key] for key in keys], self._rows
