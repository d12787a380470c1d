# SPDX-License-Identifier: Apache-2.0
"""What the measured figures rest on: percentiles, floors, refusal of wrong results, records, README's table."""

from __future__ import annotations

import json
import random
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import provenance
import pytest
import record
from timing import Candidate, Figure, Times, WrongResult, figure, floor, percentile, race
from workloads import WORKLOADS

from stylefast.ops import LLOYD_STEP
from stylefast.ops.op import Cost

FIGURE = Figure("lloyd_step", "2x3x4x4", 8, 2, 1.0, 1.1, 1.2, 1.3, 40, 50, "read", 0.5, 2.0, 2.1, "torch", 4.0, 4.1)


def test_readme_shows_the_newest_record_of_every_figure():
    readme = (provenance.ROOT / "README.md").read_text()
    assert record.with_figures(readme, record.newest()) == readme


def test_percentiles_by_hand():
    assert [percentile([5, 1, 4, 2, 3, 6], p) for p in (0, 20, 50, 80, 100)] == [1, 2, 3.5, 5, 6]
    assert percentile([7], 80) == 7
    assert percentile([1, 2], 20) == pytest.approx(1.2)


def test_percentiles_are_numpys():
    values = [random.Random(0).random() for _ in range(37)]
    for p in (0, 3, 20, 50, 80, 99, 100):
        assert percentile(values, p) == pytest.approx(np.percentile(values, p))


def test_floor_by_hand():
    cost = Cost(bytes=100, flops=30)
    assert floor(cost, bandwidth=50, peak=10) == 3  # arithmetic: 2 s of memory, 3 of multiply-adds
    assert floor(cost, bandwidth=20, peak=10) == 5  # memory


def test_figure_by_hand():
    workload = next(w for w in WORKLOADS if w.op is LLOYD_STEP and w.k == 8)
    op = replace(LLOYD_STEP, cost=lambda *_: Cost(bytes=120, flops=30), fake=lambda *_: ())
    times = Times(
        {"a": [30.0, 20.0, 90.0], "ours": [12.0, 10.0, 11.0], "b": [40.0, 50.0, 60.0]},
        {"read": [20.0, 30.0, 24.0], "stream": [1.0, 1.0, 1.0], "copy": [1.0, 1.0, 1.0], "fma": [15.0, 5.0, 10.0]},
    )
    got = figure(replace(workload, op=op), 2, {}, times)
    assert (got.op, got.workload, got.k, got.threads) == ("lloyd_step", "64x512x32x32", 8, 2)
    assert (got.best, got.p20, got.p50, got.p80) == (10, pytest.approx(10.4), 11, pytest.approx(11.6))
    assert (got.bytes, got.flops, got.limit, got.floor) == (120, 30, "read", 4)  # 120 / 30, at the best rate
    assert (got.to_floor, got.median_to_floor) == (2.5, 11 / 5)  # 120 / 24, at the median rate
    assert (got.peer, got.to_peer, got.median_to_peer) == ("a", 2, pytest.approx(30 / 11))
    assert got.peers == {"a": 2, "b": 4}
    alone = figure(replace(workload, op=op), 2, {}, Times({"ours": [8.0]}, times.rates), variant=" alone")
    assert (alone.workload, alone.to_floor, alone.peer, alone.to_peer, alone.peers) == (
        "64x512x32x32 alone", 2, None, None, {},
    )  # fmt: skip


class Counted:
    """A call that counts, and a judge of its result."""

    def __init__(self, right: bool = True) -> None:
        self.calls, self.right = 0, right

    def __call__(self) -> float:
        self.calls += 1
        return 1.0

    def verify(self, result: float) -> None:
        if not self.right:
            raise WrongResult("off by 3")


def test_a_wrong_result_is_not_timed_and_neither_is_any_other():
    good, liar, probe = Counted(), Counted(right=False), Counted()
    candidates = {"ours": Candidate(good, good.verify), "peer": Candidate(liar, liar.verify)}
    with pytest.raises(WrongResult, match="^peer: off by 3; nothing is timed$"):
        race(candidates, {"read": probe}, rounds=5)
    assert (good.calls, liar.calls, probe.calls) == (1, 1, 0)


def test_a_race_takes_turns():
    order: list[str] = []
    candidates = {name: Candidate(lambda name=name: order.append(name), lambda _: None) for name in ("a", "b")}
    times = race(candidates, {"read": lambda: order.append("read") or 5.0}, rounds=3)
    assert order == ["a", "b", *3 * ["a", "b", "read"]]
    assert {name: len(values) for name, values in times.seconds.items()} == {"a": 3, "b": 3}
    assert times.rates == {"read": [5.0, 5.0, 5.0]} and all(t >= 0 for t in times.seconds["a"])


