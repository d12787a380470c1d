# SPDX-License-Identifier: Apache-2.0
"""Plans: order, batches and shards, file names of edits, and files of pairs with every kind of invalid line."""

from __future__ import annotations

import itertools
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from editors import editor_of
from hypothesis import given
from hypothesis import strategies as st
from networks import shared

from stylefast.core.checks import SEEDS
from stylefast.editing import Edit, Grid, Pairs, Random, SeedLatents, Sequential, Simultaneous, Softmax, StoredLatents

HEADER = "target,reference,part"


def seeds(*numbers: int) -> SeedLatents:
    return SeedLatents(shared("sg2"), list(numbers))


def grid(t: int = 3, r: int = 2, **options: Any) -> Grid:
    parts, queries = ["nose", "eyes"], [Sequential(2.0), Simultaneous()]
    return Grid(seeds(*range(t)), seeds(*range(50, 50 + r)), parts, queries, **options)


def pairs(path: Path, text: str, **options: Any) -> Pairs:
    """Write a file of pairs; return its plan, which an editor has checked."""
    path.write_text(text)
    plan = Pairs(path, seeds(1, 2, 3), SeedLatents(shared("sg2"), SEEDS), **options)
    editor_of("sg2").check(plan)
    return plan


def test_a_grid_lists_its_edits_in_order():
    plan = grid(strength=0.5)
    order = itertools.product(range(3), range(2), ("nose", "eyes"), (Sequential(2.0), Simultaneous()))
    expected = [Edit(*each, 0.5) for each in order]
    assert list(plan) == list(plan) == expected and len(plan) == len(expected) == 24
    one_to_many = Grid(seeds(7), seeds(1, 2, 3), "nose")
    assert list(one_to_many) == [Edit(0, r, "nose", Sequential()) for r in range(3)]


@given(st.integers(0, 4), st.integers(0, 3), st.integers(1, 9), st.integers(1, 5))
def test_shards_are_complete_batches_and_cover_all_edits(t: int, r: int, size: int, n: int):
    plan = grid(t, r)
    whole = list(plan.batches(size))
    assert [edit for batch in whole for edit in batch] == list(plan)
    assert all(len(batch) == size for batch in whole[:-1])
    shards = [list(plan.batches(size, (i, n))) for i in range(n)]
    assert [len(sum(shard, [])) for shard in shards] == [plan.count(size, (i, n)) for i in range(n)]
    for number, batch in enumerate(whole):
        assert shards[number % n][number // n] == batch
    assert sum(map(len, shards)) == len(whole)


def test_25_million_edits_need_little_memory():
    tracemalloc.start()
    try:
        images = SeedLatents(shared("sg2"), range(5_000))
        plan = Grid(images, images, "nose")
        shard = plan.batches(4, (1, 2))
        first = next(shard)
        for _ in range(2_000):
            next(shard)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(plan) == 25_000_000 and first[0] == Edit(0, 4, "nose", Sequential())
    assert peak < 1 << 20


@pytest.mark.parametrize(
    "query, strength, label",
    [
        (Sequential(), 1.0, "sequential"),
        (Sequential(1.0), 1.0, "sequential_1"),
        (Sequential(1.0, 0.1), 1.0, "sequential_1"),
        (Sequential(16.0), 1.0, "sequential_16"),
        (Sequential(rho=0.1), 1.0, "sequential_1"),
        (Sequential(0.25), 1, "sequential_0.25"),
        (Simultaneous(), 1.0, "simultaneous"),
        (Softmax(), 1.0, "softmax"),
        (Random(), 1.0, "random"),
        (Sequential(), 0.5, "sequential-"),
        (Sequential(1 / 3), 1.0, "sequential_0.333333-"),
        (Sequential(1.0, 0.2), 1.0, "sequential_1-"),
        (Sequential(4.0, share=0.55), 1.0, "sequential_4-"),
        (Sequential(fractional=True), 1.0, "sequential_16-"),
        (Sequential((1.0, 2.0)), 1.0, "sequential-"),
        (Simultaneous(2.0), 1.0, "simultaneous-"),
        (Softmax(0.2), 1.0, "softmax-"),
        (Random(seed=1), 1.0, "random-"),
    ],
)
def test_labels_identify_all_parameters(query: Any, strength: float, label: str):
    edit = Edit(0, 0, "nose", query, strength)
    assert re.fullmatch(label if label[-1] != "-" else f"{label}[0-9a-f]{{16}}", edit.label)
    assert edit.label == Edit(3, 4, "eyes", query, strength).label
    assert grid().name(edit) == f"seed0000_nose_seed0050_{edit.label}"


SETTINGS = st.builds(Sequential, st.floats(0, 9), st.floats(0, 1)) | st.builds(Simultaneous, st.floats(0, 9))


@given(SETTINGS, SETTINGS, st.floats(-2, 2), st.floats(-2, 2))
def test_edits_that_differ_have_different_labels(one: Any, two: Any, a: float, b: float):
    first, second = Edit(0, 0, "nose", one, a), Edit(0, 0, "nose", two, b)
    assert (first.label == second.label) == (first == second)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"parts": ["nose", "ear"]}, "must be one of 'eyes', .*, got 'ear'"),
        ({"parts": []}, "parts and queries must each name at least one"),
        ({"queries": []}, "parts and queries must each name at least one"),
        ({"parts": ["nose", "nose"]}, "parts and queries must be different"),
        ({"queries": [Softmax(), Softmax()]}, "parts and queries must be different"),
        ({"queries": Sequential(-1.0)}, "epsilon must be"),
        ({"strength": float("inf")}, "strength must be a finite number, got inf"),
        (
            {"targets": StoredLatents(shared("sg2"), styles=shared("sg2").styles(shared("sg2").latents([1])))},
            "must be known",
        ),
    ],
)
def test_invalid_grids_are_refused(options: dict[str, Any], message: str):
    arguments: dict[str, Any] = {"targets": seeds(1), "references": seeds(2), "parts": "nose"} | options
    with pytest.raises(ValueError, match=message):
        editor_of("sg2").check(Grid(**arguments))


