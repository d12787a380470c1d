# SPDX-License-Identifier: Apache-2.0
"""Tests that the rivals of the GPU stages compute the results of the ops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gpu import rivals
from gpu.workloads import GpuWorkload
from verify import verify

from stylefast.ops import BLEND, CONTRIBUTION, LLOYD_STEP, OPS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op, size", [(op, (3, 20, 4)) for op in OPS] + [(CONTRIBUTION, (2, 6, 16))])
def test_rivals_agree_with_the_reference(
    op: Any, size: tuple[int, int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    torch.manual_seed(0)
    monkeypatch.setattr("gpu.workloads.GRID", 4)
    workload = GpuWorkload(op, None if op is BLEND else size, dtype, 5)
    sizes = {"STYLES": 12, "TARGETS": 2, "REFERENCES": 3, "PARTS": 2}
    for name, value in sizes.items():
        monkeypatch.setattr(f"gpu.workloads.{name}", value)
    inputs = workload.make("cpu")
    assert rivals.names(workload) == [rivals.EAGER, rivals.COMPILED]
    tolerance = 4 * torch.finfo(dtype).eps
    verify(op, inputs, rivals.call(workload, rivals.EAGER, inputs)(), tolerance)


def test_restarts_and_standardized_features_have_no_rival():
    assert rivals.names(GpuWorkload(LLOYD_STEP, (3, 20, 4), torch.float32, 5, restarts=2)) == []
    assert rivals.names(GpuWorkload(LLOYD_STEP, (3, 20, 4), torch.float32, 5, features="standardized")) == []
