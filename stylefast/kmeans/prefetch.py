# SPDX-License-Identifier: Apache-2.0
"""Streams of batches, and a thread that reads them ahead of the computation.

A stream is an iterable that gives the same batches on every pass: a list of arrays, a DataLoader that does not shuffle,
or an object whose `__iter__` starts anew. `check_stream` refuses iterators and objects that are not iterable,
`array_of` takes the array from a batch, and `prefetch` reads the next batches while the current one is processed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeAlias, TypeVar, cast

import numpy as np
from torch import Tensor

from ..core.dtypes import Array

Stream: TypeAlias = Iterable[Array | Sequence[Array]]

T = TypeVar("T")
DEPTH = 2  # number of batches that are read ahead


def check_stream(name: str, stream: Iterable[T]) -> Iterable[T]:
    """Return `stream`. Raise TypeError if it is not iterable or is an iterator, which gives its batches only once.

    An object that NumPy can convert, such as a DataFrame, is refused, because it yields no batches.
    """
    if not isinstance(stream, Iterable) or hasattr(stream, "__array__"):
        raise TypeError(f"{name} must be an array or an iterable of arrays, got {type(stream).__name__}")
    if isinstance(stream, Iterator):
        raise TypeError(
            f"{name} must be an array or an iterable of arrays that can be read again, got {type(stream).__name__}, "
            "which can be read only once: pass a list, a DataLoader, or an object whose __iter__ starts anew"
        )
    return stream


def array_of(batch: object) -> Array:
    """Return the array of a batch: the batch itself, or the first element of a tuple or list that begins with an array.

    An object of another type is returned unchanged, so that `stylefast.core.checks.as_tensor` refuses it.
    """
    first = next(iter(batch), None) if isinstance(batch, (tuple, list)) else None
    return first if isinstance(first, (Tensor, np.ndarray)) else cast(Array, batch)


def prefetch(batches: Iterable[T], depth: int = DEPTH) -> Iterator[T]:
    """Yield the batches in order. A thread reads up to `depth` batches ahead of the current one."""
    end, source, context = object(), iter(batches), copy_context()
    pool = ThreadPoolExecutor(1, "stylefast-read")
    try:
        pending = deque(pool.submit(context.run, next, source, end) for _ in range(depth))
        while (batch := pending.popleft().result()) is not end:
            pending.append(pool.submit(context.run, next, source, end))
            yield batch  # type: ignore[misc]
            del batch
    finally:
        pool.shutdown(cancel_futures=True)
