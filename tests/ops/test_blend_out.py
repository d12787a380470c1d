# SPDX-License-Identifier: Apache-2.0
"""`blend(out=)`: which overlaps with inputs are right and which are refused, and what autograd knows of the write."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from cells import backends, place
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import vmap

import stylefast
from stylefast.ops.blend_out import overlaps

pytestmark = pytest.mark.parametrize("backend", backends())
NAMES = ("target", "reference", "query")
REFUSED = r"^out must share no memory with {}, or, without edits, be the same rows as an operand, got "


def operands(backend: str, rows: int = 3, width: int = 9) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {name: place(torch.rand(rows, width, generator=rng), backend) for name in NAMES}


def blend(inputs: dict[str, Any], backend: str, **options: Any) -> Tensor:
    return stylefast.blend(**inputs, **options, backend=backend)


@pytest.mark.parametrize("mode", ["linear", "norm_preserving"])
@pytest.mark.parametrize("rows, width", [(1, 9), (3, 9), (40, 1030)])
@pytest.mark.parametrize("name", NAMES)
def test_out_may_be_an_operand_row_for_row(name: str, rows: int, width: int, mode: str, backend: str):
    inputs = operands(backend, rows, width)
    expected = blend(inputs, backend, mode=mode)
    assert blend(inputs, backend, mode=mode, out=inputs[name].view(rows, width)) is not None
    assert torch.equal(inputs[name], expected)


@pytest.mark.parametrize("name", NAMES)
def test_out_that_edits_gather_from_is_refused(name: str, backend: str):
    inputs = operands(backend)
    edits = place(torch.tensor([[0, 2, 0], [1, 1, 1], [2, 0, 2]]), backend)
    for index in (edits, place(torch.arange(3).expand(3, 3).T, backend)):
        before = inputs[name].clone()
        with pytest.raises(ValueError, match=REFUSED.format(name)):
            blend(inputs, backend, edits=index, out=inputs[name])
        assert torch.equal(inputs[name], before)


@pytest.mark.parametrize("name", NAMES)
def test_partial_overlaps_are_refused(name: str, backend: str):
    inputs = operands(backend)
    buffer = place(torch.rand(40), backend)
    for strided in (
        buffer[:27].view(3, 9),
        buffer[2:29].view(3, 9),
        buffer[:27].view(9, 3).t(),
        buffer[10:19],
        buffer[10:19].expand(3, 9),
        buffer[3:4].expand(3, 9),
        buffer.as_strided((3, 9), (1, 3), 1),
    ):
        with pytest.raises(ValueError, match=REFUSED.format(name)):
            blend({**inputs, name: strided}, backend, out=buffer[1:28].view(3, 9))
    one = buffer[:9].view(1, 9)  # one row serves all edits
    with pytest.raises(ValueError, match=REFUSED.format(name)):
        blend({**inputs, name: one}, backend, out=buffer[:27].view(3, 9))


def test_disjoint_slices_of_one_buffer_are_accepted(backend: str):
    inputs = operands(backend)
    buffer = place(torch.rand(3, 40), backend)
    for target, row in ((buffer[:, :9], buffer[1, 9:18]), (buffer[:, 1:40:4][:, :9], buffer[1, 38:40])):
        rows, width = inputs["reference"][:, : row.numel()], row.numel()
        paired = {"target": target[:1, :width], "reference": rows[:1], "query": inputs["query"][:1, :width]}
        expected = blend(paired, backend)
        assert torch.equal(blend(paired, backend, out=row.view(1, width)), expected)


def test_out_that_overlaps_edits_or_strength_is_refused(backend: str):
    inputs = operands(backend)
    memory = place(torch.zeros(40), backend)
    edits = memory[:18].view(torch.int64).view(3, 3)
    with pytest.raises(ValueError, match=REFUSED.format("edits")):
        blend(inputs, backend, edits=edits, out=memory[9:36].view(3, 9))
    for strength in (memory[:3], memory[5]):
        with pytest.raises(ValueError, match=REFUSED.format("strength")):
            blend(inputs, backend, strength=strength, out=memory[:27].view(3, 9))
    with pytest.raises(ValueError, match="out must be contiguous"):
        blend(inputs, backend, out=memory[:9].expand(3, 9))


def test_overlaps_of_any_strides_are_found(backend: str):
    rng = random.Random(0)
    found = 0
    for _ in range(2000):
        memory = torch.from_numpy(np.zeros(64, np.uint8))
        elements = memory.view(rng.choice([torch.int8, torch.int16, torch.int32]))
        shape, strides = ([rng.randint(low, 5) for _ in range(rng.choice([0, 1, 2, 3]))] for low in (1, 0))
        strides = (strides + [0] * 3)[: len(shape)]
        span = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if span >= len(elements):
            continue
        tensor = elements.as_strided(shape, strides, rng.randint(0, len(elements) - 1 - span))
        tensor.fill_(-1)  # no byte of an element is zero
        begin = rng.randint(0, 64)
        end = rng.randint(begin, min(64, begin + 20))
        address = memory.data_ptr()
        expected = bool(memory[begin:end].any())
        found += expected
        assert overlaps(tensor, tensor.data_ptr(), address + begin, address + end) == expected
    assert found > 200


def test_writing_out_moves_the_version_counter(backend: str):
    inputs = operands(backend)
    buffer = torch.zeros(2, 3, 9, device=inputs["target"].device)
    weight = torch.ones(3, 9, device=buffer.device, requires_grad=True)
    loss = (buffer[0] * weight).sum()
    before = buffer._version
    blend(inputs, backend, out=buffer[0])  # a view shares the counter of its base
    assert buffer._version > before
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with torch.inference_mode():
        blend(inputs, backend, out=torch.empty(3, 9, device=buffer.device))


def test_out_that_requires_gradients_is_refused(backend: str):
    inputs = operands(backend)
    leaf = torch.zeros(3, 9, device=inputs["target"].device, requires_grad=True)
    for out in (leaf, leaf[:], leaf * 1):
        with pytest.raises(ValueError, match="^out cannot be used with inputs that require gradients, nor require"):
            blend(inputs, backend, out=out)
    with torch.no_grad():
        assert torch.equal(blend(inputs, backend, out=leaf), blend(inputs, backend))


def test_compiled_blends_refuse_overlaps(backend: str):
    inputs = operands(backend)
    buffer = place(torch.rand(4, 9), backend)
    torch.compiler.reset()
    compiled = torch.compile(stylefast.blend, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match="out must share no memory with target"):
        compiled(**{**inputs, "target": buffer[:3]}, out=buffer[1:], backend=backend)
    rows, expected = inputs["target"], blend(inputs, backend)
    version = rows._version
    compiled(**inputs, out=rows, backend=backend)
    assert torch.equal(rows, expected) and rows._version > version


def test_fake_tensors_refuse_overlaps_and_transforms_refuse_out(backend: str):
    inputs = operands(backend)
    with FakeTensorMode() as mode:
        fake: dict[str, Any] = {name: mode.from_tensor(x) for name, x in inputs.items()}
        assert blend(fake, backend, out=fake["target"]).shape == (3, 9)
        buffer = torch.empty(4, 9, device=inputs["target"].device)
        with pytest.raises(ValueError, match=REFUSED.format("query")):
            blend({**fake, "query": buffer[:3]}, backend, out=buffer[1:])
    with pytest.raises(ValueError, match="^out must be None under a transform of torch.func, got a tensor$"):
        vmap(lambda t, out: stylefast.blend(t, t, t, out=out, backend=backend))(inputs["target"], torch.empty(3, 1, 9))


@pytest.mark.parametrize("gathered", [False, True])
def test_repeated_large_results_have_the_same_bits(gathered: bool, backend: str):
    """The first results of more than 1 MB are written with two kinds of stores in turn."""
    rows, width = 32, 9001
    inputs = operands(backend, rows, width)
    single = ({name: x[row : row + 1] for name, x in inputs.items()} for row in range(rows))
    expected = torch.cat([blend(row, backend) for row in single])
    edits = place(torch.arange(rows).unsqueeze(1).repeat(1, 3), backend) if gathered else None
    out = place(torch.empty(rows * width + 1), backend)[1:].view(rows, width)  # not aligned to vectors
    for _ in range(10):
        assert torch.equal(blend(inputs, backend, edits=edits, out=out.fill_(torch.nan)), expected)
