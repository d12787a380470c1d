# SPDX-License-Identifier: Apache-2.0
"""Curves of the change inside a part against the change outside: comparison at equal change outside, table and figure.

bench_defaults.py measures them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from provenance import RESULTS, ROOT, context

RECORDS = RESULTS / "defaults" / "curves.json"
FIGURE = ROOT / "docs" / "figures" / "defaults.png"
Record = dict[str, Any]


def inside_at(points: Sequence[Record], outside: float) -> float | None:
    """Return the change inside at a given change outside, or None if the curve does not reach it.

    The curve is linear between its points in the logarithms of both changes.
    """
    curve = sorted((math.log(p["outside"]), math.log(p["inside"])) for p in points if p["outside"] > 0)
    x, y = np.array(curve).T
    position = math.log(outside)
    return float(np.exp(np.interp(position, x, y))) if x[0] <= position <= x[-1] else None


def default_point(record: Record) -> Record:
    """Return the point of the default parameter."""
    return next(point for point in record["points"] if point["value"] == record["default"])


def gain(former: Record, current: Record, outside: float) -> float | None:
    """Return the change inside of the current setting divided by that of the former one, at equal change outside."""
    below, above = (inside_at(record["points"], outside) for record in (former, current))
    return None if below is None or above is None else above / below


def table(records: Sequence[Record]) -> str:
    """Return the Markdown of the comparison: a row per part."""
    by_setting = {(record["setting"], record["part"]): record for record in records}
    lines = [
        "| part | former defaults: inside / outside | defaults: inside / outside | gain at the former outside | "
        "gain at the present outside |",
        "| --- " * 5 + "|",
    ]
    for part in dict.fromkeys(record["part"] for record in records):
        former, current = by_setting["former", part], by_setting["default", part]
        points = [default_point(record) for record in (former, current)]
        cells = [f"{p['inside']:.2f} / {p['outside']:.2f} ({p['channels']} channels)" for p in points]
        gains = [gain(former, current, point["outside"]) for point in points]
        texts = ["" if value is None else f"{value:.2f}x" for value in gains]
        lines.append(f"| {part} | {' | '.join([*cells, *texts])} |")
    return "\n".join(lines)


def alternatives(records: Sequence[Record]) -> str:
    """Return the Markdown of the other settings: their gains over the defaults at equal change outside."""
    by_setting: dict[str, dict[str, Record]] = {}
    for record in records:
        by_setting.setdefault(record["setting"], {})[record["part"]] = record
    defaults = by_setting.pop("default")
    del by_setting["former"]
    lines = [f"| clusters | {' | '.join(defaults)} |", "| --- " * (1 + len(defaults)) + "|"]
    for setting, by_part in by_setting.items():
        gains = [gain(r, by_part[part], default_point(r)["outside"]) for part, r in defaults.items()]
        texts = ["" if value is None else f"{value:.2f}x" for value in gains]
        lines.append(f"| {setting} | {' | '.join(texts)} |")
    return "\n".join(lines)


def read() -> list[Record]:
    """Return the recorded curves."""
    return json.loads(RECORDS.read_text(encoding="utf-8"))["curves"]


def write(records: Sequence[Record]) -> None:
    """Write the records with everything needed to reproduce them, and the figure."""
    RECORDS.parent.mkdir(parents=True, exist_ok=True)
    RECORDS.write_text(json.dumps(context() | {"curves": records}, indent=1) + "\n", encoding="utf-8")
    draw(records)


def draw(records: Sequence[Record]) -> None:
    """Draw one panel per part, with both axes logarithmic."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    parts = list(dict.fromkeys(record["part"] for record in records))
    figure = Figure(figsize=(3.2 * len(parts), 2.9), layout="constrained")
    for axes, part in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        for setting, colour in (("former", "0.55"), ("default", "C0")):
            record = next(r for r in records if (r["setting"], r["part"]) == (setting, part))
            points = sorted(record["points"], key=lambda point: point["outside"])
            outside, inside = ([point[side] for point in points] for side in ("outside", "inside"))
            axes.plot(outside, inside, "o-", color=colour, markersize=4, label=setting)
            chosen = default_point(record)
            axes.plot(chosen["outside"], chosen["inside"], "o", color=colour, markersize=9, fillstyle="none")
        axes.set(xscale="log", yscale="log", title=part, xlabel="mean ΔE outside", ylabel="mean ΔE inside")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="both", labelsize=7)
        axes.grid(which="both", alpha=0.25)
        axes.legend(fontsize=8)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=110)
