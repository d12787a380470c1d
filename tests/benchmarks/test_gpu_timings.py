# SPDX-License-Identifier: Apache-2.0
"""Tests of the GPU timings on a simulated device: wrong results are not timed, and records hold the figures."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpu import rivals, timings
from gpu.timings import Row
from gpu.workloads import GPU_WORKLOADS, KEY_WORKLOADS, GpuWorkload
from timing import WrongResult

from stylefast.backends import available
from stylefast.ops import ASSIGN, BLEND, CONTRIBUTION, LLOYD_STEP, OPS
from stylefast.ops.op import Op


class Clock:
    """Timer whose calls take 2 s, and whose copies move 10 bytes per second."""

    late = False

    def __init__(self, timer: Any = None) -> None:
        self.calls = 0

    def seconds(self, call: Callable[[], Any]) -> float:
        call()
        self.calls += 1
        return 2.0

    def rate(self) -> float:
        return 10.0


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Records of rows that run on the CPU, with the `cpu` backend in place of `cuda`."""
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(timings, "write", lambda kind, **fields: written.append({"kind": kind, **fields}))
    monkeypatch.setattr(timings, "DEVICE", "cpu")
    monkeypatch.setattr(timings, "Timer", Clock)
    monkeypatch.setattr(timings, "Copier", Clock)
    monkeypatch.setattr(timings, "clocks", dict)
    monkeypatch.setattr(timings, "ROUNDS", 3)
    monkeypatch.setattr(timings, "CALLS", 1)
    monkeypatch.setattr(timings.cuda, "synchronize", lambda: None)
    sizes = {"GRID": 4, "STYLES": 12, "TARGETS": 16, "REFERENCES": 3, "PARTS": 2}
    for name, value in sizes.items():
        monkeypatch.setattr(f"gpu.workloads.{name}", value)
    return written


def fake(monkeypatch: pytest.MonkeyPatch, op: Op, change: Callable[[Any], Any] = lambda result: result) -> None:
    """Replace the op's `cuda` implementation by one that computes on the CPU and changes the result."""
    assert available()["cpu"] is None  # loads the kernels
    compute = op.cells["cpu"]
    monkeypatch.setitem(op.cells, "cuda", lambda *arguments: change(compute(*arguments)))


def row(op: Op, by: str = "cuda") -> Row:
    blend = op is BLEND
    return Row(GpuWorkload(op, None if blend else (32, 8, 4), torch.float32, None if blend else 5), by)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_a_right_result_is_timed(op: Op, records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch):
    fake(monkeypatch, op)
    timings.gpu_time("a", row(op))
    (record,) = records
    cost = op.cost(*row(op).workload.make("cpu").values())
    assert (record["kind"], record["implementation"], record["p50"], record["best"]) == ("timing", "cuda", 2.0, 2.0)
    assert (record["bytes"], record["copy"], record["includes_host"]) == (cost.bytes, 10.0, False)
    assert record["floor"] == cost.bytes / 10 and record["to_floor"] == pytest.approx(2 / (cost.bytes / 10))


