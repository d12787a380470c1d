# SPDX-License-Identifier: Apache-2.0
"""Row of the op table: everything that defines one op. Registration, tests and benchmarks iterate over the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..backends import BACKENDS, select
from ..core.dtypes import without_autocast
from ..core.private_torch import below_autograd, have_tangents


@dataclass(frozen=True)
class Cost:
    """Least work of one call.

    Attributes:
        bytes: Memory traffic in bytes.
        flops: Number of floating-point operations.
    """

    bytes: int
    flops: int


@dataclass(frozen=True)
class BadCall:
    """Arguments that the public function refuses.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
        error: Type of the exception.
        match: Regular expression that the message matches.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    error: type[Exception]
    match: str


@dataclass(frozen=True)
class Op:
    """One row of the op table. The callables take the arguments of the op in the order of its schema.

    Args:
        name: Name of the op, such as "assign".
        schema: Arguments and results in the schema language of torch.
        public: Public function, which checks its arguments.
        reference: Definition of the op in plain torch, for any floating dtype.
        fake: Function that returns results of the right shape, dtype and device without computing them.
        cost: Function that returns the `Cost` of a call.
        samples: Function that yields names and arguments of test inputs.
        errors: Function that yields the `BadCall` that tests make.
        from_labels: Function that computes the other outputs from given labels and the arguments of the op. Only ops
            whose first output is labels have one. Tests judge labels by their score, and the other outputs by value.
        gradient: `setup_context` and `backward` for `torch.library.register_autograd`. None if not differentiable.
        out_schema: Schema of an overload that writes into its last argument.
        out_fake: Function that takes the arguments of this overload and refuses those that fake tensors show to be bad.
        backends: Names of the backends that have a kernel of this op.
        cells: Overload of torch per backend, filled by `register`.
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
    out_fake: Callable[..., None] = lambda *args, **kwargs: None
    backends: tuple[str, ...] = tuple(BACKENDS)
    cells: dict[str, Any] = field(default_factory=dict)

    def __call__(self, backend: str | None, first: Tensor, *args: Any) -> Any:
        """Call the op on `backend`, or on the backend selected for the device of the first tensor."""
        cell = self.cells[select(backend, first.device, self.backends)]
        if torch.compiler.is_compiling():
            return cell(first, *args)
        _refuse_tangents(self.name, first, *args)
        if needs_autograd(first, *args):
            return cell(first, *args)
        with below_autograd():  # autograd of a custom op runs Python code, which takes half of the time of a small call
            return cell(first, *args)

    def write(self, backend: str | None, first: Tensor, *args: Any, out: Tensor) -> None:
        """Call the op as `__call__` does and write the result into `out`."""
        cell = self.cells[select(backend, first.device, self.backends) + ".out"]
        if torch.compiler.is_compiling():  # AOTAutograd increments the version in compiled code
            return cell(first, *args, out=out)
        _refuse_tangents(self.name, first, *args, out)
        cell(first, *args, out=out)
        torch.autograd.graph.increment_version(out)


def _refuse_tangents(name: str, *values: Any) -> None:
    """Raise NotImplementedError if a tensor has a tangent, which the op would drop."""
    if have_tangents(values):
        raise NotImplementedError(f"stylefast.{name} does not support torch.autograd.forward_ad; see torch.func.jvp")


def needs_autograd(*values: Any) -> bool:
    """Return whether autograd has to record a call with these arguments."""
    if torch.is_grad_enabled():
        for x in values:
            if isinstance(x, Tensor) and x.requires_grad:
                return True
    return False


def register(op: Op, library: torch.library.Library) -> None:
    """Define `stylefast::<op>_<backend>` for its backends. Compiled libraries add their kernels when loaded."""
    for backend in (BACKENDS[name] for name in op.backends):
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
            torch.library.register_fake(f"stylefast::{name}.out", op.out_fake, lib=library)
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
