# SPDX-License-Identifier: Apache-2.0
"""Plans with very many edits: memory and time before the first edit, and the edits that a folder lists."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from editors import editor_of
from jobs import files, grid, job, run
from networks import shared

from stylefast.core.checks import SEEDS
from stylefast.editing import Edit, Grid, Pairs, SeedLatents, Sequential, Simultaneous, StoredLatents
from stylefast.editing.listed import listed
from stylefast.editing.manifest import read_entries

MANY = range(3_000_000)


def every_seed() -> SeedLatents:
    return SeedLatents(shared("sg2"), SEEDS)


def walked(plan: Any, directory: Path) -> list[str]:
    """Names of the edits of a plan whose images a folder lists, found by a walk over the plan."""
    with read_entries(directory) as entries:
        return [plan.name(edit) for edit in plan if entries.find(f"{plan.name(edit)}.png") is not None]


@pytest.mark.parametrize("rows", [(MANY, [7]), ([7], MANY)], ids=["targets", "references"])
def test_the_first_edits_need_little_memory(rows: tuple[Any, Any]):
    plan = Grid(*(SeedLatents(shared("sg2"), seeds) for seeds in rows), ["nose", "eyes"])
    tracemalloc.start()
    try:
        first = next(plan.batches(2, (1, 2)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    row = (1, 0) if rows[0] is MANY else (0, 1)
    assert first == [Edit(*row, part, Sequential()) for part in ("nose", "eyes")]
    assert peak < 1 << 18


def test_a_grid_of_all_seeds_is_counted():
    plan = Grid(every_seed(), SeedLatents(shared("sg2"), [7]), "nose")
    editor_of("sg2").check(plan)
    assert len(plan) == 1 << 32
    assert plan.count(3, (0, 1)) == 1 << 32 and sum(plan.count(3, (i, 2)) for i in range(2)) == 1 << 32


def test_a_grid_of_too_many_edits_is_refused():
    with pytest.raises(ValueError, match=r"must give fewer than 2\*\*63 edits, got 18,446,744,073,709,551,616"):
        editor_of("sg2").check(Grid(every_seed(), every_seed(), "nose"))


def test_an_edit_is_found_from_its_name():
    latents = shared("sg2").latents([1, 2])
    targets = StoredLatents(shared("sg2"), latents, names=["a_b", " nose"])
    queries = [Sequential(), Sequential(1.0), Simultaneous(2.0)]
    plan = Grid(targets, SeedLatents(shared("sg2"), [7, 8]), ["nose", "nose_tip", "tip"], queries, strength=0.5)
    assert [plan.find(plan.name(edit)) for edit in plan] == list(plan)
    name = plan.name(next(iter(plan)))
    for other in ("", "nose", name[:-1], name.replace("a-b", "0"), name.replace("seed0007", "7"), f"{name}_"):
        assert plan.find(other) is None
    assert plan.find(name.replace("seed0007", "seed0009")) is None


def test_listed_edits_are_those_of_a_walk(tmp_path: Path):
    run(tmp_path, grid((1, 2, 3), (7, 8)))
    lines = "".join(f"{target},8,nose,2\n" for target in (9, 3, 1))
    (tmp_path / "pairs.csv").write_text(f"target,reference,part,epsilon\n{lines}")
    pairs = Pairs(tmp_path / "pairs.csv", every_seed(), every_seed())
    editor_of("sg2").check(pairs)
    for plan, n in ((grid((2, 9), (8,)), 4), (grid(tuple(range(2, 40)), (8, 9)), 8), (pairs, 2)):
        with read_entries(tmp_path) as entries:
            found = [(plan.name(edit), entry.fields["file"]) for edit, entry in listed(plan, entries, "png")]
            assert all(file == f"{name}.png" for name, file in found)
            assert sorted(name for name, _ in found) == sorted(walked(plan, tmp_path)) and len(found) == n
            assert not [*listed(plan, entries, "jpg")]


def test_listing_does_not_walk_a_large_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(tmp_path, grid((1, 2), (7,), "nose", Sequential()))
    plan = Grid(every_seed(), SeedLatents(shared("sg2"), [7]), "nose")
    large = job(tmp_path, plan)
    large.check()
    monkeypatch.setattr(Grid, "__iter__", None)
    with read_entries(tmp_path) as entries:
        assert [edit.target for edit, _ in listed(plan, entries, "png")] == [1, 2]
    monkeypatch.setitem(large.metadata, "note", "another setting")
    assert large.recorded_engine() is None
    large.metadata.pop("note")
    assert large.recorded_engine() == ("eager", 2)


def test_steps_yield_while_existing_edits_are_skipped(tmp_path: Path):
    run(tmp_path)
    first = next(tmp_path.glob("seed0003*"))
    first.unlink()
    resumed = job(tmp_path)
    steps = [step and len(step.edits) for step in resumed.steps()]
    assert sorted(map(bool, steps)) == [False] * 5 + [True] and (resumed.n_existing, resumed.n_written) == (11, 1)
    assert [*job(tmp_path)] == []


def test_a_job_ends_while_it_skips_existing_edits(tmp_path: Path):
    run(tmp_path)
    made, resumed = files(tmp_path), job(tmp_path)
    steps = resumed.steps()
    assert next(steps) is None
    steps.close()
    assert resumed.n_existing == 2 and files(tmp_path) == made


def test_a_job_ends_while_it_compares_edits(tmp_path: Path):
    run(tmp_path, grid((9,)), metadata={"note": "another setting"})
    made, compared = files(tmp_path), job(tmp_path)
    steps = compared.steps()
    assert next(steps) is None
    steps.close()
    assert compared.n_existing == 0 and files(tmp_path) == made
