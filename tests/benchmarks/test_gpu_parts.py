# SPDX-License-Identifier: Apache-2.0
"""What the GPU stages are made of: workloads, timer, rivals, the readers of other tools' output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gpu import device, profile, rivals, sanitizers, smoke, timings
from gpu import tests as stage_tests
from gpu.processes import Ended
from gpu.workloads import GPU_WORKLOADS, KEY_WORKLOADS, GpuWorkload
from provenance import ROOT
from verify import verify

from stylefast.core.dtypes import DTYPES
from stylefast.ops import BLEND, CONTRIBUTION, LLOYD_STEP, OPS


def test_the_key_timings_are_the_eight_asked_for():
    names = [f"{workload.op.name} {workload.name}" for workload in KEY_WORKLOADS]
    assert names == [
        "lloyd_step 4096x512x32x32 bfloat16 K=32",
        "lloyd_step 4096x512x32x32 float32 K=32",
        "lloyd_step 4096x512x32x32 bfloat16 K=64",
        "assign_contribution 4096x512x32x32 bfloat16 K=32",
        "contribution 4096x512x32x32 bfloat16 K=32",
        "contribution 64x64x512x512 bfloat16 K=32",
        "blend 20480x9088 float32 gathered",
        "blend 20480x9088 float32 pairs",
    ]
    assert set(names) <= {f"{workload.op.name} {workload.name}" for workload in GPU_WORKLOADS}


def test_smoke_covers_every_op_dtype_and_backend():
    rows = {(op.name, backend, dtype) for op, backend, dtype in smoke.ROWS.values()}
    assert rows == {(op.name, backend, dtype) for op in OPS for backend in ("cuda", "triton") for dtype in DTYPES}


def test_pairs_and_gathered_edits_make_as_many_rows():
    shapes = [
        BLEND.fake(*GpuWorkload(BLEND, None, torch.float32, gathered=gathered).make("meta").values()).shape
        for gathered in (True, False)
    ]
    assert shapes[0] == shapes[1] == (20480, 9088)


def test_a_key_row_of_every_backend_and_a_host_row_of_every_op(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(timings, "backends", lambda: ["cuda", "triton"])
    key, rest = list(timings.plan("key")), list(timings.plan("rest"))
    assert len(key) == 2 * (len(KEY_WORKLOADS) + len(OPS)) and not set(key) & set(rest)
    ours = [name for name in (*key, *rest) if name.endswith(("| cuda", "| triton"))]
    assert len(ours) == 2 * (len(GPU_WORKLOADS) + len(OPS) + 1)
    by = [name.rsplit(" | ", 1)[1] for name in rest[2:]]
    first, eager = len(KEY_WORKLOADS), by.count(rivals.EAGER)
    assert by[:first] == [rivals.EAGER] * first  # what key timings are compared with
    assert by[-eager:] == [rivals.COMPILED] * eager and by[first] == "cuda"
    assert [name.removeprefix("compile ") for name in timings.plan("compile")] == [n for n in key if "triton" in n]
    monkeypatch.setattr(timings, "backends", lambda: ["triton"])
    assert not any(name.endswith("| cuda") for stage in ("key", "rest") for name in timings.plan(stage))


class FakeEvent:
    """An event of a simulated GPU whose calls take 3 ms. `behind` tells, per call, whether the GPU still sleeps when
    everything is launched."""

    behind: Any = iter(())
    made = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.begins, FakeEvent.made = FakeEvent.made % 2 == 0, FakeEvent.made + 1

    def record(self) -> None:
        ORDER.append("record")

    def query(self) -> bool:
        assert self.begins
        return not next(FakeEvent.behind)

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
    FakeEvent.behind = iter([True])
    assert timer.seconds(lambda: ORDER.append("call")) == 0.003
    assert ORDER == ["flush", device.CYCLES, "record", "call", "record", "wait"] and not timer.late


def test_the_flush_is_several_times_the_largest_l2():
    assert device.FLUSH >= 2 * 126 * 2**20  # B200


def test_the_gpu_sleeps_longer_for_a_slow_host(timer: device.Timer):
    FakeEvent.behind = iter([False, False, True])
    assert timer.seconds(lambda: ORDER.append("call")) == 0.003
    assert [entry for entry in ORDER if isinstance(entry, int)] == [device.CYCLES * factor for factor in (1, 2, 4)]
    assert not timer.late


def test_a_call_that_waits_for_the_gpu_is_marked(timer: device.Timer):
    FakeEvent.behind = iter([False] * 20)
    assert timer.seconds(lambda: None) == 0.003 and timer.late
    assert timer.cycles == device.MAX_CYCLES


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("op, size", [(op, (3, 20, 4)) for op in OPS] + [(CONTRIBUTION, (2, 6, 16))])
def test_rivals_are_right(op: Any, size: tuple[int, int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    monkeypatch.setattr("gpu.workloads.GRID", 4)
    workload = GpuWorkload(op, None if op is BLEND else size, dtype, 5)
    few = {"STYLES": 12, "TARGETS": 2, "REFERENCES": 3, "PARTS": 2}
    for name, value in few.items():
        monkeypatch.setattr(f"gpu.workloads.{name}", value)
    inputs = workload.make("cpu")
    assert rivals.names(workload) == [rivals.EAGER, rivals.COMPILED]
    tolerance = 4 * torch.finfo(dtype).eps
    verify(op, inputs, rivals.call(workload, rivals.EAGER, inputs)(), tolerance)


def test_a_record_says_how_and_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
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


def test_what_has_no_rival():
    assert rivals.names(GpuWorkload(LLOYD_STEP, (3, 20, 4), torch.float32, 5, restarts=2)) == []
    assert rivals.names(GpuWorkload(LLOYD_STEP, (3, 20, 4), torch.float32, 5, features="standardized")) == []


CAUSES = ("long_scoreboard", "barrier", "wait", "math_pipe_throttle")
NCU = f"""==PROF== Connected to process 1
"ID","Kernel Name","gpu__time_duration.sum","lts__t_bytes.sum","launch__registers_per_thread","{
    '","'.join(f"{profile.STALL}{cause}_per_issue_active.ratio" for cause in CAUSES)
}"
"","","ns","byte","register/thread","inst","inst","inst","inst"
"0","lloyd_kernel<bf16>(int)","1,234,000","5e3","168","1.5","4.25","0.1","2"
"1","join_kernel","2000","","40","0","0","0","0"
"""


def test_counters_are_read_by_name():
    first, second = profile.counted(NCU)
    stalls = first.pop("stalls")
    assert first == {"kernel": "lloyd_kernel<bf16>(int)", "time": 1234000, "l2": 5000, "registers": 168}
    assert list(stalls.items()) == [("barrier", 4.25), ("math_pipe_throttle", 2), ("long_scoreboard", 1.5)]
    assert second == {"kernel": "join_kernel", "time": 2000, "registers": 40, "stalls": {}}


def test_refused_counters_are_none():
    assert list(profile.counted("==ERROR== ERR_NVGPUCTRPERM - no permission\n")) == []
    assert list(profile.counted("")) == []


CLEAN = {
    "memcheck": "========= COMPUTE-SANITIZER\na: called\n========= ERROR SUMMARY: 0 errors\n",
    "racecheck": "========= COMPUTE-SANITIZER\na: called\n"
    "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n",
}
INVALID = "========= COMPUTE-SANITIZER\n========= Invalid __global__ read of size 4 bytes\n=========     at f\n"
ENDED = "========= Error: process didn't terminate successfully\n========= Target application returned an error\n"
HAZARD = "========= Error: Race reported between Write access at f and Read access at g [8 hazards]\n"


@pytest.mark.parametrize(
    "name, status, log, expected",
    [
        ("memcheck: cuda", 0, CLEAN["memcheck"], "clean"),
        ("racecheck: cuda", 0, CLEAN["racecheck"], "clean"),
        ("memcheck: cuda", None, "========= COMPUTE-SANITIZER\na: called\n", "cut"),
        ("memcheck: cuda", 86, INVALID, "reports (1): Invalid __global__ read of size 4 bytes"),
        ("memcheck: cuda", None, INVALID, "reports (1): Invalid __global__ read of size 4 bytes"),
        ("racecheck: cuda", 0, CLEAN["racecheck"] + HAZARD, f"reports (1): {HAZARD[10:-1]}"),
        ("memcheck: cuda", 0, CLEAN["memcheck"].replace("a: called", ""), "nothing was called"),
        ("memcheck: cuda", 1, CLEAN["memcheck"], "ended with status 1"),
        ("memcheck: cuda", None, ENDED, "cut"),
        (sanitizers.PLANTED, 86, INVALID, "clean"),
        (sanitizers.PLANTED, 1, INVALID, "clean"),
        (sanitizers.PLANTED, 0, INVALID, "the planted fault was not reported"),
        (sanitizers.PLANTED, 0, CLEAN["memcheck"], "the planted fault was not reported"),
        (sanitizers.PLANTED, 86, CLEAN["memcheck"], "the planted fault was not reported"),
        (sanitizers.PLANTED, None, "", "the planted fault was not reported"),
    ],
)
def test_what_a_sanitizer_reports(name: str, status: int | None, log: str, expected: str):
    assert sanitizers.verdict(Ended(name, status, log)) == expected


PYTEST = """collecting ... collected 9 items / 5 deselected / 4 selected

