# SPDX-License-Identifier: Apache-2.0
"""Figures of edits per second, and their tables: network x engine x batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from timing import Figure

OP = "edits per second"
BATCH_SIZES = (1, 2, 4)
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class EditFigure(Figure):
    """Seconds per edit, from seeds to the written image, of one network, engine and batch size.

    `levels` is the largest difference between the written pixels and those of the engine "eager" with batches of one,
    in 8-bit levels. `shares` are the fractions of the time that the calling thread spends on synthesis, on the styles
    and on the output, which includes the time that it waits for the threads that write.
    """

    network: str
    engine: str
    batch_size: int
    levels: int
    shares: dict[str, float] = field(default_factory=dict)


def table(records: Iterable[Record]) -> list[str]:
    """Return the lines of the table of all records: one row per network and engine, one column per batch size."""
    rows = grouped(records)
    if not rows:
        return []
    lines = [
        "| network | engine | " + " | ".join(f"batches of {size}" for size in BATCH_SIZES) + " | difference | shares |",
        "| --- " * (4 + len(BATCH_SIZES)) + "|",
    ]
    for network, engines in rows.items():
        for engine, by_size in engines.items():
            cells = [_cell(by_size[size]) if size in by_size else "" for size in BATCH_SIZES]
            fastest = _fastest(by_size)
            levels = max(record["levels"] for record in by_size.values())
            shares = " / ".join(f"{100 * share:.0f}" for share in fastest["shares"].values()) + " %"
            lines.append(f"| {network} | {engine} | {' | '.join(cells)} | {levels} | {shares} |")
    return lines


def headline(records: Iterable[Record]) -> list[str]:
    """Return the lines of the short table: one row per network, one column per engine, at its fastest batch size."""
    rows = grouped(records)
    engines = dict.fromkeys(engine for by_engine in rows.values() for engine in by_engine)
    if not rows:
        return []
    lines = ["| network | plain loop | " + " | ".join(engines) + " |", "| --- " * (2 + len(engines)) + "|"]
    for network, by_engine in rows.items():
        fastest = {engine: _fastest(by_size) for engine, by_size in by_engine.items()}
        plain = next(iter(fastest.values()))
        cells = [_cell(fastest[engine]) if engine in fastest else "" for engine in engines]
        lines.append(f"| {network} | {1 / (plain['best'] * plain['to_peer']):.2f} | {' | '.join(cells)} |")
    return lines


def grouped(records: Iterable[Record]) -> dict[str, dict[str, dict[int, Record]]]:
    """Return the records of edits by network, engine and batch size, in the order of the records.

    Records of a network that were measured with other sources than its newest record are left out, because figures of
    two versions cannot be compared.
    """
    edits = [record for record in records if record["op"] == OP]
    by_date = sorted(edits, key=lambda record: record.get("date", ""))
    sources = {record["network"]: record.get("sources") for record in by_date}
    rows: dict[str, dict[str, dict[int, Record]]] = {}
    for record in edits:
        if record.get("sources") == sources[record["network"]]:
            engines = rows.setdefault(record["network"], {})
            engines.setdefault(record["engine"], {})[record["batch_size"]] = record
    return rows


def _fastest(by_size: dict[int, Record]) -> Record:
    return min(by_size.values(), key=lambda record: record["best"])


def _cell(record: Record) -> str:
    return f"{1 / record['best']:.2f} ({record['to_peer']:.1f}x)"
