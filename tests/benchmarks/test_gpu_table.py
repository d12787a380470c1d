# SPDX-License-Identifier: Apache-2.0
"""Tests of the documentation's tables of GPU records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gpu import table


def record(kind: str, **fields: Any) -> dict[str, Any]:
    provenance = {
        "date": "2026-01-01", "rehearsal": False, "commit": "abc", "dirty": False, "sources": "0123",
        "device": "Abacus", "driver": "1.2", "torch": "2.11", "triton": "3.6",
    }  # fmt: skip
    return provenance | {"kind": kind} | fields


def timing(implementation: str, p50: float, **fields: Any) -> dict[str, Any]:
    defaults = {"op": "blend", "workload": "w", "floor": 0.001, "to_floor": p50 / 0.001, "includes_host": False}
    return record("timing", implementation=implementation, p50=p50, **(defaults | fields))


def test_gpu_table_by_hand():
    records = [
        record("facts", copy=3e12, peaks={"bfloat16": 7.98e14, "float32": 5e13}),
        timing("triton", 0.009),
        timing("triton", 0.002, date="2026-01-02"),
        timing("cuda", 0.00125),
        timing("torch, eager", 0.004),
        timing("flash-kmeans", 0.0035, includes_host=True, commit=None),
        timing("cuda", 0.001, workload="x", dirty=True),
        record("host", op="blend", workload="1x9", implementation="triton", over_peer=12.4e-6, peer="torch.lerp"),
        record("tests", outcomes={"PASSED": 5, "selected": 6}, failed=["a"]),
        record("sanitizers", verdicts={"a": "clean", "b": "cut"}),
        record("failure", row="a", error="b"),
    ]
    assert table.table(records).splitlines() == [
        "Abacus, driver 1.2, torch 2.11, Triton 3.6; commit abc, sources 0123, commit abc, modified. "
        "Copy 3.00 TB/s; matmul in TFLOP/s: bfloat16 798, float32 50. Tests: 5 of 6 passed, 1 failed. "
        "Sanitizers: 1 of 2 processes clean. Rows that failed: 1.",
        "",
        "| op | workload | time at copy bandwidth | `cuda` | `triton` | fastest alternative |",
        "| --- | --- | --- | --- | --- | --- |",
        "| `blend` | w | 1.00 ms | 1.25 ms (80 %) | 2.00 ms (50 %) | flash-kmeans: 3.50 ms (29 %, with host time) |",
        "| `blend` | x | 1.00 ms | 1.00 ms (100 %) |  |  |",
        "",
        "| extra host time of a small call | `cuda` | `triton` | compared with |",
        "| --- | --- | --- | --- |",
        "| `blend` 1x9 |  | +12 us | torch.lerp |",
    ]


def test_without_a_record_no_figure_is_claimed():
    assert table.table([]) == "No GPU has run `make gpu` yet: there is no record, and no figure is claimed."


def test_records_are_read_in_order_and_rehearsals_refused(tmp_path: Path):
    dates = {"a": "2026-02-01", "b": "2026-01-01", "c": "2026-04-01", "d": "2026-03-01"}
    for run, date in dates.items():
        (tmp_path / run).mkdir()
        (tmp_path / run / "records.jsonl").write_text(json.dumps(record("facts", date=date)) + "\n")
    assert [fields["date"] for fields in table.read(tmp_path)] == sorted(dates.values())
    with (tmp_path / "b" / "records.jsonl").open("a") as file:
        file.write(json.dumps(record("facts", rehearsal=True)) + "\n")
    with pytest.raises(ValueError, match="b/records.jsonl, line 2 comes from a rehearsal"):
        table.read(tmp_path)
