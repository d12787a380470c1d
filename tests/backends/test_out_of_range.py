# SPDX-License-Identifier: Apache-2.0
"""Tests of the check of indices, with and without CPU kernels."""

from __future__ import annotations

import pytest
import torch

import stylefast
from stylefast.backends import native

DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@pytest.fixture(params=["kernels", "no kernels"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no kernels":
        monkeypatch.setattr(native, "cpu_reason", lambda: "backend 'cpu' was left at home")


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", DTYPES)
def test_indices_in_range_pass_for_any_dtype_and_strides(dtype: torch.dtype):
    rows = torch.tensor([[0, 0, 0], [4, 2, 0], [1, 1, 0]], dtype=dtype)
    for index in (rows, rows.t().contiguous().t(), rows[::2], rows[:0]):
        assert native.out_of_range(index, 5, 3, 1) is None
    assert native.out_of_range(rows.view(1, 3, 3), 5) is None


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_column_is_compared_with_its_own_count(dtype: torch.dtype):
    rows = torch.tensor([[0, 0, 0], [4, 2, 0], [1, 1, 0]], dtype=dtype)
    limits = ([0, 0, 0], [4, 2, 0])
    for counts in ((4, 3, 1), (5, 2, 1), (5, 3, 0)):
        assert native.out_of_range(rows, *counts) == limits
    assert native.out_of_range(rows, 4) == ([0], [4])


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", DTYPES[:-1])
def test_negative_and_extreme_indices_are_reported(dtype: torch.dtype):
    limits = torch.iinfo(dtype)
    for value in (-1, limits.min, limits.max):
        expected = ([min(0, value)], [max(0, value)])
        assert native.out_of_range(torch.tensor([0, value], dtype=dtype), 3) == expected


def test_values_of_fake_and_meta_tensors_are_not_read():
    assert native.out_of_range(torch.full((2,), 9, dtype=torch.int64, device="meta"), 3) is None
    with torch._subclasses.FakeTensorMode() as mode:
        assert native.out_of_range(mode.from_tensor(torch.full((2,), 9, dtype=torch.int64, device="cpu")), 3) is None


def test_a_trace_records_calls_with_indices():
    target, query = torch.rand(2, 4, 9)
    labels, edits = (torch.tensor(x, dtype=torch.int32) for x in ([[[0, 1, 0]]], [[3, 0, 2]]))
    blended = torch.jit.trace(lambda x: stylefast.blend(x, x, query, edits=edits), target)
    assert torch.equal(blended(query), stylefast.blend(query, query, query, edits=edits))
    summed = torch.jit.trace(lambda x: stylefast.contribution(x, labels, 2), torch.rand(1, 2, 1, 3))
    x = torch.rand(1, 2, 1, 3)
    assert torch.equal(summed(x), stylefast.contribution(x, labels, 2))