tests/test_ops.py::test_agrees[a - b-cuda] PASSED [ 25%]
tests/test_ops.py::test_agrees[c-triton] FAILED [ 50%]
tests/test_ops.py::test_agrees[d-triton] SKIPPED (no) [ 75%]
tests/test_ops.py::test_agrees[e-triton] """


def test_outcomes_are_counted_also_of_a_cut_log():
    assert stage_tests.outcomes(PYTEST) == Counter(PASSED=1, FAILED=1, SKIPPED=1, selected=4)
    assert stage_tests.outcomes("collected 3 items\n")["selected"] == 3


@pytest.mark.parametrize(
    "status, log, failed",
    [
        (0, "a::b PASSED", False),
        (None, "a::b PASSED", False),
        (5, "", False),
        (1, "a::b FAILED", True),
        (None, "a::b FAILED", True),
        (-11, "a::b PASSED", True),
        (4, "ERROR: usage", True),
    ],
)
def test_a_crash_is_a_failure_and_the_end_of_time_is_not(status: int | None, log: str, failed: bool):
    assert stage_tests.has_failed(Ended("1/1", status, log)) == failed


def test_a_stage_without_a_gpu_says_so():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"}
    done = subprocess.run([sys.executable, "-m", "gpu.facts"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (device.NO_GPU, "make gpu needs an NVIDIA GPU that torch can use\n")
