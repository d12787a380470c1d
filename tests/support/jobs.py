# SPDX-License-Identifier: Apache-2.0
"""Jobs of the toy generator, and readers of the files that they write."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from editors import editor_of
from networks import shared

from stylefast.editing import Grid, Job, JobOptions, Plan, SeedLatents, Sequential, Simultaneous, StyleEditor
from stylefast.generators import Generator

QUERIES = (Sequential(2.0), Simultaneous())


def grid(
    targets: tuple[int, ...] = (1, 2, 3),
    references: tuple[int, ...] = (7,),
    parts: Any = ("nose", "eyes"),
    queries: Any = QUERIES,
    *,
    generator: Generator | None = None,
    strength: float = 1.0,
) -> Grid:
    """A grid. With the default arguments, it has 12 edits."""
    generator = generator or shared("sg2")
    sources = (SeedLatents(generator, list(seeds)) for seeds in (targets, references))
    return Grid(*sources, parts, queries, strength=strength)


def job(
    directory: Path, plan: Plan | None = None, *, editor: StyleEditor | None = None, batch_size: Any = 2, **options: Any
) -> Job:
    """A job of the toy generator. The fields of `JobOptions` may be given as keywords."""
    names = {field.name for field in fields(JobOptions)}
    job_options = JobOptions(batch_size=batch_size, **{name: options.pop(name) for name in names & set(options)})
    return Job(editor or editor_of("sg2"), plan or grid(), directory, job_options, progress=False, **options)


def run(directory: Path, plan: Plan | None = None, **options: Any) -> Job:
    """Run a job to its end and return it."""
    ended = job(directory, plan, **options)
    for _ in ended:
        pass
    return ended


def files(directory: Path) -> dict[str, bytes]:
    """Contents of all files of a folder and its subfolders, by their paths in it."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def without_journals(directory: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Contents of the files of a folder except for its journals, and the entries of the journals."""
    left, entries = files(directory), []
    for name in sorted(name for name in left if name.startswith("manifest.0")):
        header, *lines = left.pop(name).splitlines()
        assert json.loads(header)["journal"] == name.split(".")[2]
        entries += [json.loads(line)[1] for line in lines]
    return left, entries


def journal(directory: Path) -> Path:
    """The only journal of a folder."""
    (path,) = directory.glob("manifest.0*.jsonl")
    return path


def manifest(directory: Path) -> list[dict[str, Any]]:
    """Entries of the manifest of a folder. NaN and Infinity, which are not valid JSON, raise AssertionError."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not valid JSON")

    text = (directory / "manifest.jsonl").read_text("utf-8")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
