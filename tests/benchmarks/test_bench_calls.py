# SPDX-License-Identifier: Apache-2.0
"""Tests of the benchmark of small calls and instruction sets."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import bench_calls
import pytest
import workloads
from timing import WrongResult
from torch import Tensor
from verify import outputs


def off_by_one(public: Callable[..., Any], **arguments: Any) -> tuple[Tensor, ...]:
    return tuple(x + 1 for x in outputs(public(**arguments)))


def test_small_calls_are_verified_before_they_are_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_calls, "CALLS", 2)
    for workload in workloads.SMALL_CALLS:
        figure = bench_calls.small(workload, 2, 1)
        assert figure.peer == "one torch." + {"blend": "lerp", "contribution": "square"}.get(figure.op, "matmul")
        faulty = replace(workload.op, public=partial(off_by_one, workload.op.public))
        with pytest.raises(WrongResult):
            bench_calls.small(replace(workload, op=faulty), 2, 1)


def test_few_rows_are_verified_before_they_are_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_calls, "CALLS", 2)
    assert [workload.name.split("x")[0] for workload in workloads.FEW_ROWS[::2]] == ["1", "16", "64", "256"]
    for workload in workloads.FEW_ROWS[:4]:
        assert bench_calls.few_rows(workload, 2, 1).peer == "torch.lerp(out=)"
        faulty = replace(workload.op, public=partial(off_by_one, workload.op.public))
        with pytest.raises(WrongResult):
            bench_calls.few_rows(replace(workload, op=faulty), 2, 1)


def test_each_instruction_set_runs_in_its_own_process(monkeypatch: pytest.MonkeyPatch):
    def run(command: list[str], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, "[6.0, 8.0]" if env["STYLEFAST_ISA"] == "portable" else "[2.0]")

    monkeypatch.setattr(subprocess, "run", run)
    assert bench_calls.instruction_sets(1).to_peer == 3.0
