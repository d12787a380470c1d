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
    """Return a figure as text with ratios only.

    The first line holds the floor and the best peer. One further peer per line follows, then the serial floor and the
    computations of a part of the op, each with our time divided by its time.
    """
    name = f"{figure.op} {figure.workload}" + ("" if figure.k is None else f" K={figure.k}")
    floor = "" if figure.to_floor is None else f"{figure.to_floor:5.2f} x floor ({figure.median_to_floor:.2f})"
    peer = "" if figure.peer is None else f"{figure.to_peer:5.1f}x ({figure.median_to_peer:.1f}x) {figure.peer}"
    lines = [f"{name:<56}{floor:<22}  {peer}".rstrip()]
    lines += [f"{'':<80}{ratio:5.1f}x{'':8}{other}" for other, ratio in list(figure.peers.items())[1:]]
    if figure.to_serial_floor is not None:
        lines.append(f"{'':<56}{figure.to_serial_floor:5.2f} x serial floor ({figure.median_to_serial_floor:.2f})")
    lines += [f"{'':<56}{ratio:5.2f} x {part}" for part, ratio in figure.to_part.items()]
    return "\n".join(lines)


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
            records[(path.stem, *(entry[name] for name in ("instruction_set", "threads", "op", "workload", "k")))] = (
                entry
            )
    if not records:
        raise FileNotFoundError(f"no record in {folder}: run `make bench`")
    return list(records.values())