def test_a_csv_file_is_read(tmp_path: Path):
    text = f"""\ufeff{HEADER},query,epsilon,rho,strength
1,7,nose,,,,
seed0003, seed0012 ,eyes,sequential,0.25,0.05,0.5

2,7,nose,simultaneous,,,2
2,7,nose,softmax,,,
2,7,nose,,3,,
"""
    plan = pairs(tmp_path / "pairs.csv", text, query=Sequential(5.0, 0.2), strength=0.75)
    assert list(plan) == list(plan) == [
        Edit(0, 7, "nose", Sequential(5.0, 0.2), 0.75),
        Edit(2, 12, "eyes", Sequential(0.25, 0.05), 0.5),
        Edit(1, 7, "nose", Simultaneous(), 2.0),
        Edit(1, 7, "nose", Softmax(), 0.75),
        Edit(1, 7, "nose", Sequential(3.0, 0.2), 0.75),
    ]  # fmt: skip
    assert len(plan) == 5 and plan.n_refused == 0


def test_a_file_of_json_lines_is_read(tmp_path: Path):
    n = len(editor_of("sg2").sites)
    lines = [
        {"target": 1, "reference": "seed0007", "part": "nose"},
        {"part": "eyes", "target": "3", "reference": 8, "epsilon": [0.5] * n, "rho": 0, "strength": -1},
        {"part": "eyes", "target": 3, "reference": 8, "query": "softmax", "epsilon": None},
    ]
    plan = pairs(tmp_path / "pairs.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")
    assert list(plan) == [
        Edit(0, 7, "nose", Sequential()),
        Edit(2, 8, "eyes", Sequential((0.5,) * n, 0.0), -1.0),
        Edit(2, 8, "eyes", Softmax()),
    ]


GOOD = "1,7,nose"
BAD = {
    "4,7,nose": "there is no image '4' among 3 seeds",
    "1,seven,nose": "there is no image 'seven' among 4294967296 seeds",
    "1,7,ear": "part must be one of 'eyes'",
    "1,,nose": "reference is missing",
    "1,7,": "part is missing",
    "1,7": "it must have 7 cells",
    "1,7,eyes,,,,,9": "it must have 7 cells",
    "1,7,eyes,best,,,": "query must be one of sequential, simultaneous, softmax, got 'best'",
    "1,7,eyes,,-1,,": "epsilon must be a finite number >= 0, got -1.0",
    "1,7,eyes,,few,,": "epsilon must be a finite number, got 'few'",
    "1,7,eyes,,nan,,": "epsilon must be a finite number, got 'nan'",
    "1,7,eyes,,1,2,": "rho must be a number in [0, 1], got 2.0",
    "1,7,eyes,,,,inf": "strength must be a finite number, got 'inf'",
    "1,7,eyes,softmax,2,,": "epsilon can be given for the sequential strategy only, not for softmax",
    "seed0001,07,nose": "it is the same edit as line 2",
    "\udcff,7,nose": "it must be UTF-8, got b'\\xff,7,nose",
}