def with_wrong_last_labels(result: Any) -> Any:
    labels, *rest = result
    labels = labels.clone()
    labels.view(-1)[-labels.numel() // 8 :] += 1
    return labels % 5, *rest


def off_on_many_images(result: Any) -> Any:
    """Return sums that are wrong only for batches larger than those that are verified against the reference."""
    labels, sums, *rest = result
    return labels, sums * (1 if labels.shape[1] <= 16 else 1.01), *rest


class Unsteady:
    """Changes a result by a factor that grows with every call."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, result: Any) -> Any:
        self.times += 1
        return result[0], result[1] * (1 + 1e-6 * self.times)


@pytest.mark.parametrize(
    "op, change, message",
    [
        (ASSIGN, with_wrong_last_labels, "labels are not of the nearest centroid"),
        (LLOYD_STEP, off_on_many_images, "output 1 of lloyd_step on all images differs from the outputs on parts"),
        (ASSIGN, Unsteady(), "cuda gives different bits when assign .* is repeated"),
        (BLEND, lambda result: result * 1.01, "output 0 of blend is off"),
    ],
)
def test_a_wrong_result_is_not_timed(
    op: Op, change: Any, message: str, records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    fake(monkeypatch, op, change)
    with pytest.raises(WrongResult, match=message):
        timings.gpu_time("a", row(op))
    assert records == []


@pytest.mark.parametrize("error", [RuntimeError(), AttributeError("gone"), WrongResult("off by 3")])
def test_a_rival_that_fails_is_refused(
    error: Exception, records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(rivals, "call", fail)
    timings.gpu_time("a", row(LLOYD_STEP, rivals.EAGER))
    assert records == [{"kind": "refused", "row": "a", "error": str(error)}]


def test_host_time_is_compared_with_that_of_one_torch_op(
    records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    seconds = iter([9.0, 2.0] * 3)
    monkeypatch.setattr(timings, "host_seconds", lambda call: call() is None or next(seconds))
    timings.host_time("blend", "cpu")
    (record,) = records
    assert (record["p50"], record["peer_p50"], record["over_peer"], record["peer"]) == (9.0, 2.0, 7.0, "torch.lerp")


def test_images_beyond_element_2_31_must_match_a_small_batch(
    records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    monkeypatch.setattr(timings, "BEYOND", 20)
    monkeypatch.setattr(timings, "KEY_WORKLOADS", (row(LLOYD_STEP).workload,))
    fake(monkeypatch, CONTRIBUTION)
    fake(monkeypatch, ASSIGN)
    timings.check_beyond("cuda")
    fake(monkeypatch, ASSIGN, lambda result: with_wrong_last_labels(result) if len(result[0]) > 2 else result)
    with pytest.raises(WrongResult, match="different results beyond element 2\\^31"):
        timings.check_beyond("cuda")


def test_stage_key_has_a_row_per_backend_and_op(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(timings, "backends", lambda: ["cuda", "triton"])
    key, rest = list(timings.plan("key")), list(timings.plan("rest"))
    assert len(key) == 2 * (len(KEY_WORKLOADS) + len(OPS)) + 1 and not set(key) & set(rest)
    hopper = [name for name in (*key, *rest) if name.endswith(f"| {timings.HOPPER}")]
    assert len(hopper) == 3 and all(name.startswith("lloyd_step") and "float16" in name for name in hopper)
    ours = [name for name in (*key, *rest) if name.endswith(("| cuda", "| triton"))]
    assert len(ours) == 2 * (len(GPU_WORKLOADS) + len(OPS) + 1)
    implementations = [name.rsplit(" | ", 1)[1] for name in rest[2:]]
    first, eager = len(KEY_WORKLOADS), implementations.count(rivals.EAGER)
    assert implementations[:first] == [rivals.EAGER] * first  # key timings are compared with them
    assert implementations[-eager:] == [rivals.COMPILED] * eager and implementations[first] == "cuda"
    assert [name.removeprefix("compile ") for name in timings.plan("compile")] == [n for n in key if "triton" in n]
    monkeypatch.setattr(timings, "backends", lambda: ["triton"])
    assert not any("| cuda" in name for stage in ("key", "rest") for name in timings.plan(stage))


@pytest.mark.parametrize(("by", "variable"), [("cuda", "0"), (timings.HOPPER, "1")])
def test_the_variable_selects_the_hopper_kernel(by: str, variable: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STYLEFAST_HOPPER", "unset")
    monkeypatch.setitem(LLOYD_STEP.cells, "cuda", lambda *inputs: os.environ["STYLEFAST_HOPPER"])
    assert timings.caller(row(LLOYD_STEP, by), {"activations": torch.zeros(1)})() == variable
