# SPDX-License-Identifier: Apache-2.0
"""The row of the op table: all that is known of one op. Registration, tests and benchmarks iterate over rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from ..backends import BACKENDS, select
from ..private_torch import below_autograd

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


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

    `reference` is the definition, for any floating dtype; `given_labels`, for ops whose first output is labels, gives
    the other outputs from labels already chosen, so that a test can judge the labels by their score and the rest
    by its value. `out_schema` adds an overload that writes into its last argument.
    """

    name: str
    schema: str
    public: Callable[..., Any]
    reference: Callable[..., Any]
    fake: Callable[..., Any]
    cost: Callable[..., Cost]
    samples: Callable[[], Iterator[tuple[str, dict[str, Any]]]]
    errors: Callable[[], Iterator[BadCall]]
    given_labels: Callable[..., tuple[Tensor, ...]] | None = None
    gradient: tuple[Callable[..., None], Callable[..., Any]] | None = None
    out_schema: str | None = None
    cells: dict[str, Any] = field(default_factory=dict)

    def __call__(self, backend: str | None, first: Tensor, *args: Any) -> Any:
        """Calls the cell of `backend`, or of the backend that suits the first tensor's device."""
        cell = self.cells[select(backend, first.device)]
        if torch.compiler.is_compiling() or _records(first, *args):
            return cell(first, *args)
        with below_autograd():  # autograd's layer of a custom op is Python: half of a small call
            return cell(first, *args)

    def write(self, backend: str | None, first: Tensor, *args: Any, out: Tensor) -> None:
        """The same, into `out`."""
        self.cells[select(backend, first.device) + ".out"](first, *args, out=out)


def _records(*args: Any) -> bool:
    """Whether autograd has to see this call."""
    if torch.is_grad_enabled():
        for x in args:
            if isinstance(x, Tensor) and x.requires_grad:
                return True
    return False


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which an op computes: float64 for float64 input, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def exactly(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, with its products in the dtypes that it gives them, also under autocast."""

    @wraps(function)
    def without_autocast(*args: Any, **kwargs: Any) -> Any:
        device = next((x.device.type for x in args if isinstance(x, Tensor)), "cpu")
        if not torch.is_autocast_enabled(device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return without_autocast


def register(op: Op, library: torch.library.Library) -> None:
    """Defines `stylefast::<op>_<backend>` for every backend; compiled libraries fill theirs when they are loaded."""
    for backend in BACKENDS.values():
        name = f"{op.name}_{backend.name}"
        library.define(name + op.schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.register_fake(f"stylefast::{name}", op.fake, lib=library)
        if backend.name == "reference":
            library.impl(name, exactly(op.reference), backend.key)
        if backend.launcher is not None:
            library.impl(name, backend.launcher(op.name, "launch"), backend.key)
        setup_context, backward = op.gradient or (None, _no_gradient(op.name))
        torch.library.register_autograd(f"stylefast::{name}", backward, setup_context=setup_context, lib=library)
        packet = getattr(torch.ops.stylefast, name)
        op.cells[backend.name] = packet.default
        if op.out_schema is not None:
            library.define(f"{name}.out{op.out_schema}", tags=(torch.Tag.pt2_compliant_tag,))
            torch.library.register_fake(f"stylefast::{name}.out", lambda *args, **kwargs: None, lib=library)
            if backend.name == "reference":
                library.impl(f"{name}.out", _into_out(exactly(op.reference)), backend.key)
            if backend.launcher is not None:
                library.impl(f"{name}.out", backend.launcher(op.name, "launch_out"), backend.key)
            op.cells[f"{backend.name}.out"] = packet.out


def _no_gradient(name: str) -> Callable[..., None]:
    def backward(*args: Any) -> None:
        raise RuntimeError(f"stylefast.{name} is not differentiable")

    return backward


def _into_out(reference: Callable[..., Tensor]) -> Callable[..., None]:
    def write(*args: Any, out: Tensor) -> None:
        out.copy_(reference(*args))

    return write


def check_activations(activations: Tensor) -> None:
    """Raises TypeError or ValueError unless `activations` is a dense floating tensor [N, C, H, W] with C, H, W >= 1."""
    check_tensor("activations", activations, "[N, C, H, W]", 4)
    if 0 in activations.shape[1:]:
        raise ValueError(f"activations [N, C, H, W] must have C, H and W >= 1, got {tuple(activations.shape)}")


def check_tensor(name: str, tensor: Tensor, letters: str, *ranks: int, like: Tensor | None = None) -> None:
    """Raises unless `tensor` is a dense floating tensor of one of `ranks` dimensions, on the device of `like`."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense (strided) tensor, got layout {tensor.layout}")
    if tensor.dim() not in ranks:
        raise ValueError(f"{name} must have shape {letters}, got {tuple(tensor.shape)}")
    if like is not None and tensor.device != like.device:
        raise ValueError(f"{name} must be on {like.device} like the first argument, got {tensor.device}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
