# SPDX-License-Identifier: Apache-2.0
"""Bounded cache that threads share."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any


class Memo:
    """Function whose most recently used values are kept.

    Threads that call it with equal arguments at the same time wait for one computation. Calls with other arguments do
    not wait. An exception is raised in all waiting threads, and is not kept.

    Args:
        function: Function of hashable arguments.
        max_size: Largest number of values that are kept.
    """

    def __init__(self, function: Callable[..., Any], max_size: int) -> None:
        self._function, self._max_size = function, max_size
        self._values: OrderedDict[Hashable, Future[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, *arguments: Hashable) -> Any:
        with self._lock:
            value = self._values.get(arguments)
            is_new = value is None
            if value is None:
                value = self._values[arguments] = Future()
            self._values.move_to_end(arguments)
            while len(self._values) > self._max_size:
                self._values.popitem(last=False)
        if is_new:
            try:
                value.set_result(self._function(*arguments))
            except BaseException as error:
                with self._lock:
                    self._values.pop(arguments, None)
                value.set_exception(error)
        return value.result()
