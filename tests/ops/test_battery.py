# SPDX-License-Identifier: Apache-2.0
"""The battery: tests of every cell of the op table on every sample. This file names no op and no backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from agreement import agree
from cells import ROWS, Cell, Sample, bits, cells, first_of_each, invoke, memory, outputs, place, run
from torch import Tensor

from stylefast.backends import BACKENDS
from stylefast.ops.op import BadCall, Op


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def layout(inputs: dict[str, Any]) -> tuple[Any, ...]:
    """Dtype and order of strides of the first tensor, and which inputs are tensors."""
    first = next(iter(inputs.values()))
    order = tuple(sorted(range(first.dim()), key=lambda i: first.stride(i)))
    return first.dtype, order, tuple(isinstance(x, Tensor) for x in inputs.values())


def requiring_gradients(inputs: dict[str, Any], dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Inputs in which the floating-point tensors are copies that require gradients."""
    return {
        name: x.detach().to(dtype or x.dtype, copy=True).requires_grad_()
        if isinstance(x, Tensor) and x.is_floating_point()
        else x
        for name, x in inputs.items()
    }


def test_unwritten_memory_is_poisoned():
    assert torch.empty(100).isnan().all()


@pytest.mark.parametrize("cell", cells())
def test_agrees_with_the_reference(cell: Cell):
    agree(cell.op, run(cell), cell.inputs)


@pytest.mark.parametrize("cell", cells())
def test_inputs_and_their_surroundings_are_unchanged(cell: Cell):
    placed = [place(x, cell.backend) for x in cell.inputs.values()]
    invoke(cell, placed)
    for name, before, after in zip(cell.inputs, cell.inputs.values(), placed, strict=True):
        if isinstance(before, Tensor):
            assert torch.equal(bits(memory(after).cpu()), bits(memory(before))), name


@pytest.mark.parametrize("cell", cells())
def test_same_bits_when_repeated_with_one_or_two_threads(cell: Cell):
    for count in (1, 2):
        with threads(count):
            first, second = run(cell), run(cell)
            assert all(torch.equal(bits(a), bits(b)) for a, b in zip(first, second, strict=True)), count
            agree(cell.op, first, cell.inputs)


@pytest.mark.parametrize("cell", cells(first_of_each(layout)))
def test_passes_opcheck(cell: Cell):
    """Check float16, float64 and the reference without a traced graph, which is the same for all of them.

    The inputs of an op with a gradient require gradients.
    """
    overload, placed = cell.op.cells[cell.key], tuple(place(x, cell.backend) for x in cell.inputs.values())
    utilities = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if placed[0].dtype not in (torch.float16, torch.float64) and cell.backend != "reference":
        utilities.append("test_aot_dispatch_dynamic")
    if cell.key.endswith(".out"):
        torch.library.opcheck(overload, placed, {"out": cell.op.fake(*placed)}, test_utils=utilities)
        return
    if cell.op.gradient is not None:
        placed = tuple(requiring_gradients(dict(zip(cell.inputs, placed, strict=True))).values())
    torch.library.opcheck(overload, placed, test_utils=utilities)


def compiled(public: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    torch.compiler.reset()
    return torch.compile(public, fullgraph=True, **options)


def same(got: Any, expected: Any) -> None:
    assert type(got) is type(expected)
    for a, b in zip(outputs(got), outputs(expected), strict=True):
        assert torch.equal(bits(a), bits(b))


def first_sample(op: Op) -> Iterator[Sample]:
    yield next(op.samples())


def functional(params: list[Any]) -> list[Any]:
    """Parameters without the overloads that write into `out`."""
    return [param for param in params if not param.values[0].key.endswith(".out")]


@pytest.mark.parametrize("cell", functional(cells(first_sample)))
def test_compiles_to_one_graph(cell: Cell):
    inputs = {name: place(x, cell.backend) for name, x in cell.inputs.items()}
    public = compiled(cell.op.public, backend="aot_eager")
    same(public(**inputs, backend=cell.backend), cell.op.public(**inputs, backend=cell.backend))


@pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)
def test_inductor_compiles_to_one_graph_with_the_default_backend(op: Op):
    _, inputs = next(op.samples())
    same(compiled(op.public)(**inputs), op.public(**inputs))


@pytest.mark.parametrize("cell", [param for param in functional(cells(first_sample)) if "reference" not in param.id])
def test_compiles_once_for_all_batches(cell: Cell):
    """Leave out the reference, whose shapes are described by the same function."""
    public = compiled(cell.op.public, backend="aot_eager", dynamic=True)
    torch._dynamo.utils.counters.clear()
    for times in (3, 5):
        placed = {name: place(x, cell.backend) for name, x in longer(cell.inputs, times).items()}
        same(public(**placed, backend=cell.backend), cell.op.public(**placed, backend=cell.backend))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def longer(inputs: dict[str, Any], times: int) -> dict[str, Any]:
    """Inputs of a batch that is `times` times as long. Tensors with as many rows as the first one are repeated."""
    rows = len(next(iter(inputs.values())))
    return {
        name: x.repeat(times, *(1 for _ in x.shape[1:])) if isinstance(x, Tensor) and len(x) == rows else x
        for name, x in inputs.items()
    }


def bad_calls() -> list[Any]:
    return [
        pytest.param(op, bad, id=f"{op.name}-{number}-{bad.match}")
        for op in ROWS
        for number, bad in enumerate(op.errors())
    ]


@pytest.mark.parametrize("backend", [None, *BACKENDS])
@pytest.mark.parametrize("op, bad", bad_calls())
def test_bad_calls_are_refused_before_a_backend_is_chosen(op: Op, bad: BadCall, backend: str | None):
    with pytest.raises(bad.error, match=bad.match):
        op.public(*bad.args, **{"backend": backend, **bad.kwargs})


def differentiable_samples(op: Op) -> Iterator[Sample]:
    """Small samples of differentiable ops: on failure, gradcheck computes the Jacobian, which must fit into memory."""
    for name, inputs in op.samples():
        if op.gradient is not None and sum(x.numel() for x in inputs.values() if isinstance(x, Tensor)) < 1500:
            yield name, inputs


@pytest.mark.parametrize("cell", functional(cells(differentiable_samples)))
def test_gradients_pass_gradcheck(cell: Cell):
    inputs = requiring_gradients({name: place(x, cell.backend) for name, x in cell.inputs.items()}, torch.float64)
    assert torch.autograd.gradcheck(cell.op.cells[cell.key], tuple(inputs.values()), fast_mode=True)
