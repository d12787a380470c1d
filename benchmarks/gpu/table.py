# SPDX-License-Identifier: Apache-2.0
"""The records of GPUs as Markdown: what README shows of benchmarks/results/gpu."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BACKENDS = ("cuda", "triton")
Entry = dict[str, Any]


def read(folder: Path) -> list[Entry]:
    """The records of all runs below a folder, oldest first.

    Raises ValueError for a line that is not a record, and for a record of a rehearsal.
    """
    entries = []
    for path in folder.rglob("records.jsonl"):
        for number, text in enumerate(path.read_text().splitlines(), 1):
            try:
                entry = json.loads(text)
            except ValueError:
                raise ValueError(f"{path}, line {number} is not a record: {text[:60]}") from None
            if entry["rehearsal"]:
                raise ValueError(f"{path}, line {number} comes from a rehearsal: rehearsal times are not results")
            entries.append(entry)
    return sorted(entries, key=lambda entry: entry["date"])


def table(entries: Iterable[Entry]) -> str:
    """Markdown with a caption, the newest timings and the newest host times for each device and set of versions."""
    runs: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        runs.setdefault(tuple(str(entry[name]) for name in ("device", "torch", "triton")), []).append(entry)
    if not runs:
        return "No GPU has run `make gpu` yet: there is no record, and no figure is claimed."
    return "\n\n".join(_run(each) for each in runs.values())


def _run(entries: list[Entry]) -> str:
    last, facts = entries[-1], [entry for entry in entries if entry["kind"] == "facts"]
    commits = ", ".join(dict.fromkeys(_code(entry) for entry in entries if entry["kind"] in ("timing", "host")))
    caption = f"{last['device']}, driver {last['driver']}, torch {last['torch']}, Triton {last['triton']}"
    caption += f"; {commits}." if commits else "."
    if facts:
        peaks = ", ".join(f"{name} {flops / 1e12:.0f}" for name, flops in facts[-1]["peaks"].items())
        caption += f" Copy {facts[-1]['copy'] / 1e12:.2f} TB/s; matmul in TFLOP/s: {peaks}."
    return "\n\n".join([caption + _checks(entries), *_timings(entries), *_host_times(entries)])


def _checks(entries: list[Entry]) -> str:
    """What the last tests and sanitizers found, and how many rows failed."""
    last = {entry["kind"]: entry for entry in entries}
    text = ""
    if "tests" in last:
        passed, selected = (last["tests"]["outcomes"].get(name, 0) for name in ("PASSED", "selected"))
        text += f" Tests: {passed} of {selected} passed, {len(last['tests']['failed'])} failed."
    if "sanitizers" in last:
        verdicts = list(last["sanitizers"]["verdicts"].values())
        text += f" Sanitizers: {verdicts.count('clean')} of {len(verdicts)} processes clean."
    failures = sum(entry["kind"] == "failure" for entry in entries)
    return text + (f" Rows that failed: {failures}." if failures else "")


def _code(entry: Entry) -> str:
    if entry["commit"] is None:
        return f"sources {entry['sources']}"
    return f"commit {entry['commit']}" + (", modified" if entry["dirty"] else "")


def _newest(entries: list[Entry], kind: str) -> dict[tuple[str, str], dict[str, Entry]]:
    """(op, workload) -> implementation -> its newest record."""
    found: dict[tuple[str, str], dict[str, Entry]] = {}
    for entry in entries:
        if entry["kind"] == kind:
            found.setdefault((entry["op"], entry["workload"]), {})[entry["implementation"]] = entry
    return found


def _timings(entries: list[Entry]) -> list[str]:
    lines = ["| op | on | at copy bandwidth | `cuda` | `triton` | best other |", "| --- " * 6 + "|"]
    for (op, workload), by in _newest(entries, "timing").items():
        ours = [by[name] for name in BACKENDS if name in by]
        others = sorted((entry for name, entry in by.items() if name not in BACKENDS), key=lambda entry: entry["p50"])
        floor = f"{1e3 * ours[0]['floor']:.2f} ms" if ours else ""
        cells = [_cell(by.get(name)) for name in BACKENDS]
        best = f"{others[0]['implementation']}: {_cell(others[0])}" if others else ""
        lines.append(f"| `{op}` | {workload} | {floor} | {' | '.join(cells)} | {best} |")
    return ["\n".join(lines)] if len(lines) > 2 else []


def _cell(entry: Entry | None) -> str:
    if entry is None:
        return ""
    host = ", with host time" if entry["includes_host"] else ""
    return f"{1e3 * entry['p50']:.2f} ms ({100 / entry['to_floor']:.0f} %{host})"


def _host_times(entries: list[Entry]) -> list[str]:
    lines = ["| extra host time of a small call | `cuda` | `triton` | compared with |", "| --- " * 4 + "|"]
    for (op, workload), by in _newest(entries, "host").items():
        cells = [f"{1e6 * by[name]['over_peer']:+.0f} us" if name in by else "" for name in BACKENDS]
        lines.append(f"| `{op}` {workload} | {' | '.join(cells)} | {next(iter(by.values()))['peer']} |")
    return ["\n".join(lines)] if len(lines) > 2 else []
