# SPDX-License-Identifier: Apache-2.0
"""Tests of percentiles, floors and figures, and of the refusal to time wrong results."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import timing
import torch
from small_workloads import arguments
from timing import Candidate, Times, WrongResult, bound, comparison, figure, floor, percentile, race, serial_floor
from workloads import WORKLOADS

from stylefast.ops import BLEND, CONTRIBUTION, LLOYD_STEP
from stylefast.ops.op import Cost


def test_percentiles_by_hand():
    assert [percentile([5, 1, 4, 2, 3, 6], p) for p in (0, 20, 50, 80, 100)] == [1, 2, 3.5, 5, 6]
    assert percentile([7], 80) == 7
    assert percentile([1, 2], 20) == pytest.approx(1.2)


def test_percentiles_equal_those_of_numpy():
    values = [random.Random(0).random() for _ in range(37)]
    for p in (0, 3, 20, 50, 80, 99, 100):
        assert percentile(values, p) == pytest.approx(np.percentile(values, p))


def test_floor_by_hand():
    cost = Cost(bytes=100, flops=30)
    assert floor(cost, bandwidth=50, peak=10) == 3  # 2 s of memory traffic, 3 s of arithmetic
    assert floor(cost, bandwidth=20, peak=10) == 5  # 5 s of memory traffic, 3 s of arithmetic
    assert serial_floor(cost, bandwidth=50, peak=10) == 5 and serial_floor(cost, bandwidth=20, peak=10) == 8


def test_the_bound_follows_from_the_bytes_written():
    assert bound(BLEND, arguments("pairs")) == "stream"
    rows = dict.fromkeys(("target", "reference", "query"), torch.zeros(1, 256))
    edits = torch.zeros(50, 3, dtype=torch.int64)
    assert bound(BLEND, {**rows, "edits": edits, "strength": None}) == "store"
    assert bound(CONTRIBUTION, arguments("pooled")) == "read"


def test_figure_by_hand():
    workload = next(w for w in WORKLOADS if w.op is LLOYD_STEP and w.k == 8)
    op = replace(LLOYD_STEP, cost=lambda *_: Cost(bytes=120, flops=30), fake=lambda *_: ())
    times = Times(
        {"a": [30.0, 20.0, 90.0], "ours": [12.0, 10.0, 11.0], "b": [40.0, 50.0, 60.0]},
        {"read": [20.0, 30.0, 24.0], "stream": [1.0, 1.0, 1.0], "copy": [1.0, 1.0, 1.0], "fma": [15.0, 5.0, 10.0]},
    )
    result = figure(replace(workload, op=op), 2, {}, times)
    assert (result.op, result.workload, result.k, result.threads) == ("lloyd_step", "64x512x32x32", 8, 2)
    assert (result.best, result.p20, result.p50, result.p80) == (10, pytest.approx(10.4), 11, pytest.approx(11.6))
    assert (result.bytes, result.flops, result.limit, result.floor) == (120, 30, "read", 4)  # 120 / 30, the best rate
    assert (result.to_floor, result.median_to_floor) == (2.5, 11 / 5)  # 120 / 24, the median rate
    assert (result.peer, result.to_peer, result.median_to_peer) == ("a", 2, pytest.approx(30 / 11))
    assert result.peers == {"a": 2, "b": 4}
    assert (result.serial_floor, result.to_serial_floor) == (6, 10 / 6)  # 120 / 30 + 30 / 15, the best rates
    assert (result.median_to_serial_floor, result.to_part) == (11 / 8, {})  # 120 / 24 + 30 / 10, the median rates
    part = figure(replace(workload, op=op), 2, {}, times, parts=["a"])
    assert (part.peer, part.to_peer, part.peers, part.to_part) == ("b", 4, {"b": 4}, {"a": 0.5})
    alone = figure(replace(workload, op=op), 2, {}, Times({"ours": [8.0]}, times.rates), variant=" alone")
    assert (alone.workload, alone.to_floor, alone.peer, alone.to_peer, alone.peers) == (
        "64x512x32x32 alone", 2, None, None, {},
    )  # fmt: skip


def test_comparison_by_hand():
    result = comparison("a", "w", None, 2, [12.0, 10.0, 11.0], "b", [30.0, 20.0, 90.0])
    assert (result.best, result.p50, result.to_floor) == (10, 11, None)
    assert (result.peer, result.to_peer, result.median_to_peer) == ("b", 2, pytest.approx(30 / 11))
    assert result.peers == {"b": 2}


class Counted:
    """A candidate that counts its calls; `right` says whether its result passes verification."""

    def __init__(self, right: bool = True) -> None:
        self.calls, self.right = 0, right

    def __call__(self) -> float:
        self.calls += 1
        return 1.0

    def verify(self, result: float) -> None:
        if not self.right:
            raise WrongResult("off by 3")


def test_one_wrong_result_prevents_all_timing():
    right, faulty, probe = Counted(), Counted(right=False), Counted()
    candidates = {"ours": Candidate(right, right.verify), "peer": Candidate(faulty, faulty.verify)}
    with pytest.raises(WrongResult, match="^peer: off by 3; nothing is timed$"):
        race(candidates, {"read": probe}, rounds=5)
    assert (right.calls, faulty.calls, probe.calls) == (1, 1, 0)


def test_the_candidates_of_a_race_take_turns():
    order: list[str] = []
    candidates = {name: Candidate(lambda name=name: order.append(name), lambda _: None) for name in ("a", "b")}
    times = race(candidates, {"read": lambda: order.append("read") or 5.0}, rounds=3)
    assert order == ["a", "b", *3 * ["a", "b", "read"]]
    assert {name: len(values) for name, values in times.seconds.items()} == {"a": 3, "b": 3}
    assert times.rates == {"read": [5.0, 5.0, 5.0]} and all(t >= 0 for t in times.seconds["a"])


@pytest.mark.parametrize("rounds, expected", [(3, 3), (9, timing.MIN_ROUNDS)])
def test_without_time_a_race_has_few_rounds(rounds: int, expected: int):
    counted = Counted()
    times = race({"a": Candidate(counted, counted.verify)}, {}, rounds, seconds=0)
    assert len(times.seconds["a"]) == expected == counted.calls - 1
