# SPDX-License-Identifier: Apache-2.0
"""The columns of the op table: which implementations exist, which can run here, and which one a call takes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ..core.private_torch import assume_constant_result
from . import native, triton

__all__ = ["BACKENDS", "Backend", "available", "use"]


@dataclass(frozen=True)
class Backend:
    """One column: its dispatch key, the devices it serves (None: all), why it cannot run here (None: it can), whether
    a call that names no backend may take it, its implementation of an op where that is Python's, and why it does not
    support one of its devices (None: it does)."""

    name: str
    key: str
    devices: tuple[str, ...] | None
    reason: Callable[[], str | None]
    automatic: bool = True
    launcher: Callable[[str, str], Callable[..., Any]] | None = None
    supports: Callable[[torch.device], str | None] = lambda device: None

    def refuses(self, device: torch.device) -> str | None:
        """Why this backend cannot work on tensors of `device`, in one sentence; None if it can."""
        if (reason := self.reason()) is not None:
            return reason
        if self.devices is not None and device.type not in self.devices:
            return f"backend '{self.name}' works on {' and '.join(self.devices)} tensors, got tensors on {device}"
        return self.supports(device)


# In order of preference.
BACKENDS: dict[str, Backend] = {
    "cpu": Backend("cpu", "CPU", ("cpu",), native.cpu_reason),
    "cuda": Backend("cuda", "CUDA", ("cuda",), native.cuda_reason, supports=native.cuda_supports),
    "triton": Backend(
        "triton", triton.DEVICE.upper(), (triton.DEVICE,), triton.reason, not triton.INTERPRETED, triton.launcher
    ),
    "reference": Backend("reference", "CompositeExplicitAutograd", None, lambda: None),
}

_forced: ContextVar[str | None] = ContextVar("stylefast_backend", default=None)


def available() -> dict[str, str | None]:
    """Every backend's name with None if it can run on this machine, else the reason why not."""
    return {name: backend.reason() for name, backend in BACKENDS.items()}


@contextmanager
def use(name: str) -> Iterator[None]:
    """Forces one backend for all calls of this thread (or task) inside the `with` block; `backend=` still wins.

    Raises: ValueError if the name is unknown, RuntimeError with the reason if the backend cannot run here.
    """
    if (reason := _backend(name).reason()) is not None:
        raise RuntimeError(reason)
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


@assume_constant_result
def select(name: str | None, device: torch.device) -> str:
    """The backend that a call takes: the named one or an error that says why not; unnamed, the first that can.

    Under torch.compile the choice is made once, when the caller is compiled.
    """
    name = name or _forced.get()
    if name is not None:
        if (reason := _backend(name).refuses(device)) is not None:
            raise RuntimeError(reason)
        return name
    for backend in BACKENDS.values():
        if backend.automatic and backend.refuses(device) is None:
            if backend.name == "reference" and device.type == "cpu":
                _warn_once(BACKENDS["cpu"].reason())
            return backend.name
    raise AssertionError("the reference backend never refuses")


def _backend(name: str) -> Backend:
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    return BACKENDS[name]


@cache
def _warn_once(reason: str | None) -> None:
    warnings.warn(f"stylefast runs on its slow 'reference' backend: {reason}", RuntimeWarning, stacklevel=4)
