# SPDX-License-Identifier: Apache-2.0
"""The op table as test parameters (op x backend x sample), and calls of cells on the devices of their backends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from stylefast.backends import BACKENDS, available
from stylefast.ops import LAYERS, NMF_STEP, OPS, SOFT
from stylefast.ops.op import Op

ROWS = (*OPS, *SOFT, NMF_STEP, *LAYERS)
Sample = tuple[str, dict[str, Any]]


class Cell(NamedTuple):
    """An op on one backend, with one sample as inputs.

    `key` is a key of `Op.cells`: a backend, or for example "cpu.out", the overload that writes into `out`.
    """

    op: Op
    key: str
    inputs: dict[str, Any]

    @property
    def backend(self) -> str:
        return self.key.removesuffix(".out")


def cells(pick: Callable[[Op], Iterable[Sample]] = lambda op: op.samples()) -> list[Any]:
    """Parameters for every cell and the samples that `pick` selects; skipped if the backend cannot run."""
    return [
        pytest.param(Cell(op, key, inputs), id=f"{op.name}-{key}-{name}", marks=skip_unless(key.removesuffix(".out")))
        for op in ROWS
        for name, inputs in pick(op)
        for key in op.cells
    ]


def backends() -> list[Any]:
    """Parameters with the names of all backends; skipped if the backend cannot run."""
    return [pytest.param(name, marks=skip_unless(name)) for name in BACKENDS]


def skip_unless(backend: str) -> list[pytest.MarkDecorator]:
    reason = available()[backend]
    return [] if reason is None else [pytest.mark.skip(reason=reason)]


def place(value: Any, backend: str) -> Any:
    """Copy a tensor with its whole storage to the device of a backend, so that strides and surroundings stay."""
    if not isinstance(value, Tensor):
        return value
    return memory(value).to(_device(backend), copy=True).as_strided(value.shape, value.stride(), value.storage_offset())


def memory(tensor: Tensor) -> Tensor:
    """The whole storage of a tensor, as one row."""
    return tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.itemsize,), (1,), 0)


def _device(backend: str) -> torch.device:
    devices = BACKENDS[backend].devices
    return torch.device("cpu" if devices is None else devices[0])


def run(cell: Cell) -> tuple[Tensor, ...]:
    """Run a cell on its sample; return the outputs on the CPU."""
    return outputs(invoke(cell, [place(x, cell.backend) for x in cell.inputs.values()]))


def run_op(op: Op, backend: str, inputs: dict[str, Any]) -> tuple[Tensor, ...]:
    """Run an op on a backend; return the outputs on the CPU."""
    return run(Cell(op, backend, inputs))


def invoke(cell: Cell, placed: list[Any]) -> Any:
    """Call a cell. An `.out` cell writes into the middle of a row of NaN and must not change the ends of the row."""
    if not cell.key.endswith(".out"):
        return cell.op.cells[cell.key](*placed)
    like = cell.op.fake(*placed)
    buffer = like.new_full((like.numel() + 2,), torch.nan)
    out = buffer[1:-1].view(like.shape)
    cell.op.cells[cell.key](*placed, out=out)
    assert buffer[[0, -1]].isnan().all()
    return out


def call(public: Callable[..., Any], backend: str, *args: Any, **kwargs: Any) -> Any:
    """Call a public function on a backend; return the result on the CPU."""
    placed = {name: place(x, backend) for name, x in kwargs.items()}
    result = public(*(place(x, backend) for x in args), **placed, backend=backend)
    return result.cpu() if isinstance(result, Tensor) else type(result)(*(x.cpu() for x in result))


def outputs(result: Any) -> tuple[Tensor, ...]:
    """One tensor or several, as a tuple on the CPU."""
    return tuple(x.cpu() for x in ((result,) if isinstance(result, Tensor) else result))


def bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor. They differ for 0 and -0, and for different NaNs."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def first_of_each(kind: Callable[[dict[str, Any]], Any]) -> Callable[[Op], Iterator[Sample]]:
    """Return a `pick` for `cells` that selects the first sample of each kind."""

    def pick(op: Op) -> Iterator[Sample]:
        seen = set()
        for name, inputs in op.samples():
            if kind(inputs) not in seen:
                seen.add(kind(inputs))
                yield name, inputs

    return pick
