# SPDX-License-Identifier: Apache-2.0
"""Records of the figures: one JSON line per figure in results/<machine>.jsonl. documents.py makes tables from them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from provenance import RESULTS, context, machine
from timing import Figure


def line(figure: Figure) -> str:
    """Return a figure as text with ratios only: the best peer on the first line, one further peer per line below."""
    name = f"{figure.op} {figure.workload}" + ("" if figure.k is None else f" K={figure.k}")
    floor = "" if figure.to_floor is None else f"{figure.to_floor:5.2f} x floor ({figure.median_to_floor:.2f})"
    if figure.peer is None:
        return f"{name:<56}{floor}".rstrip()
    other_peers = "".join(f"\n{'':<80}{ratio:5.1f}x{'':8}{peer}" for peer, ratio in list(figure.peers.items())[1:])
    return f"{name:<56}{floor:<22}  {figure.to_peer:5.1f}x ({figure.median_to_peer:.1f}x) {figure.peer}{other_peers}"


def append(figure: Figure, folder: Path = RESULTS) -> None:
    """Append the record of a figure, with everything needed to reproduce it, to the file of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{machine()}.jsonl").open("a") as file:
        file.write(json.dumps(context() | asdict(figure)) + "\n")


def newest(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the newest record of every figure, in the order in which the figures first appear.

    Raises:
        FileNotFoundError: If there is no record.
    """
    records: dict[tuple[Any, ...], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for text in path.read_text().splitlines():
            entry = json.loads(text)
            records[(path.stem, *(entry[name] for name in ("threads", "op", "workload", "k")))] = entry
    if not records:
        raise FileNotFoundError(f"no record in {folder}: run `make bench`")
    return list(records.values())
