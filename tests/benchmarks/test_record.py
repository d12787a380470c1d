# SPDX-License-Identifier: Apache-2.0
"""Tests of the records of figures: the content of a line, and the newest record of a figure."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import provenance
import pytest
import record
from timing import Figure

FIGURE = Figure("lloyd_step", "2x3x4x4", 8, 2, 1.0, 1.1, 1.2, 1.3, 40, 50, "read", 0.5, 2.0, 2.1, "torch", 4.0, 4.1)


def test_a_record_holds_the_figure_and_its_provenance(tmp_path: Path):
    record.append(FIGURE, tmp_path)
    (path,) = tmp_path.iterdir()
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert path.name == f"{provenance.machine()}.jsonl" and set(path.stem) <= allowed
    fields = json.loads(path.read_text())
    assert {name: fields.pop(name) for name in asdict(FIGURE)} == asdict(FIGURE)
    assert set(fields) == {
        "date", "processor", "cores", "commit", "dirty", "sources", "python", "torch", "stylefast", "instruction_set",
    }  # fmt: skip


def test_the_last_record_of_a_figure_is_the_newest(tmp_path: Path):
    for figure in (FIGURE, replace(FIGURE, k=16), replace(FIGURE, threads=1), replace(FIGURE, to_floor=1.5)):
        record.append(figure, tmp_path)
    newest = [(fields["k"], fields["threads"], fields["to_floor"]) for fields in record.newest(tmp_path)]
    assert newest == [(8, 2, 1.5), (16, 2, 2.0), (8, 1, 2.0)]


def test_without_a_record_newest_raises(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no record in .*: run `make bench`"):
        record.newest(tmp_path)


def test_a_line_leaves_out_a_missing_floor_or_peer():
    fit = Figure("SphericalKMeans.fit", "all", None, 2, 1.0, 1.1, 1.2, 1.3, peer="a", to_peer=7.0, median_to_peer=6.5)
    assert record.line(fit).split() == ["SphericalKMeans.fit", "all", "7.0x", "(6.5x)", "a"]
    assert record.line(replace(FIGURE, peer=None)).endswith("2.00 x floor (2.10)")


def test_a_line_adds_the_serial_floor_and_the_parts():
    full = replace(FIGURE, to_serial_floor=1.5, median_to_serial_floor=1.6, to_part={"scores": 1.125})
    first, *others = record.line(full).splitlines()
    assert first == record.line(FIGURE)
    assert [line.strip() for line in others] == ["1.50 x serial floor (1.60)", "1.12 x scores"]
