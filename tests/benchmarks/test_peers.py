# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' own parts: workloads, the judge of results, others' formulations, the limits, the command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import bench_calls
import limits
import numpy as np
import peers
import pytest
import torch
import workloads
from commands import run
from timing import WrongResult, bound
from torch import Tensor
from typer.testing import CliRunner
from verify import outputs, verify, verify_centroids

from stylefast.cli import app as cli
from stylefast.ops import ASSIGN, ASSIGN_CONTRIBUTION, BLEND, CONTRIBUTION, LLOYD_STEP, OPS
from stylefast.ops.op import Op

SMALL, K = (3, 20, 8), 5


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Small arguments of every op, made as the workloads'."""
    monkeypatch.setattr(workloads, "STYLES", 12)
    monkeypatch.setattr(workloads, "EDITS", (2, 3))
    assigning = (LLOYD_STEP, ASSIGN, ASSIGN_CONTRIBUTION)
    made = {op.name: workloads.clustered(op, SMALL, K, torch.float32, "nchw") for op in assigning}
    made[CONTRIBUTION.name] = workloads.labelled(SMALL, K, torch.float32, "nchw")
    made["pooled"] = workloads.labelled((1, 4, 64), K, torch.float32, "nchw")
    made[BLEND.name] = workloads.edited(True, torch.float32)
    made["pairs"] = workloads.edited(False, torch.float32)
    return made


def test_every_op_has_workloads_and_no_two_are_of_one_name():
    assert {w.op.name for w in workloads.WORKLOADS} == {op.name for op in OPS}
    assert len({w.id for w in workloads.WORKLOADS}) == len(workloads.WORKLOADS)


def test_inputs_are_the_same_every_time_and_labels_lie_in_regions():
    (x, c, labels), again = (workloads.activations(2, 6, 32, 7, torch.float32, "nchw") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip((x, c, labels), again, strict=True))
    assert labels.unique().tolist() == list(range(7))
    assert (labels[:, 1:] == labels[:, :-1]).float().mean() > 0.7  # by chance 0.14
    assert torch.equal(torch.einsum("nchw,kc->nkhw", x, c).argmax(1)[0, :1, :1], labels[0, :1, :1].long())


def test_layouts_hold_the_same_values():
    plain, unaligned, last = (
        workloads.activations(2, 6, 8, 3, torch.float32, layout)[0] for layout in ("nchw", "unaligned", "channels_last")
    )
    assert torch.equal(plain, unaligned) and torch.equal(plain, last)
    assert (plain.data_ptr() % 16, unaligned.data_ptr() % 16) == (0, 4)
    assert last.is_contiguous(memory_format=torch.channels_last) and not last.is_contiguous()
    half = workloads.activations(2, 6, 8, 3, torch.bfloat16, "unaligned")[0]
    assert half.data_ptr() % 16 == 4 and half.dtype == torch.bfloat16


def test_edits_gathered_and_in_pairs_are_the_same(inputs: dict[str, dict[str, Any]]):
    gathered, pairs = (BLEND.public(**inputs[name]) for name in (BLEND.name, "pairs"))
    assert gathered.shape == (6, 12) and torch.equal(gathered, pairs)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_right_results_pass_and_planted_faults_do_not(op: Op, inputs: dict[str, dict[str, Any]]):
    given = inputs[op.name]
    right = outputs(op.public(**given))
    verify(op, given, right)
    for place, output in enumerate(right):
        for wrong in planted(output):
            with pytest.raises(WrongResult):
                verify(op, given, (*right[:place], wrong, *right[place + 1 :]))


def planted(output: Tensor) -> Iterator[Tensor]:
    """One element changed, NaN, or missing."""
    changes = (1e-3 * output.abs().max(), torch.nan) if output.is_floating_point() else (1, -9)
    for change in changes:
        wrong = output.clone()
        wrong.view(-1)[-1:] += change
        yield wrong
    yield output.flatten()[1:]


def test_planted_centroids(inputs: dict[str, dict[str, Any]]):
    given = inputs["lloyd_step"]
    right = torch.nn.functional.normalize(LLOYD_STEP.public(**given).sums[0], dim=1)
    verify_centroids(given, right)
    with pytest.raises(WrongResult):
        verify_centroids(given, right.roll(1, 0))


