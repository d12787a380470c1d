# SPDX-License-Identifier: Apache-2.0
"""Exclusive runs of a network, with hooks that are removed afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import torch
from torch import nn

from ..core.copies import Rebuilt
from .compiled import refuse_compiled


class StopForward(Exception):
    """Exception that a hook raises to end a forward pass whose remaining layers are not needed."""


class HookSession(Rebuilt):
    """Exclusive use of a network.

    Args:
        network: The network.
        name: Name of the generator in error messages.
    """

    def __init__(self, network: nn.Module, name: str) -> None:
        self._network = network
        self._name = name
        self._lock = threading.RLock()
        self._is_open = False

    @contextmanager
    def open(self) -> Iterator[ExitStack]:
        """Run a block without gradients until it ends or raises `StopForward`. Threads wait for each other.

        Yields:
            Stack for the callbacks that remove hooks. They are called in every case, also after an exception.

        Raises:
            RuntimeError: If the session is already open in this thread.
            ValueError: If a module of the network is compiled.
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


def check_all_used(unused: set[str]) -> None:
    """Raise RuntimeError if synthesis has ended without using these sites."""
    if unused:
        raise RuntimeError(
            f"synthesis must run the network of this generator, but it did not use site {min(unused)}; in a copy, "
            "mapping and synthesis must be modules, methods of modules, or functools.partial of these, so that they "
            "are copied with the network"
        )
