# SPDX-License-Identifier: Apache-2.0
"""Tests of the timer of the GPU stages on a simulated GPU, of their records, and of a machine without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gpu import device, statuses
from provenance import ROOT


class FakeEvent:
    """An event of a simulated GPU whose calls take 3 ms.

    `sleeping` yields, for each query, whether the GPU still sleeps after the last launch.
    """

    sleeping: Any = iter(())
    count = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.begins, FakeEvent.count = FakeEvent.count % 2 == 0, FakeEvent.count + 1

    def record(self) -> None:
        ORDER.append("record")

    def query(self) -> bool:
        assert self.begins
        return not next(FakeEvent.sleeping)

    def synchronize(self) -> None:
        ORDER.append("wait")

    def elapsed_time(self, end: FakeEvent) -> float:
        return 3.0


ORDER: list[Any] = []


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> device.Timer:
    ORDER.clear()
    monkeypatch.setattr(device, "DEVICE", "cpu")
    monkeypatch.setattr(device, "FLUSH", 16)
    monkeypatch.setattr(device, "cuda", SimpleNamespace(Event=FakeEvent, _sleep=ORDER.append))
    timer = device.Timer()
    timer._flushed = SimpleNamespace(zero_=lambda: ORDER.append("flush"))  # type: ignore[assignment]
    return timer


def test_launches_are_not_timed(timer: device.Timer):
    FakeEvent.sleeping = iter([True])
    assert timer.seconds(lambda: ORDER.append("call")) == 0.003
    assert ORDER == ["flush", device.CYCLES, "record", "call", "record", "wait"] and not timer.late


def test_the_flush_is_several_times_the_largest_l2():
    assert device.FLUSH >= 2 * 126 * 2**20  # B200


def test_the_gpu_sleeps_longer_for_a_slow_host(timer: device.Timer):
    FakeEvent.sleeping = iter([False, False, True])
    assert timer.seconds(lambda: ORDER.append("call")) == 0.003
    assert [entry for entry in ORDER if isinstance(entry, int)] == [device.CYCLES * factor for factor in (1, 2, 4)]
    assert not timer.late


def test_a_call_that_waits_for_the_gpu_is_marked_late(timer: device.Timer):
    FakeEvent.sleeping = iter([False] * 20)
    assert timer.seconds(lambda: None) == 0.003 and timer.late
    assert timer.cycles == device.MAX_CYCLES


def test_a_record_holds_its_provenance_and_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(device, "machine", lambda: {"device": "Abacus", "driver": "1.2"})
    device.write("timing", op="blend", p50=0.5)
    device.write("failure", row="a", error="b")
    first, second = map(json.loads, (tmp_path / "records.jsonl").read_text().splitlines())
    assert {"commit", "dirty", "sources", "torch", "python", "date"} <= first.keys() and not first["rehearsal"]
    assert (first["kind"], first["op"], first["p50"], first["device"]) == ("timing", "blend", 0.5, "Abacus")
    assert (second["kind"], second["row"], second["error"]) == ("failure", "a", "b")
    monkeypatch.delenv("OUT")
    device.write("timing")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_stage_without_a_gpu_says_so():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"}
    process = subprocess.run([sys.executable, "-m", "gpu.facts"], env=environment, capture_output=True, text=True)
    assert process.returncode == statuses.NO_GPU
    assert process.stdout == "make gpu needs an NVIDIA GPU that torch can use\n"
