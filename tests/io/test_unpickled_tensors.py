# SPDX-License-Identifier: Apache-2.0
"""Tensors and arrays in pickles: read with the same values, or refused if their fields do not fit together."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pickles import Call, dumped, forbid_execution

from stylefast.io.storages import to_tensor
from stylefast.io.unpickling import ARRAYS, DICTIONARIES, TENSORS, dict_entries, read_pickle, to_array

ALLOWED = {*ARRAYS, *DICTIONARIES, *TENSORS}


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_execution(monkeypatch)


def reread(value: Any, path: Path, protocol: int = 4) -> Any:
    """Write a value to a pickle and read it back, without running code."""
    path.write_bytes(dumped(value, protocol))
    return read_pickle(path, ALLOWED)


def tensor_of(storage: bytes, offset: Any, shape: Any, strides: Any) -> Call:
    """Return an object that pickles as a tensor with `storage` as the bytes of its serialised storage."""
    return Call(torch._utils._rebuild_tensor_v2, Call(torch.storage._load_from_bytes, storage), offset, shape, strides)


def test_tensors_with_a_negative_bit_are_refused(tmp_path: Path):
    """Their storage holds the values with the opposite sign."""
    negative = torch._neg_view(torch.ones(2))
    with pytest.raises(ValueError, match="negative or conjugate bit; save tensor.resolve_neg"):
        to_tensor(reread(negative, tmp_path / "a.pkl"))
    assert torch.equal(to_tensor(reread(negative.resolve_neg(), tmp_path / "a.pkl")), -torch.ones(2))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_storages_that_carry_pickles_are_refused(tmp_path: Path):
    archive, old = io.BytesIO(), io.BytesIO()
    torch.save(Call(os.getcwd), archive)
    torch.save(Call(os.getcwd), old, _use_new_zipfile_serialization=False)
    for data, message in (
        (archive.getvalue(), r"it asks for (posix|nt)\.getcwd"),
        (old.getvalue(), r"it asks for (posix|nt)\.getcwd"),
        (b"cos\nsystem\n(S'echo'\ntR.", "a tensor's storage cannot be read"),
        (b"", "a tensor's storage cannot be read"),
        (dumped([1]), "a tensor's storage cannot be read"),
    ):
        with pytest.raises(ValueError, match=message):
            to_tensor(reread(tensor_of(data, 0, (1,), (1,)), tmp_path / "a.pkl"))


@pytest.mark.parametrize(
    "layout, message",
    [
        ((3, (4, 2), (2, 1)), "ends at element 10 of 8"),
        ((0, (1 << 40,), (0,)), "more elements than its storage, 8"),
        ((0, (1 << 31, 1 << 31, 1 << 31), (0, 0, 0)), "more elements than its storage, 8"),
        ((0, (-1,), (1,)), "offset, shape and strides"),
        ((0, (2,), (-1,)), "offset, shape and strides"),
        ((-1, (2,), (1,)), "offset, shape and strides"),
        ((0, (1 << 62,), (1 << 62,)), "offset, shape and strides"),
        ((0, (2, 2), (1,)), "offset, shape and strides"),
        ((0, (2.0,), (1,)), "offset, shape and strides"),
        ((True, (2,), (1,)), "offset, shape and strides"),
    ],
)
def test_tensors_outside_their_storage_are_refused(layout: Any, message: str, tmp_path: Path):
    storage = torch.arange(8.0).untyped_storage()
    file = io.BytesIO()
    torch.save(torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True), file)
    inert = reread(tensor_of(file.getvalue(), *layout), tmp_path / "a.pkl")
    with pytest.raises(ValueError, match=message):
        to_tensor(inert)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_tensors_equal_the_pickled_tensors(protocol: int, tmp_path: Path):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "view": base[1:, ::2].T,
        "parameter": torch.nn.Parameter(torch.ones(2, 3)),
        "half": torch.randn(5).half(),
        "number": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "integers": torch.tensor([1, 2]),
        "wide": torch.ones(2, 3).to(memory_format=torch.contiguous_format).expand(2, 3),
    }
    inert = reread(OrderedDict(tensors), tmp_path / "a.pkl", protocol)
    got = {key: to_tensor(value) for key, value in dict_entries(inert).items()}
    assert list(got) == list(tensors)
    for key, expected in tensors.items():
        assert torch.equal(got[key], expected) and got[key].dtype == expected.dtype and got[key].is_contiguous(), key


@pytest.mark.parametrize("protocol", range(2, 6))
def test_arrays_equal_the_pickled_arrays(protocol: int, tmp_path: Path):
    matrix = np.arange(6.0).reshape(2, 3)
    arrays = [
        matrix,
        np.asfortranarray(matrix),
        matrix.astype(">f4"),
        matrix[:, ::2],
        np.array(True),
        np.float32(0.1),
        np.int64(-3),
        np.empty((0, 4), np.int32),
        np.array(7, np.uint16),
    ]
    for inert, expected in zip(reread(arrays, tmp_path / "a.pkl", protocol), arrays, strict=True):
        got = to_array(inert)
        np.testing.assert_array_equal(got, expected)
        assert got.shape == expected.shape and got.dtype == expected.dtype.newbyteorder("=")
        got[...] = 0  # the array is writable


def test_arrays_that_hold_no_numbers_are_refused(tmp_path: Path):
    path = tmp_path / "a.pkl"
    with pytest.raises(ValueError, match="an array must hold numbers, got elements of O8"):
        to_array(reread(np.array([None, 1], object), path))
    for value in (np.array(["a"]), np.array([1], "m8[s]"), np.array([(1, 2)], "i4,i4"), np.array([1j])):
        with pytest.raises(ValueError, match="an array must hold numbers"):
            to_array(reread(value, path))


def test_arrays_whose_bytes_do_not_fit_are_refused(tmp_path: Path):
    inert = reread(np.arange(6.0), tmp_path / "a.pkl")
    for state, message in (
        ((1, (7,), *inert.state[2:]), r"an array of shape \(7,\) of float64 needs 56 bytes"),
        ((1, (1 << 47, 1 << 47), *inert.state[2:]), "needs"),
        ((1, (-6,), *inert.state[2:]), r"an array has the invalid shape \(-6,\)"),
        ((1, (6,), inert.state[2], False, [1, 2]), "bytes were expected, got list"),
    ):
        inert.state = state
        with pytest.raises(ValueError, match=message):
            to_array(inert)


def test_other_values_are_neither_arrays_nor_tensors(tmp_path: Path):
    for value in (None, 3, [1], reread(OrderedDict(), tmp_path / "a.pkl")):
        with pytest.raises(ValueError, match="an array was expected, got"):
            to_array(value)
        with pytest.raises(ValueError, match="a tensor was expected, got"):
            to_tensor(value)
