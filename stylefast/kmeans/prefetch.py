# SPDX-License-Identifier: Apache-2.0
"""Streams: iterables of batches that can be read again, read a little ahead of the work."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeAlias, TypeVar

import numpy as np
from torch import Tensor

from ..core.dtypes import Array

Stream: TypeAlias = Iterable[Array]

T = TypeVar("T")
DEPTH = 2  # batches that are read before they are asked for


def check_stream(name: str, stream: Iterable[T]) -> Iterable[T]:
    """The stream itself. Raises TypeError if it is none, or an iterator, which gives its batches only once."""
    if not isinstance(stream, Iterable):
        raise TypeError(f"{name} must be an array or an iterable of arrays, got {type(stream).__name__}")
    if isinstance(stream, Iterator):
        raise TypeError(
            f"{name} must be an array or an iterable of arrays that can be read again, got {type(stream).__name__}, "
            "which ends: give a list, a DataLoader, or an object whose __iter__ starts anew"
        )
    return stream


def array_of(batch: Any) -> Any:
    """The batch's array: the batch, or the first of a tuple or list, as the batches of a DataLoader may be."""
    first = next(iter(batch), None) if isinstance(batch, (tuple, list)) else None
    return batch if first is None or not isinstance(first, (Tensor, np.ndarray)) else first


def prefetch(batches: Iterable[T], depth: int = DEPTH) -> Iterator[T]:
    """The batches in order, each read in a thread while up to `depth` batches before it are worked on."""
    end, source, context = object(), iter(batches), copy_context()
    pool = ThreadPoolExecutor(1, "stylefast-read")
    try:
        waiting = deque(pool.submit(context.run, next, source, end) for _ in range(depth))
        while (batch := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(context.run, next, source, end))
            yield batch  # type: ignore[misc]
            del batch
    finally:
        pool.shutdown(cancel_futures=True)
