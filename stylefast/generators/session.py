# SPDX-License-Identifier: Apache-2.0
"""Runs of a network: one at a time, with hooks that are removed afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import torch
from torch import nn

from .compiled import refuse_compiled


class StopForward(Exception):
    """Raised by a hook to end a forward pass whose remaining layers are not needed."""


class HookSession:
    """Exclusive use of a network.

    Args:
        network: the network.
        name: the generator's name in errors.
    """

    def __init__(self, network: nn.Module, name: str) -> None:
        self._network = network
        self._name = name
        self._lock = threading.RLock()
        self._is_open = False

    @contextmanager
    def open(self) -> Iterator[ExitStack]:
        """Runs a block without gradients, until it ends or raises `StopForward`. Threads wait for each other.

        The stack that the block gets takes callbacks that remove hooks; they are called whatever happens.

        Raises:
            RuntimeError: the session is open in this thread.
            ValueError: a module of the network is compiled.
        """
        refuse_compiled(self._network)
        with self._lock:
            if self._is_open:
                raise RuntimeError(f"{self._name} is running: a callback cannot use the generator that calls it")
            self._is_open = True
            try:
                with torch.no_grad(), suppress(StopForward), ExitStack() as stack:
                    yield stack
            finally:
                self._is_open = False
