# SPDX-License-Identifier: Apache-2.0
"""Markdown tables for the documentation, from the GPU records in benchmarks/results/gpu."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BACKENDS = ("cuda", "triton")
Record = dict[str, Any]


def read(folder: Path) -> list[Record]:
    """Return the records of all runs below a folder, oldest first.

    Raises:
        ValueError: If a line is not a record, or if a record comes from a rehearsal.
    """
    records = []
    for path in folder.rglob("records.jsonl"):
        for number, text in enumerate(path.read_text().splitlines(), 1):
            try:
                record = json.loads(text)
            except ValueError:
                raise ValueError(f"{path}, line {number} is not a record: {text[:60]}") from None
            if record["rehearsal"]:
                raise ValueError(f"{path}, line {number} comes from a rehearsal: rehearsal times are not results")
            records.append(record)
    return sorted(records, key=lambda record: record["date"])


def table(records: Iterable[Record]) -> str:
    """Return the Markdown: per device and set of versions a caption, the newest timings and the newest host times."""
    runs: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        runs.setdefault(tuple(str(record[name]) for name in ("device", "torch", "triton")), []).append(record)
    if not runs:
        return "No GPU has run `make gpu` yet: there is no record, and no figure is claimed."
    return "\n\n".join(_run(run) for run in runs.values())


def _run(records: list[Record]) -> str:
    last, facts = records[-1], [record for record in records if record["kind"] == "facts"]
    commits = ", ".join(dict.fromkeys(_code(record) for record in records if record["kind"] in ("timing", "host")))
    caption = f"{last['device']}, driver {last['driver']}, torch {last['torch']}, Triton {last['triton']}"
    caption += f"; {commits}." if commits else "."
    if facts:
        peaks = ", ".join(f"{name} {flops / 1e12:.0f}" for name, flops in facts[-1]["peaks"].items())
        caption += f" Copy {facts[-1]['copy'] / 1e12:.2f} TB/s; matmul in TFLOP/s: {peaks}."
    return "\n\n".join([caption + _checks(records), *_timings(records), *_host_times(records)])


def _checks(records: list[Record]) -> str:
    """Return the outcome of the last tests and sanitizers, and the number of failed rows."""
    last = {record["kind"]: record for record in records}
    text = ""
    if "tests" in last:
        passed, selected = (last["tests"]["outcomes"].get(name, 0) for name in ("PASSED", "selected"))
        text += f" Tests: {passed} of {selected} passed, {len(last['tests']['failed'])} failed."
    if "sanitizers" in last:
        verdicts = list(last["sanitizers"]["verdicts"].values())
        text += f" Sanitizers: {verdicts.count('clean')} of {len(verdicts)} processes clean."
    failures = sum(record["kind"] == "failure" for record in records)
    return text + (f" Rows that failed: {failures}." if failures else "")


def _code(record: Record) -> str:
    if record["commit"] is None:
        return f"sources {record['sources']}"
    return f"commit {record['commit']}" + (", modified" if record["dirty"] else "")


def _newest(records: list[Record], kind: str) -> dict[tuple[str, str], dict[str, Record]]:
    """Return the newest record of each implementation, per op and workload."""
    newest: dict[tuple[str, str], dict[str, Record]] = {}
    for record in records:
        if record["kind"] == kind:
            newest.setdefault((record["op"], record["workload"]), {})[record["implementation"]] = record
    return newest


def _timings(records: list[Record]) -> list[str]:
    lines = ["| op | workload | time at copy bandwidth | `cuda` | `triton` | fastest alternative |", "| --- " * 6 + "|"]
    for (op, workload), by in _newest(records, "timing").items():
        ours = [by[name] for name in BACKENDS if name in by]
        rivals = sorted(
            (record for name, record in by.items() if name not in BACKENDS), key=lambda record: record["p50"]
        )
        floor = f"{1e3 * ours[0]['floor']:.2f} ms" if ours else ""
        cells = [_cell(by.get(name)) for name in BACKENDS]
        best = f"{rivals[0]['implementation']}: {_cell(rivals[0])}" if rivals else ""
        lines.append(f"| `{op}` | {workload} | {floor} | {' | '.join(cells)} | {best} |")
    return ["\n".join(lines)] if len(lines) > 2 else []


def _cell(record: Record | None) -> str:
    if record is None:
        return ""
    host = ", with host time" if record["includes_host"] else ""
    return f"{1e3 * record['p50']:.2f} ms ({100 / record['to_floor']:.0f} %{host})"


def _host_times(records: list[Record]) -> list[str]:
    lines = ["| extra host time of a small call | `cuda` | `triton` | compared with |", "| --- " * 4 + "|"]
    for (op, workload), by in _newest(records, "host").items():
        cells = [f"{1e6 * by[name]['over_peer']:+.0f} us" if name in by else "" for name in BACKENDS]
        lines.append(f"| `{op}` {workload} | {' | '.join(cells)} | {next(iter(by.values()))['peer']} |")
    return ["\n".join(lines)] if len(lines) > 2 else []
