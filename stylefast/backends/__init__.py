# SPDX-License-Identifier: Apache-2.0
"""Backends, the columns of the op table.

The module lists the backends, checks which of them can run on this machine, and selects the backend of each call.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ..core.forks import end_openmp_threads_before_forks
from ..core.private_torch import assume_constant_result
from . import native, triton

__all__ = ["BACKENDS", "Backend", "available", "use"]


@dataclass(frozen=True)
class Backend:
    """One column of the op table.

    Args:
        name: Name of the backend.
        key: Dispatch key of torch.
        devices: Types of the devices that it supports. None means all.
        reason: Function that returns the reason why the backend cannot run on this machine, or None if it can.
        automatic: Whether a call that names no backend may use it.
        launcher: Function that returns the implementation of an op from the name of the op and "launch" or
            "launch_out". Only backends in Python have one.
        supports: Function that returns the reason why the backend cannot run on a given device, or None if it can.
            None means that it can run on all.
    """

    name: str
    key: str
    devices: tuple[str, ...] | None
    reason: Callable[[], str | None]
    automatic: bool = True
    launcher: Callable[[str, str], Callable[..., Any]] | None = None
    supports: Callable[[torch.device], str | None] | None = None

    def refuses(self, device: torch.device) -> str | None:
        """Return None if this backend can run on tensors of `device`, or else the reason, as one sentence."""
        if (reason := self.reason()) is not None:
            return reason
        if self.devices is not None and device.type not in self.devices:
            return f"backend '{self.name}' works on {' and '.join(self.devices)} tensors, got tensors on {device}"
        return None if self.supports is None else self.supports(device)


# In the order of preference. `cuda` comes after `triton` until records of a GPU show where it is faster.
BACKENDS: dict[str, Backend] = {
    "cpu": Backend("cpu", "CPU", ("cpu",), native.cpu_reason),
    "triton": Backend(
        "triton", triton.DEVICE.upper(), (triton.DEVICE,), triton.reason, not triton.INTERPRETED, triton.launcher
    ),
    "cuda": Backend("cuda", "CUDA", ("cuda",), native.cuda_reason, supports=native.cuda_supports),
    "reference": Backend("reference", "CompositeExplicitAutograd", None, lambda: None),
}

end_openmp_threads_before_forks()
_forced: ContextVar[str | None] = ContextVar("stylefast_backend", default=None)


def available() -> dict[str, str | None]:
    """Return which backends can run on this machine.

    Returns:
        Dictionary from the name of each backend to None if it can run, or else to the reason in one sentence.

    Example:
        >>> import stylefast
        >>> print(stylefast.backends.available()["reference"])
        None
    """
    return {name: backend.reason() for name, backend in BACKENDS.items()}


@contextmanager
def use(name: str) -> Iterator[None]:
    """Use one backend for all calls of this thread or task inside the `with` block.

    The argument `backend=` of a call takes precedence.

    Args:
        name: Name of a backend.

    Raises:
        ValueError: If the name is unknown.
        RuntimeError: If the backend cannot run on this machine. The message gives the reason.

    Example:
        >>> import torch
        >>> import stylefast
        >>> with stylefast.backends.use("reference"):
        ...     labels, _ = stylefast.assign(torch.randn(1, 8, 4, 4), torch.randn(3, 8))
    """
    if (reason := _backend(name).reason()) is not None:
        raise RuntimeError(reason)
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


@assume_constant_result
def select(name: str | None, device: torch.device, names: tuple[str, ...] | None = None) -> str:
    """Select the backend of a call: the named one, else the one of `use`, else the first of `names` that can run.

    Under `torch.compile` the selection is made once, when the caller is compiled. Raise ValueError if the name is
    unknown, and RuntimeError with the reason if the named backend cannot run or is not one of `names`, the backends
    that have a kernel of the op. The default is all.
    """
    name = name or _forced.get()
    if name is not None:
        if (reason := _backend(name).refuses(device)) is not None:
            raise RuntimeError(reason)
        if names is not None and name not in names:
            raise RuntimeError(f"backend '{name}' has no kernel of this op, only {', '.join(names)} have one")
        return name
    reasons = []  # of the faster backends for this type of device
    for backend in BACKENDS.values():
        if not backend.automatic or (names is not None and backend.name not in names):
            continue
        reason = backend.refuses(device)
        if reason is None:
            if backend.name == "reference" and reasons:
                _warn_once("; ".join(reasons))
            return backend.name
        if backend.devices is not None and device.type in backend.devices:
            reasons.append(reason)
    raise AssertionError("the reference backend never refuses")


def _backend(name: str) -> Backend:
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    return BACKENDS[name]


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"stylefast runs on its slow 'reference' backend: {reason}", RuntimeWarning, stacklevel=4)