def test_records_hold_the_figure_and_where_it_came_from(tmp_path: Path):
    record.append(FIGURE, tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == f"{provenance.machine()}.jsonl" and set(path.stem) <= set(
        "abcdefghijklmnopqrstuvwxyz0123456789-"
    )
    entry = json.loads(path.read_text())
    assert {name: entry.pop(name) for name in asdict(FIGURE)} == asdict(FIGURE)
    assert set(entry) == {
        "date", "processor", "cores", "commit", "dirty", "sources", "python", "torch", "stylefast", "instruction_set",
    }  # fmt: skip


@pytest.fixture
def copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A source tree of its own, which records describe."""
    (tmp_path / "stylefast").mkdir()
    (tmp_path / "stylefast" / "a.py").write_text("a = 1\n")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    provenance.context.cache_clear()
    yield tmp_path
    provenance.context.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_outside_a_repository_a_record_has_no_commit(copy: Path):
    context = provenance.context()
    assert (context["commit"], context["dirty"]) == (None, None) and len(context["sources"]) == 12


def test_a_tree_inside_another_repository_has_no_commit(copy: Path, monkeypatch: pytest.MonkeyPatch):
    git(copy, "init", "-q")
    git(copy, "add", ".")
    git(copy, "commit", "-qm", "a")
    monkeypatch.setattr(provenance, "ROOT", copy / "stylefast")
    assert provenance.context()["commit"] is None


def test_without_git_a_record_has_no_commit(copy: Path, monkeypatch: pytest.MonkeyPatch):
    git(copy, "init", "-q")
    monkeypatch.setenv("PATH", str(copy))
    assert provenance.context()["commit"] is None


def test_a_record_names_the_commit_and_whether_it_was_modified(copy: Path):
    git(copy, "init", "-q")
    git(copy, "add", ".")
    git(copy, "commit", "-qm", "a")
    before = provenance.context()
    assert (before["commit"], before["dirty"]) == (git(copy, "rev-parse", "--short", "HEAD"), False)
    (copy / "stylefast" / "a.py").write_text("a = 2\n")
    provenance.context.cache_clear()
    after = provenance.context()
    assert after["commit"] == before["commit"] and after["dirty"] and after["sources"] != before["sources"]


def test_the_last_record_of_a_figure_is_the_newest(tmp_path: Path):
    old, other, new = FIGURE, replace(FIGURE, k=16), replace(FIGURE, to_floor=1.5)
    for each in (old, other, replace(FIGURE, threads=1), new):
        record.append(each, tmp_path)
    found = [(e["k"], e["threads"], e["to_floor"]) for e in record.newest(tmp_path)]
    assert found == [(8, 2, 1.5), (16, 2, 2.0), (8, 1, 2.0)]


def test_without_a_record_there_is_no_table(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no record in .*: run `make bench`"):
        record.newest(tmp_path)


def test_table_by_hand():
    where = {"processor": "Abacus", "cores": 4, "torch": "2.13.0", "instruction_set": "avx512"}
    figures = [
        FIGURE,
        replace(FIGURE, k=32, peer="NumPy"),
        replace(FIGURE, op="blend", k=None, peer=None, to_peer=None),
    ]
    entries: list[dict[str, Any]] = [where | asdict(each) for each in figures]
    caption = "torch 2.13.0, avx512. Cells: times the best peer (times the floor).\n"
    assert record.table([*entries, entries[0] | {"threads": 1}]).splitlines() == [
        *f"Abacus, 4 cores, 2 threads, {caption}".split("\n"),
        "| op | on | best peer | K = 8 | 16 | 32 | 64 | 128 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| `lloyd_step` | 2x3x4x4 | torch; NumPy | 4.0x (2.00) |  | 4.0x (2.00) |  |  |",
        "| `blend` | 2x3x4x4 |  | (2.00) |  |  |  |  |",
        "",
        *f"Abacus, 4 cores, 1 threads, {caption}".split("\n"),
        "| op | on | best peer | K = 8 | 16 | 32 | 64 | 128 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| `lloyd_step` | 2x3x4x4 | torch | 4.0x (2.00) |  |  |  |  |",
    ]


def test_readme_keeps_what_is_around_the_table():
    assert record.with_table(f"a\n{record.BEGIN}\nold\n{record.END}\nb\n", "new") == (
        f"a\n{record.BEGIN}\nnew\n{record.END}\nb\n"
    )


@pytest.mark.parametrize("readme", ["", record.BEGIN, record.END + record.BEGIN, 2 * record.BEGIN + record.END])
def test_readme_without_its_markers_is_refused(readme: str):
    with pytest.raises(ValueError, match="README.md must hold"):
        record.with_table(readme, "new")


def test_a_figure_without_a_floor_or_a_peer_shows_what_it_has():
    fit = Figure("SphericalKMeans.fit", "all", None, 2, 1.0, 1.1, 1.2, 1.3, peer="a", to_peer=7.0, median_to_peer=6.5)
    assert record.line(fit).split() == ["SphericalKMeans.fit", "all", "7.0x", "(6.5x)", "a"]
    assert record.line(replace(FIGURE, peer=None)).endswith("2.00 x floor (2.10)")
    where = {"processor": "Abacus", "cores": 4, "torch": "2.13.0", "instruction_set": "avx512"}
    assert record.table([where | asdict(fit)]).endswith("| `SphericalKMeans.fit` | all | a | 7.0x |  |  |  |  |")
