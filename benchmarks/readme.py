# SPDX-License-Identifier: Apache-2.0
"""The blocks of README.md that are made from the records in benchmarks/results.

python benchmarks/readme.py            # prints the tables
python benchmarks/readme.py --write    # writes the blocks into README.md
python benchmarks/readme.py --check    # fails if README.md holds other blocks
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any

from gpu import table as gpu_table
from provenance import RESULTS, ROOT
from recipes import markdown
from record import newest
from workloads import CLUSTERS

COMMAND = "python benchmarks/readme.py --write"
Record = dict[str, Any]


def blocks() -> dict[str, str]:
    """Name -> Markdown of every block, from the newest records."""
    records = newest()
    return {
        "recipes": markdown(record for record in records if record["op"] == "recipe"),
        "measured": table(records),
        "gpu": gpu_table.table(gpu_table.read(RESULTS / "gpu")),
    }


def markers(name: str) -> tuple[str, str]:
    """The comments in README.md between which a block lies."""
    return f"<!-- {name}: {COMMAND} -->", f"<!-- /{name} -->"


def with_block(readme: str, name: str, text: str) -> str:
    """README.md with the text as a block. Raises ValueError unless both markers are there, once each and in order."""
    begin, end = markers(name)
    if readme.count(begin) != 1 or readme.count(end) != 1 or readme.index(begin) > readme.index(end):
        raise ValueError(f"README.md must hold {begin} and then {end}, once each")
    before, rest = readme.split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"


def stale(readme: str, texts: dict[str, str]) -> list[str]:
    """A sentence for every block of README.md that differs from its text."""
    return [
        f"README.md: block {name!r} differs from the records; `{COMMAND}` updates it"
        for name, text in texts.items()
        if with_block(readme, name, text) != readme
    ]


def table(records: Iterable[Record]) -> str:
    """Markdown: for each machine and number of threads a caption, and a row per op and workload."""
    machines: dict[tuple[Any, ...], list[Record]] = {}
    for record in (record for record in records if record["op"] != "recipe"):
        machines.setdefault((record["processor"], record["cores"], record["threads"]), []).append(record)
    return "\n\n".join(_machine(*key, machine_records) for key, machine_records in machines.items())


def _machine(processor: str, cores: int, threads: int, records: list[Record]) -> str:
    versions = ", ".join(sorted({f"torch {record['torch']}, {record['instruction_set']}" for record in records}))
    rows: dict[tuple[str, str], dict[int | None, Record]] = {}
    for record in records:
        rows.setdefault((record["op"], record["workload"]), {})[record["k"]] = record
    lines = [
        f"{processor}, {cores} cores, {threads} threads, {versions}. Cells: times the best peer (times the floor).",
        "",
        "| op | on | best peer | " + " | ".join(f"K = {k}" if k == CLUSTERS[0] else str(k) for k in CLUSTERS) + " |",
        "| --- " * (3 + len(CLUSTERS)) + "|",
    ]
    for (op, workload), by_k in rows.items():
        peers = "; ".join(dict.fromkeys(record["peer"] for record in by_k.values() if record["peer"] is not None))
        cells = [_cell(by_k.get(k)) for k in CLUSTERS]
        if None in by_k:  # an op without clusters
            cells[0] = _cell(by_k[None])
        lines.append(f"| `{op}` | {workload} | {peers} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(record: Record | None) -> str:
    if record is None:
        return ""
    peer = "" if record["to_peer"] is None else f"{record['to_peer']:.1f}x"
    floor = "" if record["to_floor"] is None else f"({record['to_floor']:.2f})"
    return f"{peer} {floor}".strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the blocks into README.md")
    parser.add_argument("--check", action="store_true", help="fail if README.md holds other blocks")
    arguments = parser.parse_args()
    path = ROOT / "README.md"
    try:
        texts, readme = blocks(), path.read_text()
        if arguments.write:
            for name, text in texts.items():
                readme = with_block(readme, name, text)
            path.write_text(readme)
        elif arguments.check:
            sys.exit("\n".join(stale(readme, texts)) or 0)
        else:
            print(texts["measured"], texts["gpu"], sep="\n\n")
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
