# SPDX-License-Identifier: Apache-2.0
"""Write the tables of README.md and docs from the records in benchmarks/results, and from the predictions for GPUs.

Usage::

    python benchmarks/documents.py            # prints the tables
    python benchmarks/documents.py --write    # writes them into the pages
    python benchmarks/documents.py --check    # fails if a table in a page differs from the records
    python benchmarks/documents.py --summary  # prints edits per second and fits of the newest machine
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from typing import Any

import curves
import edit_tables
import roofline
from gpu import table as gpu_table
from provenance import RESULTS, ROOT
from recipes import markdown
from record import newest
from workloads import CLUSTERS

COMMAND = "python benchmarks/documents.py --write"
PAGES = {  # page of each block
    "headline": "README.md",
    "measured": "docs/performance.md",
    "predictions": "docs/performance.md",
    "cuda predictions": "docs/performance.md",
    "gpu": "docs/performance.md",
    "recipes": "docs/guides/drop_in.md",
    "defaults": "docs/design.md",
    "alternatives": "docs/design.md",
}
FIT = "SphericalKMeans.fit"
HEADLINES: dict[tuple[str, str, int | None], str] = {  # op, workload, K -> task in README.md
    ("lloyd_step", "64x512x32x32", 32): "one k-means iteration",
    ("assign", "64x512x32x32", 32): "labels",
    ("contribution", "64x512x32x32", 32): "M from labels",
    ("assign_contribution", "64x512x32x32", 32): "labels and M in one read",
    ("contribution", "4x64x512x512 from 32x32", 32): "M of 4 images, 64 channels at 512 x 512",
    ("blend", "4096x9088 gathered", None): "4,096 edits of 9,088 style channels",
    (FIT, "200x512x32x32 10 restarts of 20", None): "10 restarts, K = 20, 200 images",
}
Record = dict[str, Any]


def blocks() -> dict[str, str]:
    """Return the Markdown of each block, from the newest records."""
    records = newest()
    return {
        "headline": headline(records),
        "measured": table(records),
        "predictions": roofline.markdown(json.loads(roofline.PREDICTIONS.read_text(encoding="utf-8"))),
        "cuda predictions": roofline.markdown(json.loads(roofline.CUDA_PREDICTIONS.read_text(encoding="utf-8"))),
        "gpu": gpu_table.table(gpu_table.read(RESULTS / "gpu")),
        "recipes": markdown(record for record in records if record["op"] == "recipe"),
        "defaults": curves.table(curves.read()),
        "alternatives": curves.alternatives(curves.read()),
    }


def markers(name: str) -> tuple[str, str]:
    """Return the comments that mark the beginning and the end of a block in a page."""
    return f"<!-- {name}: {COMMAND} -->", f"<!-- /{name} -->"


def with_block(text: str, page: str, name: str, block: str) -> str:
    """Return the text of a page with the given block in place of the old one.

    Raises:
        ValueError: If the page does not contain both markers, once each and in order.
    """
    begin, end = markers(name)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{page} must hold {begin} and then {end}, once each")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{block}\n{end}{rest.split(end)[1]}"


def headline(records: Iterable[Record]) -> str:
    """Return the tables of README.md: edits per second and the rows of HEADLINES, from the newest machine with them."""
    machine = next(m for m in by_machine(records).values() if any(map(_is_headline, m)))
    chosen = {_key(record): record for record in machine}
    last = max(machine, key=lambda record: record["date"])
    edits = edit_tables.headline(machine)
    lines = [
        f"Machine: {last['processor']}, {last['threads']} threads, torch {last['torch']}, {last['instruction_set']}."
        + (" Edits per second and, in brackets, the speed-up over the plain loop:" if edits else ""),
        "",
        *([*edits, ""] if edits else []),
        "Kernels. Unless a row says otherwise: 64 images, 512 channels, 32 x 32 positions, K = 32 clusters.",
        "",
        "| op | task | fastest alternative | speed-up | time / bound |",
        "| --- | --- | --- | --- | --- |",
    ]
    for key, task in HEADLINES.items():
        if (record := chosen.get(key)) is not None:
            bound = "" if record["to_floor"] is None else f"{record['to_floor']:.1f}"
            lines.append(f"| `{key[0]}` | {task} | {record['peer']} | {record['to_peer']:.1f}x | {bound} |")
    return "\n".join(lines)


def summary(records: Iterable[Record]) -> str:
    """Return the tables of edits per second (network x engine x batch) and of fits, of the machine of the headline."""
    machine = next(m for m in by_machine(records).values() if any(map(_is_headline, m)))
    fits = [
        f"| {r['workload']} | {r['peer']} | {_ratios(r)[0]} | {r['date'][:10]} |" for r in machine if r["op"] == FIT
    ]
    head = ["| fit | alternative | speed-up | date |", "| --- " * 4 + "|"]
    return "\n".join([*edit_tables.table(machine), "", *(head if fits else []), *fits])


def table(records: Iterable[Record]) -> str:
    """Return one caption and its tables per machine and number of threads: edits, then ops by K, then other tasks."""
    return "\n\n".join(_machine(*key, machine_records) for key, machine_records in by_machine(records).items())


def by_machine(records: Iterable[Record]) -> dict[tuple[str, str, int, int], list[Record]]:
    """Return the records by processor, instruction set, cores and threads, the machine with the newest record first."""
    machines: dict[tuple[str, str, int, int], list[Record]] = {}
    for record in records:
        if record["op"] != "recipe":
            key = record["processor"], record["instruction_set"], record["cores"], record["threads"]
            machines.setdefault(key, []).append(record)
    newest_first = sorted(machines, key=lambda key: max(record["date"] for record in machines[key]), reverse=True)
    return {key: machines[key] for key in newest_first}


def _key(record: Record) -> tuple[str, str, int | None]:
    return record["op"], record["workload"], record["k"]


def _is_headline(record: Record) -> bool:
    return record["op"] == edit_tables.OP or _key(record) in HEADLINES


def _machine(processor: str, instruction_set: str, cores: int, threads: int, records: list[Record]) -> str:
    parts = [processor, instruction_set, f"{cores} cores", "1 thread" if threads == 1 else f"{threads} threads"]
    parts += sorted({f"torch {record['torch']}" for record in records})
    parts.append(max(record["date"] for record in records)[:10])
    edits = edit_tables.table(records)
    rows: dict[tuple[str, str], dict[int | None, Record]] = {}
    for record in records:
        if record["op"] != edit_tables.OP:
            rows.setdefault((record["op"], record["workload"]), {})[record["k"]] = record
    has_serial = any(record.get("to_serial_floor") is not None for record in records)
    bounds = "time / bound, time / serial bound" if has_serial else "time / bound"
    lines = [
        f"**{', '.join(parts)}.** Cells by K are: speed-up ({bounds}).",
        "",
        *([*edits, ""] if edits else []),
        "| op | workload | fastest alternative | " + " | ".join(f"K = {k}" for k in CLUSTERS) + " |",
        "| --- " * (3 + len(CLUSTERS)) + "|",
    ]
    for (op, workload), by_k in rows.items():
        if None not in by_k:
            cells = [_cell(by_k.get(k)) for k in CLUSTERS]
            lines.append(f"| `{op}` | {workload} | {_peers(by_k.values())} | {' | '.join(cells)} |")
        for part in dict.fromkeys(part for record in by_k.values() for part in record.get("to_part", {})):
            ratios = (by_k.get(k, {}).get("to_part", {}).get(part) for k in CLUSTERS)
            cells = ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
            lines.append(f"| `{op}` | {workload} | time / {part} | {' | '.join(cells)} |")
    lines += ["", f"| task | workload | fastest alternative | speed-up | {bounds} |", "| --- " * 5 + "|"]
    for (op, workload), by_k in sorted(rows.items(), key=lambda row: row[0][0] != FIT):
        if None in by_k:
            speed_up, bound = _ratios(by_k[None])
            lines.append(f"| `{op}` | {workload} | {_peers(by_k.values())} | {speed_up} | {bound} |")
    return "\n".join(lines)


def _peers(records: Iterable[Record]) -> str:
    return "; ".join(dict.fromkeys(record["peer"] for record in records if record["peer"] is not None))


def _ratios(record: Record) -> tuple[str, str]:
    speed_up = "" if record["to_peer"] is None else f"{record['to_peer']:.1f}x"
    bounds = (record["to_floor"], record.get("to_serial_floor"))
    return speed_up, ", ".join(f"{bound:.2f}" for bound in bounds if bound is not None)


def _cell(record: Record | None) -> str:
    if record is None:
        return ""
    speed_up, bound = _ratios(record)
    return f"{speed_up} ({bound})".strip() if bound else speed_up


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="Write the tables into the pages.")
    parser.add_argument("--check", action="store_true", help="Fail if a table in a page differs from the records.")
    parser.add_argument("--summary", action="store_true", help="Print the tables of edits per second and of fits only.")
    arguments = parser.parse_args()
    stale = []
    try:
        for name, block in blocks().items():
            path = ROOT / PAGES[name]
            text = path.read_text(encoding="utf-8")
            updated = with_block(text, PAGES[name], name, block)
            if arguments.write:
                path.write_text(updated, encoding="utf-8")
            elif not arguments.check and not arguments.summary:
                print(block, end="\n\n")
            elif updated != text:
                stale.append(f"{PAGES[name]}: block {name!r} differs from the records; `{COMMAND}` updates it")
    except ValueError as error:
        sys.exit(str(error))
    if arguments.summary:
        print(summary(newest()))
    sys.exit("\n".join(stale) or 0)


if __name__ == "__main__":
    main()