@pytest.mark.parametrize("line", list(BAD), ids=range(len(BAD)))
def test_a_bad_line_is_refused_with_its_number_and_the_reason(tmp_path: Path, line: str):
    path = tmp_path / "pairs.csv"
    cells = line if line.count(",") in (1, 7) else line + "," * (6 - line.count(","))
    text = f"{HEADER},query,epsilon,rho,strength\n{GOOD},,,,\n\n{cells}\n2,8,eyes,,,,\n"
    path.write_bytes(text.encode(errors="surrogateescape"))
    images = seeds(1, 2, 3), SeedLatents(shared("sg2"), SEEDS)
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 4: {BAD[line]}")):
        editor_of("sg2").check(Pairs(path, *images))
    plan = Pairs(path, *images, skip_bad=True)
    editor_of("sg2").check(plan)
    assert list(plan) == [Edit(0, 7, "nose", Sequential()), Edit(1, 8, "eyes", Sequential())] and len(plan) == 2
    assert plan.n_refused == 1 and plan.refused[0].startswith(f"line 4: {BAD[line]}")


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "it is not JSON: "),
        ("[1, 7]", "it must be a JSON object, got [1, 7]"),
        ('"word"', "it must be a JSON object, got 'word'"),
        ('{"target": 1, "reference": 7, "part": "nose", "colour": 3}', "it may have the fields target, .* got colour"),
        ('{"target": 1, "reference": 7, "part": "nose", "strength": true}', "strength must be a finite number, got T"),
        (
            '{"target": 1, "reference": 7, "part": "nose", "epsilon": [1, 2]}',
            "epsilon and rho must be one number or one for",
        ),
        ('{"target": true, "reference": 7, "part": "nose"}', "there is no image True"),
        ('{"target": 1, "reference": 7, "part": ["nose"]}', "part must be"),
    ],
)
def test_a_bad_line_of_json_is_refused(tmp_path: Path, line: str, message: str):
    good = '{"target": 1, "reference": 7, "part": "nose"}'
    with pytest.raises(ValueError, match=f"pairs.jsonl, line 2: {message.replace('[', chr(92) + '[')}"):
        pairs(tmp_path / "pairs.jsonl", f"{good}\n{line}\n")


@pytest.mark.parametrize("header", ["", "target,reference", "target,reference,part,colour", "1,7,nose"])
def test_missing_and_unknown_columns_are_refused(tmp_path: Path, header: str):
    for skip_bad in (False, True):
        with pytest.raises(ValueError, match="pairs.csv, line 1: it must name the columns target, reference, part and"):
            pairs(tmp_path / "pairs.csv", header, skip_bad=skip_bad)


def test_other_formats_and_missing_files_fail_empty_files_do_not(tmp_path: Path):
    with pytest.raises(ValueError, match=r"must be \.csv or \.jsonl, got .*pairs\.txt"):
        pairs(tmp_path / "pairs.txt", GOOD)
    with pytest.raises(FileNotFoundError, match="missing.csv"):
        editor_of("sg2").check(Pairs(tmp_path / "missing.csv", seeds(1), seeds(1)))
    assert list(pairs(tmp_path / "none.csv", HEADER)) == list(pairs(tmp_path / "none.jsonl", "")) == []


def test_at_most_20_refused_lines_are_kept(tmp_path: Path):
    plan = pairs(tmp_path / "pairs.csv", "\n".join([HEADER, *["9,9,nose"] * 50, GOOD]), skip_bad=True)
    assert (len(plan), plan.n_refused, len(plan.refused)) == (1, 50, 20)


def test_a_long_file_needs_little_memory(tmp_path: Path):
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join([HEADER, *(f"1,{i},nose" for i in range(4_000))]))
    tracemalloc.start()
    try:
        plan = Pairs(path, seeds(1), SeedLatents(shared("sg2"), SEEDS))
        editor_of("sg2").check(plan)
        assert len(plan) == 4_000 == sum(map(len, plan.batches(64)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_errors_name_arguments_of_wrong_types():
    w = shared("sg2").latents([1])
    for sources, argument in (((w, seeds(1)), "targets"), ((seeds(1), [7]), "references")):
        with pytest.raises(TypeError, match=f"{argument} must be of type ImageSource, such as SeedLatents"):
            Grid(*sources, "nose")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=f"{argument} must be of type ImageSource"):
            Pairs("pairs.csv", *sources)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="queries must be strategies, such as Sequential.., got 'sequential'"):
        Grid(seeds(1), seeds(2), "nose", "sequential")  # type: ignore[arg-type]


def test_a_repeated_column_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="line 1: it must name the columns target, .*, each once, got .*, part, part"):
        pairs(tmp_path / "pairs.csv", f"{HEADER},part\n{GOOD},x\n")


def test_a_file_must_be_checked_before_its_length_is_known(tmp_path: Path):
    (tmp_path / "pairs.csv").write_text(f"{HEADER}\n{GOOD}\n")
    plan = Pairs(tmp_path / "pairs.csv", seeds(1), SeedLatents(shared("sg2"), SEEDS))
    with pytest.raises(RuntimeError, match="has not been read yet: call StyleEditor.check"):
        len(plan)
    editor_of("sg2").check(plan)
    assert len(plan) == 1
