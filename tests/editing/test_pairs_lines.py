# SPDX-License-Identifier: Apache-2.0
"""Lines of files of pairs that cannot be used: each has a number and a reason, and the other lines are made."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from editors import editor_of
from networks import shared

from stylefast.core.checks import SEEDS
from stylefast.editing import Pairs, SeedLatents, StoredLatents
from stylefast.editing.pairs import MAX_LINE

HEADER = "target,reference,part"
N = 3  # good lines of `check`


def check(path: Path, content: bytes, bad_line: int, reason: str) -> None:
    """Check that a file with three good lines and a bad one is refused, and the good ones are read with `skip_bad`."""
    path.write_bytes(content)
    images = SeedLatents(shared("sg2"), SEEDS)
    with pytest.raises(ValueError) as error:
        editor_of("sg2").check(Pairs(path, images, images))
    assert str(error.value).startswith(f"{path}, line {bad_line}: {reason}") and len(str(error.value)) < 700
    assert str(error.value).isprintable()
    plan = Pairs(path, images, images, skip_bad=True)
    editor_of("sg2").check(plan)
    assert len(plan) == len(list(plan)) == N and plan.n_refused == 1
    assert plan.refused[0].startswith(f"line {bad_line}: {reason}")


@pytest.mark.parametrize(
    "line, reason",
    [
        (b'2,3,"nose', "it must close its quote"),
        (b'"2,3,nose', "it must close its quote"),
        (b'2,3,"no"se', "it is not CSV: "),
        (b"2,3,no\0se", "it must not have NUL characters"),
        (b"2,3,n\xf6se", r"it must be UTF-8, got b'2,3,n\xf6se'"),
        (b"2,3,\x1b[31mnose", r"part must be one of 'eyes', 'nose', 'mouth', got '\x1b[31mnose'"),
        (b"2,3," + b"x" * 10_000, "part must be one of 'eyes', 'nose', 'mouth', got 'xxxxx"),
        (b"2,3," + b"x" * 200_000, "it is not CSV: field larger than field limit"),
        (b"x" * (3 * MAX_LINE), "it must have at most 1,048,576 characters"),
        (b"9" * 5_000 + b",3,nose", "there is no image '99999"),
        (b"2,3,nose,1", "it must have 3 cells, got 4"),
    ],
    ids=range(11),
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_bad_line_of_csv_does_not_affect_others(tmp_path: Path, line: bytes, reason: str, end: bytes):
    lines = [HEADER.encode(), b"1,2,nose", line, b"", b' 1, 3 , "nose"', b"1,4,nose"]
    check(tmp_path / "pairs.csv", end.join(lines) + end, 3, reason)


@pytest.mark.parametrize(
    "line, reason",
    [
        ("[" * 100_000, "it is nested too deeply"),
        ('{"a":' * 100_000, "it is nested too deeply"),
        ("[1, 2]", "it must be a JSON object, got [1, 2]"),
        ("{", "it is not JSON"),
        ('{"target": 1, "reference": 2, "part": "nose", "strength": ' + "9" * 400 + "}", "strength must be a finite"),
        ('{"target": 1, "reference": 2, "part": "nose", "strength": ' + "9" * 5000 + "}", "it is not JSON"),
        ('{"target": 1, "reference": 2, "part": "nose", "strength": 1e400}', "strength must be a finite number"),
        ('{"target": 1, "reference": 2, "part": "nose", "epsilon": [[1]]}', "epsilon must be a finite number, got [1]"),
        ('{"target": 1, "reference": 2, "part": "nose", "epsilon": [1, 2]}', "epsilon and rho must be one number"),
        ('{"target": 1, "reference": 2, "part": "nose", "epsilon": {}}', "epsilon must be a finite number, got {}"),
        ('{"target": 1, "reference": 2, "part": "nose", "query": ["sequential"]}', "query must be one of sequential, "),
        ('{"target": 1, "reference": 2, "part": "nose", "query": {"a": 1}}', "query must be one of sequential, "),
        ('{"target": 1, "reference": 2, "part": "nose", "query": true}', "query must be one of sequential, "),
        ('{"target": [1], "reference": 2, "part": "nose"}', "there is no image [1]"),
        ('{"target": {"a": 1}, "reference": 2, "part": "nose"}', "there is no image {'a': 1}"),
        ('{"target": true, "reference": 2, "part": "nose"}', "there is no image True"),
        (
            '{"target": 1, "reference": 2, "part": ["nose"]}',
            "part must be one of 'eyes', 'nose', 'mouth', got \"['nose']\"",
        ),
        (
            '{"target": 1, "reference": 2, "part": "\\ud800"}',
            "part must be one of 'eyes', 'nose', 'mouth', got '\\ud800'",
        ),
        (
            '{"target": 1, "reference": 2, "part": "nose\\u0000"}',
            "part must be one of 'eyes', 'nose', 'mouth', got 'nose\\x00'",
        ),
        ('{"target": 1, "reference": 2, "part": "nose", "\\u001b[0m": 1}', "it may have the fields target, "),
    ],
    ids=range(20),
)
def test_a_bad_line_of_json_does_not_affect_others(tmp_path: Path, line: str, reason: str):
    good = [json.dumps({"target": 1, "reference": i, "part": "nose"}) for i in range(1, N + 1)]
    check(tmp_path / "pairs.jsonl", "\n".join([good[0], "", line, *good[1:]]).encode(), 3, reason)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".CSV"])
def test_files_with_a_byte_order_mark_are_read(tmp_path: Path, encoding: str, suffix: str):
    lines = {
        ".csv": [HEADER, "é,2,nose", "1,é,nose", "é,3,nose"],
        ".jsonl": ['{"target": "é", "reference": 2, "part": "nose"}', '{"target": 1}'],
    }[suffix.lower()]
    path = tmp_path / f"pairs{suffix}"
    path.write_bytes("\r\n".join(lines).encode(encoding))
    generator = shared("sg2")
    targets = StoredLatents(generator, generator.latents([1, 2]), names=["x", "é"])
    plan = Pairs(path, targets, SeedLatents(generator, SEEDS), skip_bad=True)
    editor_of("sg2").check(plan)
    assert [edit.target for edit in plan] == [1, 1][: len(plan)] and len(plan) == len(lines) - (
        1 + (suffix != ".jsonl")
    )
    assert plan.refused == [f"line {len(lines) - (suffix != '.jsonl')}: {reason_of(suffix)}"]


def reason_of(suffix: str) -> str:
    return "reference is missing" if suffix == ".jsonl" else "there is no image 'é' among 4294967296 seeds"


@pytest.mark.parametrize(
    "header, reason",
    [
        (HEADER.encode("utf-16-le"), "it must not have NUL characters, as UTF-16 without a byte order mark has"),
        (b'target,"reference,part', "it must close its quote"),
        (b"\xff\x00\x1b\n", "it must "),
        (b"", "it must name the columns target, reference, part"),
        (b"target;reference;part", "it must name the columns target, reference, part"),
        (b"x" * (2 * MAX_LINE), "it must have at most"),
    ],
)
def test_bad_column_names_are_errors_on_line_one(tmp_path: Path, header: bytes, reason: str):
    path = tmp_path / "pairs.csv"
    path.write_bytes(header + b"\n1,2,nose\n")
    images = SeedLatents(shared("sg2"), SEEDS)
    for skip_bad in (False, True):
        with pytest.raises(ValueError) as error:
            editor_of("sg2").check(Pairs(path, images, images, skip_bad=skip_bad))
        assert str(error.value).startswith(f"{path}, line 1: {reason}" if header else f"{path}, line 2: {reason}")
        assert len(str(error.value)) < 700 and str(error.value).isprintable()


def test_a_pipe_is_not_read(tmp_path: Path):
    os.mkfifo(tmp_path / "pairs.csv")
    images = SeedLatents(shared("sg2"), SEEDS)
    with pytest.raises(ValueError, match="must be a regular file, which can be read twice, got"):
        editor_of("sg2").check(Pairs(tmp_path / "pairs.csv", images, images))


def test_a_file_that_changes_is_an_error_with_the_line(tmp_path: Path):
    path = tmp_path / "pairs.csv"
    path.write_text(f"{HEADER}\n1,2,nose\n1,3,nose\n")
    images = SeedLatents(shared("sg2"), SEEDS)
    plan = Pairs(path, images, images)
    editor_of("sg2").check(plan)
    path.write_text(f"{HEADER}\n1,2,nose\n1,x,nose\n")
    with pytest.raises(ValueError, match=f"{path}, line 3: there is no image 'x'"):
        list(plan)


def test_many_duplicates_take_seconds(tmp_path: Path):
    path = tmp_path / "pairs.csv"
    path.write_text(f"{HEADER}\n" + "1,2,nose\n" * 20_001)
    images = SeedLatents(shared("sg2"), SEEDS)
    plan = Pairs(path, images, images, skip_bad=True)
    begin = time.process_time()
    editor_of("sg2").check(plan)
    assert time.process_time() - begin < 15  # of the 1,000 seconds that a search of all lines per line would take
    assert (len(plan), plan.n_refused) == (1, 20_000) and plan.refused[0] == "line 3: it is the same edit as line 2"


def test_a_name_that_is_too_long_for_a_file_is_a_bad_line(tmp_path: Path):
    generator, path = shared("sg2"), tmp_path / "pairs.csv"
    names = ["x" * 200, "é" * 100, "short"]
    images = StoredLatents(generator, generator.latents([1, 2, 3]), names=names)
    path.write_text(f"{HEADER}\n0,2,nose\n0,1,nose\n")
    plan = Pairs(path, images, images, skip_bad=True)
    editor_of("sg2").check(plan)
    assert len(plan) == 1 and "line 3: names of images and parts must give file names of at most" in plan.refused[0]


def test_random_lines_end_in_reasons(tmp_path: Path):
    rng = random.Random(0)
    values: list[Any] = [1, "1", None, True, [], [1], {}, {"a": [1]}, "", "nose", "softmax", 1e308, -1, "\ud800", "\0"]
    names = ["target", "reference", "part", "query", "epsilon", "rho", "strength", "other"]
    lines = [{name: rng.choice(values) for name in rng.sample(names, rng.randint(0, 7))} for _ in range(500)]
    path = tmp_path / "pairs.jsonl"
    text = "\n".join(json.dumps({"target": 1, "reference": 2, "part": "nose"} | line) for line in lines)
    content = bytearray(text.encode())
    for _ in range(50):
        content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(content)
    images = SeedLatents(shared("sg2"), SEEDS)
    plan = Pairs(path, images, images, skip_bad=True)
    editor_of("sg2").check(plan)
    assert len(plan) == len(list(plan)) > 0 and plan.n_refused > 300