@pytest.mark.parametrize("name", [*(op.name for op in OPS), "pooled", "pairs"])
def test_others_formulations_are_right(
    name: str, inputs: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setitem(sys.modules, "faiss", None)
    op = {"pooled": CONTRIBUTION, "pairs": BLEND}.get(name) or next(op for op in OPS if op.name == name)
    calls = peers.PEERS[op.name](inputs[name], 2)
    assert len(calls) >= 2
    for call in calls.values():
        verify(op, inputs[name], call())


def test_what_bounds_an_op(inputs: dict[str, dict[str, Any]]):
    assert bound(BLEND, inputs["pairs"]) == "stream"
    rows = dict.fromkeys(("target", "reference", "query"), torch.zeros(1, 256))
    edits = torch.zeros(50, 3, dtype=torch.int64)
    assert bound(BLEND, {**rows, "edits": edits, "strength": None}) == "store"
    assert bound(CONTRIBUTION, inputs["pooled"]) == "read"


@pytest.mark.parametrize("kind, name", list(enumerate(limits.Limits._fields)))
def test_copies_copy_and_nothing_else_writes(kind: int, name: str):
    def row(value: float) -> np.ndarray:
        memory = np.full(4096 + 32, value, np.float32)
        return memory[-memory.ctypes.data % 64 // 4 :][:4096]

    source, target = row(1.0), row(2.0)
    source[:] = np.arange(4096)
    seconds = limits.library().run_limit(kind, 2, None, source.ctypes.data, target.ctypes.data, 4096)
    assert seconds > 0 and np.array_equal(source, np.arange(4096))
    written = {"copy": source, "stream": source, "store": row(1.0)}
    assert np.array_equal(target, written.get(name, row(2.0)))


def test_limits_are_those_of_a_processor(monkeypatch: pytest.MonkeyPatch):
    assert limits.vector_bits() in (128, 256, 512)
    assert limits.library().turn_flops() == 2 * 12 * limits.vector_bits() / 32
    monkeypatch.setattr(limits, "TURNS", 20_000)
    measured = limits.measure(1, rounds=2)
    assert all(1e8 < bandwidth < 1e12 for bandwidth in measured[:4])
    assert 1e9 < measured.fma < 1e12
    with pytest.raises(ValueError, match="threads must be at most the processors"):
        limits.probes(10_000)


def test_small_calls_are_verified_before_they_are_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_calls, "CALLS", 2)
    for workload in workloads.SMALL_CALLS:
        figure = bench_calls.small(workload, 2, 1)
        assert figure.peer == "one torch." + {"blend": "lerp", "contribution": "square"}.get(figure.op, "matmul")
        wrong = replace(workload.op, public=partial(off_by_one, workload.op.public))
        with pytest.raises(WrongResult):
            bench_calls.small(replace(workload, op=wrong), 2, 1)


def off_by_one(public: Callable[..., Any], **arguments: Any) -> tuple[Tensor, ...]:
    return tuple(x + 1 for x in outputs(public(**arguments)))


def test_instruction_sets_run_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch):
    def other(command: list[str], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, "[6.0, 8.0]" if env["STYLEFAST_ISA"] == "portable" else "[2.0]")

    monkeypatch.setattr(subprocess, "run", other)
    assert bench_calls.instruction_sets(1).to_peer == 3.0


def test_command_runs_the_benchmarks_of_the_checkout(monkeypatch: pytest.MonkeyPatch):
    seen: list[list[str]] = []
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(subprocess, "run", lambda command: seen.append(command) or done)
    run("bench", "--rounds", 3, "--only", "blend", "--record")
    script = str(Path(peers.__file__).resolve())
    assert seen == [[sys.executable, script, "--rounds", "3", "--only", "blend", "--record"]]


def test_command_passes_on_failure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subprocess, "run", lambda command: subprocess.CompletedProcess([], 3))
    assert CliRunner().invoke(cli.app, ["bench"]).exit_code == 3


def test_command_without_the_benchmarks_says_where_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "stylefast" / "cli" / "app.py"))
    monkeypatch.setattr(sys, "argv", ["stylefast", "bench"])
    with pytest.raises(SystemExit, match="^stylefast: the benchmarks are in the source repository"):
        cli.main()
