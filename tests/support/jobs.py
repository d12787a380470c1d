# SPDX-License-Identifier: Apache-2.0
"""Jobs of the toy generator, and what they leave in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from editors import editor_of

from stylefast.editing import Grid, Job, SeedLatents, Sequential, Simultaneous, StyleEditor

QUERIES = (Sequential(2.0), Simultaneous())


def grid(
    t: tuple[int, ...] = (1, 2, 3),
    r: tuple[int, ...] = (7,),
    parts: Any = ("nose", "eyes"),
    queries: Any = QUERIES,
    editor: StyleEditor | None = None,
    strength: float = 1.0,
) -> Grid:
    """12 edits."""
    editor = editor or editor_of("sg2")
    own, others = (SeedLatents(editor.generator, list(seeds)) for seeds in (t, r))
    return Grid(editor, own, others, parts, queries, strength=strength)


def run(directory: Path, plan: Grid | None = None, **options: Any) -> Job:
    """A job that has ended."""
    job = Job(plan or grid(), directory, progress=False, **{"batch_size": 2} | options)
    for _ in job:
        pass
    return job


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def manifest(directory: Path) -> list[dict[str, Any]]:
    """Its records; NaN and Inf are no JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (directory / "manifest.jsonl").read_text("utf-8")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
