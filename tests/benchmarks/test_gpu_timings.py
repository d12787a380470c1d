# SPDX-License-Identifier: Apache-2.0
"""Rows of the GPU timings on a simulated device: wrong results are not timed, and records hold the figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpu import rivals, smoke, timings
from gpu import tests as stage_tests
from gpu.processes import Ended
from gpu.timings import Row
from gpu.workloads import GpuWorkload
from timing import WrongResult

from stylefast.backends import available
from stylefast.ops import ASSIGN, BLEND, CONTRIBUTION, LLOYD_STEP, OPS
from stylefast.ops.op import Op


class Clock:
    """A timer whose calls take 2 s; a copy moves 10 bytes per second."""

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
    """What is written by rows that run on the CPU, by the `cpu` backend in place of `cuda`."""
    found: list[dict[str, Any]] = []
    for module in (timings, smoke, stage_tests):
        monkeypatch.setattr(module, "write", lambda kind, **fields: found.append({"kind": kind, **fields}))
    monkeypatch.setattr(timings, "DEVICE", "cpu")
    monkeypatch.setattr(timings, "Timer", Clock)
    monkeypatch.setattr(timings, "Copier", Clock)
    monkeypatch.setattr(timings, "clocks", dict)
    monkeypatch.setattr(timings, "ROUNDS", 3)
    monkeypatch.setattr(timings, "CALLS", 1)
    monkeypatch.setattr(timings.cuda, "synchronize", lambda: None)
    few = {"GRID": 4, "STYLES": 12, "TARGETS": 16, "REFERENCES": 3, "PARTS": 2}
    for name, value in few.items():
        monkeypatch.setattr(f"gpu.workloads.{name}", value)
    return found


def fake(monkeypatch: pytest.MonkeyPatch, op: Op, change: Callable[[Any], Any] = lambda result: result) -> None:
    """Gives the op a `cuda` cell that computes on the CPU, and then changes its result."""
    assert available()["cpu"] is None  # which loads it
    compute = op.cells["cpu"]
    monkeypatch.setitem(op.cells, "cuda", lambda *arguments: change(compute(*arguments)))


def row(op: Op, by: str = "cuda") -> Row:
    blend = op is BLEND
    return Row(GpuWorkload(op, None if blend else (32, 8, 4), torch.float32, None if blend else 5), by)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_a_right_result_is_timed(op: Op, records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch):
    fake(monkeypatch, op)
    timings.gpu_time("a", row(op))
    (entry,) = records
    cost = op.cost(*row(op).workload.make("cpu").values())
    assert (entry["kind"], entry["implementation"], entry["p50"], entry["best"]) == ("timing", "cuda", 2.0, 2.0)
    assert (entry["bytes"], entry["copy"], entry["includes_host"]) == (cost.bytes, 10.0, False)
    assert entry["floor"] == cost.bytes / 10 and entry["to_floor"] == pytest.approx(2 / (cost.bytes / 10))


def last_label(result: Any) -> Any:
    labels, *rest = result
    labels = labels.clone()
    labels.view(-1)[-labels.numel() // 8 :] += 1
    return labels % 5, *rest


def of_many(result: Any) -> Any:
    """Wrong sums, but only where there are more images than are checked against the reference."""
    labels, sums, *rest = result
    return labels, sums * (1 if labels.shape[1] <= 16 else 1.01), *rest


class Unsteady:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self, result: Any) -> Any:
        self.times += 1
        return result[0], result[1] * (1 + 1e-6 * self.times)


@pytest.mark.parametrize(
    "op, change, message",
    [
        (ASSIGN, last_label, "labels are not of the nearest centroid"),
        (LLOYD_STEP, of_many, "output 1 of lloyd_step on all images is not that of its parts"),
        (ASSIGN, Unsteady(), "cuda gives other bits when assign .* is repeated"),
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


def test_the_host_time_is_over_that_of_one_op(records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch):
    seconds = iter([9.0, 2.0] * 3)
    monkeypatch.setattr(timings, "host_seconds", lambda call: call() is None or next(seconds))
    timings.host_time("blend", "cpu")
    (entry,) = records
    assert (entry["p50"], entry["peer_p50"], entry["over_peer"], entry["peer"]) == (9.0, 2.0, 7.0, "torch.lerp")


def test_images_beyond_2_31_must_give_what_they_give_alone(
    records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    monkeypatch.setattr(timings, "BEYOND", 20)
    monkeypatch.setattr(timings, "KEY_WORKLOADS", (row(LLOYD_STEP).workload,))
    fake(monkeypatch, CONTRIBUTION)
    fake(monkeypatch, ASSIGN)
    timings.check_beyond("cuda")
    fake(monkeypatch, ASSIGN, lambda result: last_label(result) if len(result[0]) > 2 else result)
    with pytest.raises(WrongResult, match="other results beyond 2\\^31"):
        timings.check_beyond("cuda")


def test_smoke_verifies(records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(smoke, "DEVICE", "cpu")
    monkeypatch.setattr(smoke, "MAIN", (1, 8, 4))
    monkeypatch.setattr(smoke, "images", lambda: 3)
    monkeypatch.setattr(smoke, "ROWS", {"a": (ASSIGN, "cuda", torch.float32)})
    fake(monkeypatch, ASSIGN)
    smoke.measure("a")
    assert records == [{"kind": "smoke", "row": "a"}]
    fake(monkeypatch, ASSIGN, last_label)
    with pytest.raises(WrongResult):
        smoke.measure("a")


@pytest.mark.parametrize(
    "logs, status",
    [
        (["a::b PASSED"], 0),
        (["a::b PASSED", "a::c FAILED"], 1),
        (["a::b PASSED", "a::c ERROR"], 1),
        (["collected 3 items"], 1),
    ],
)
def test_tests_pass_if_some_pass_and_none_fails(
    logs: list[str], status: int, records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    monkeypatch.setattr(stage_tests, "missing", list)
    assert stage_tests.judge([Ended(str(i), 0, log) for i, log in enumerate(logs)]) == status
    cut = stage_tests.judge([*(Ended(str(i), 0, log) for i, log in enumerate(logs)), Ended("x", None, "")])
    assert cut == (stage_tests.CUT if status == 0 else 1)


def test_shares_hold_every_test_once():
    import conftest

    class Config:
        hook = type("Hook", (), {"pytest_deselected": staticmethod(lambda items: None)})

        def __init__(self, share: str, first: str) -> None:
            self.options = {"--share": share, "--first": first}

        def getoption(self, name: str) -> str:
            return self.options[name]

    class Item:
        def __init__(self, nodeid: str) -> None:
            self.nodeid = nodeid

    every = [Item(f"test_{'ab'[i % 2]}[{'cuda' if i % 4 < 2 else 'triton'}-{i}]") for i in range(103)]
    shares = []
    for share in range(1, 17):
        items = list(every)
        conftest.pytest_collection_modifyitems(Config(f"{share}/16", "test_b,test_a"), items)
        names = [item.nodeid for item in items]
        assert names == sorted(names, key=lambda name: "test_a" in name)
        assert {"cuda" in name for name in names} == {True, False}
        shares += names
    assert sorted(shares) == sorted(item.nodeid for item in every)
