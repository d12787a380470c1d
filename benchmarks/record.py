# SPDX-License-Identifier: Apache-2.0
"""Figures as data: one JSON line each in results/<machine>.jsonl; README's table shows the newest of each.

python benchmarks/record.py            # prints the table
python benchmarks/record.py --readme   # writes it into README.md
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpu import table as gpu_table
from provenance import RESULTS, ROOT, context, machine
from timing import Figure
from workloads import CLUSTERS

BEGIN, END = "<!-- measured: python benchmarks/record.py --readme -->", "<!-- /measured -->"
RECIPES_BEGIN, RECIPES_END = BEGIN.replace("measured", "recipes"), END.replace("measured", "recipes")
GPU_BEGIN, GPU_END = BEGIN.replace("measured", "gpu"), END.replace("measured", "gpu")


def line(figure: Figure) -> str:
    """A figure for people, ratios alone: the best peer on its line, the others below."""
    name = f"{figure.op} {figure.workload}" + ("" if figure.k is None else f" K={figure.k}")
    floor = "" if figure.to_floor is None else f"{figure.to_floor:5.2f} x floor ({figure.median_to_floor:.2f})"
    if figure.peer is None:
        return f"{name:<56}{floor}".rstrip()
    others = "".join(f"\n{'':<80}{ratio:5.1f}x{'':8}{peer}" for peer, ratio in list(figure.peers.items())[1:])
    return f"{name:<56}{floor:<22}  {figure.to_peer:5.1f}x ({figure.median_to_peer:.1f}x) {figure.peer}{others}"


def append(figure: Figure, folder: Path = RESULTS) -> None:
    """Appends a figure, with all that is needed to make it again, to the machine's file."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{machine()}.jsonl").open("a") as file:
        file.write(json.dumps(context() | asdict(figure)) + "\n")


def newest(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The last record of every figure, in the order in which figures first appear.

    Raises: FileNotFoundError if there is none.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for text in path.read_text().splitlines():
            entry = json.loads(text)
            found[(path.stem, *(entry[name] for name in ("threads", "op", "workload", "k")))] = entry
    if not found:
        raise FileNotFoundError(f"no record in {folder}: run `make bench`")
    return list(found.values())


def table(entries: Iterable[dict[str, Any]]) -> str:
    """Markdown: for every machine and number of threads a caption, and a row for every op and workload."""
    machines: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for entry in (entry for entry in entries if entry["op"] != "recipe"):
        machines.setdefault((entry["processor"], entry["cores"], entry["threads"]), []).append(entry)
    return "\n\n".join(_machine(*key, each) for key, each in machines.items())


def _machine(processor: str, cores: int, threads: int, entries: list[dict[str, Any]]) -> str:
    versions = ", ".join(sorted({f"torch {entry['torch']}, {entry['instruction_set']}" for entry in entries}))
    rows: dict[tuple[str, str], dict[int | None, dict[str, Any]]] = {}
    for entry in entries:
        rows.setdefault((entry["op"], entry["workload"]), {})[entry["k"]] = entry
    lines = [
        f"{processor}, {cores} cores, {threads} threads, {versions}. Cells: times the best peer (times the floor).",
        "",
        "| op | on | best peer | " + " | ".join(f"K = {k}" if k == CLUSTERS[0] else str(k) for k in CLUSTERS) + " |",
        "| --- " * (3 + len(CLUSTERS)) + "|",
    ]
    for (op, workload), by_k in rows.items():
        peers = "; ".join(dict.fromkeys(e["peer"] for e in by_k.values() if e["peer"] is not None))
        cells = [_cell(by_k.get(k)) for k in CLUSTERS]
        if None in by_k:  # an op without clusters
            cells[0] = _cell(by_k[None])
        lines.append(f"| `{op}` | {workload} | {peers} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    peer = "" if entry["to_peer"] is None else f"{entry['to_peer']:.1f}x"
    floor = "" if entry["to_floor"] is None else f"({entry['to_floor']:.2f})"
    return f"{peer} {floor}".strip()


def with_table(readme: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """README with the text between two markers. Raises ValueError if they are not there, once and in order."""
    if readme.count(begin) != 1 or readme.count(end) != 1 or readme.index(begin) > readme.index(end):
        raise ValueError(f"README.md must hold {begin} and then {end}, once each")
    before, rest = readme.split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"


def with_figures(readme: str, entries: Iterable[dict[str, Any]]) -> str:
    """README with the table and the recipes of these records, and the table of the GPUs' records."""
    entries = list(entries)
    recipes = importlib.import_module("recipes").shown(e for e in entries if e["op"] == "recipe")
    readme = with_table(with_table(readme, table(entries)), recipes, RECIPES_BEGIN, RECIPES_END)
    return with_table(readme, gpu_table.table(gpu_table.read(RESULTS / "gpu")), GPU_BEGIN, GPU_END)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--readme", action="store_true", help="write the figures into README.md")
    try:
        if parser.parse_args().readme:
            path = ROOT / "README.md"
            path.write_text(with_figures(path.read_text(), newest()))
        else:
            print(table(newest()), gpu_table.table(gpu_table.read(RESULTS / "gpu")), sep="\n\n")
    except ValueError as error:
        sys.exit(str(error))
