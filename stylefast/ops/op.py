# SPDX-License-Identifier: Apache-2.0
"""The row of the op table: everything that defines one op. Registration, tests and benchmarks iterate over rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..backends import BACKENDS, select
from ..core.dtypes import without_autocast
from ..core.private_torch import below_autograd


@dataclass(frozen=True)
class Cost:
    """Least memory traffic in bytes and least arithmetic in floating point operations of one call."""

    bytes: int
    flops: int


@dataclass(frozen=True)
class BadCall:
    """Arguments that the public function refuses, and the message with which it does so."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    error: type[Exception]
    match: str


@dataclass(frozen=True)
class Op:
    """One row. The callables take the op's arguments in the order of its schema.

    `reference` is the definition, for any floating dtype. `from_labels`, of ops whose first output is labels, computes
    the other outputs from given labels, so that a test can judge the labels by their score and the other outputs by
    their value. `out_schema` adds an overload that writes into its last argument.
    """

    name: str
    schema: str
    public: Callable[..., Any]
    reference: Callable[..., Any]
    fake: Callable[..., Any]
    cost: Callable[..., Cost]
    samples: Callable[[], Iterator[tuple[str, dict[str, Any]]]]
    errors: Callable[[], Iterator[BadCall]]
    from_labels: Callable[..., tuple[Tensor, ...]] | None = None
    gradient: tuple[Callable[..., None], Callable[..., Any]] | None = None
    out_schema: str | None = None
    cells: dict[str, Any] = field(default_factory=dict)

    def __call__(self, backend: str | None, first: Tensor, *args: Any) -> Any:
        """Calls the cell of `backend`, or of the backend that suits the first tensor's device."""
        cell = self.cells[select(backend, first.device)]
        if torch.compiler.is_compiling() or _needs_autograd(first, *args):
            return cell(first, *args)
        with below_autograd():  # autograd's layer of a custom op is Python: half of a small call
            return cell(first, *args)

    def write(self, backend: str | None, first: Tensor, *args: Any, out: Tensor) -> None:
        """The same, into `out`."""
        self.cells[select(backend, first.device) + ".out"](first, *args, out=out)


def _needs_autograd(*args: Any) -> bool:
    """Whether autograd has to record this call."""
    if torch.is_grad_enabled():
        for x in args:
            if isinstance(x, Tensor) and x.requires_grad:
                return True
    return False


def register(op: Op, library: torch.library.Library) -> None:
    """Defines `stylefast::<op>_<backend>` for every backend; compiled libraries fill theirs when they are loaded."""
    for backend in BACKENDS.values():
        name = f"{op.name}_{backend.name}"
        library.define(name + op.schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.register_fake(f"stylefast::{name}", op.fake, lib=library)
        if backend.name == "reference":
            library.impl(name, without_autocast(op.reference), backend.key)
        if backend.launcher is not None:
            library.impl(name, backend.launcher(op.name, "launch"), backend.key)
        setup_context, backward = op.gradient or (None, _no_gradient(op.name))
        torch.library.register_autograd(f"stylefast::{name}", backward, setup_context=setup_context, lib=library)
        overloads = getattr(torch.ops.stylefast, name)
        op.cells[backend.name] = overloads.default
        if op.out_schema is not None:
            library.define(f"{name}.out{op.out_schema}", tags=(torch.Tag.pt2_compliant_tag,))
            torch.library.register_fake(f"stylefast::{name}.out", lambda *args, **kwargs: None, lib=library)
            if backend.name == "reference":
                library.impl(f"{name}.out", _into_out(without_autocast(op.reference)), backend.key)
            if backend.launcher is not None:
                library.impl(f"{name}.out", backend.launcher(op.name, "launch_out"), backend.key)
            op.cells[f"{backend.name}.out"] = overloads.out


def _no_gradient(name: str) -> Callable[..., None]:
    def backward(*args: Any) -> None:
        raise RuntimeError(f"stylefast.{name} is not differentiable")

    return backward


def _into_out(reference: Callable[..., Tensor]) -> Callable[..., None]:
    def write(*args: Any, out: Tensor) -> None:
        out.copy_(reference(*args))

    return write
