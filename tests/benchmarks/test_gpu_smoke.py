# SPDX-License-Identifier: Apache-2.0
"""Tests of the stage `smoke`: its rows, and that a wrong result fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpu import smoke
from timing import WrongResult

from stylefast.backends import available
from stylefast.core.dtypes import DTYPES
from stylefast.ops import ASSIGN, OPS, SOFT


def test_smoke_covers_every_op_dtype_and_backend():
    rows = {(op.name, backend, dtype) for op, backend, dtype in smoke.ROWS.values()}
    assert rows == {
        (op.name, backend, dtype) for op in (*OPS, *SOFT) for backend in ("cuda", "triton") for dtype in DTYPES
    }


def test_only_a_right_result_is_recorded(monkeypatch: pytest.MonkeyPatch):
    assert available()["cpu"] is None  # loads the kernels
    records: list[dict[str, Any]] = []
    monkeypatch.setattr(smoke, "write", lambda kind, **fields: records.append({"kind": kind, **fields}))
    monkeypatch.setattr(smoke, "DEVICE", "cpu")
    monkeypatch.setattr(smoke, "MAIN", (1, 8, 4))
    monkeypatch.setattr(smoke, "images", lambda: 3)
    monkeypatch.setattr(smoke, "ROWS", {"a": (ASSIGN, "cuda", torch.float32)})
    compute = ASSIGN.cells["cpu"]

    def label_one_too_high(*arguments: Any) -> tuple[torch.Tensor, ...]:
        labels, similarity = compute(*arguments)
        return (labels + 1) % 32, similarity

    monkeypatch.setitem(ASSIGN.cells, "cuda", compute)
    smoke.measure("a")
    assert records == [{"kind": "smoke", "row": "a"}]
    monkeypatch.setitem(ASSIGN.cells, "cuda", label_one_too_high)
    with pytest.raises(WrongResult, match="labels are not of the nearest centroid"):
        smoke.measure("a")
    assert len(records) == 1
