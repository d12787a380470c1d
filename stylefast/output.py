# SPDX-License-Identifier: Apache-2.0
"""Edits on disk: an image each, and a manifest that says how each was made and how local it is."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .editing import Edit, EditBatch
from .figures import save, to_pil
from .files import replacing


def save_edits(
    batches: Iterable[EditBatch],
    directory: str | os.PathLike[str],
    *,
    targets: Sequence[str],
    references: Sequence[str],
    strength: float = 1.0,
    settings: Mapping[str, Any] | None = None,
    suffix: str = ".png",
) -> Iterator[EditBatch]:
    """Writes every edit's image as it passes by, and `manifest.jsonl` (one JSON object an edit) when all have passed.

    An image, and the manifest, appears under its name whole or not at all.

    Args:
        batches: what `StyleEditor.edit` gives.
        directory: where to write; made if need be.
        targets: names of the targets, for file names and the manifest.
        references: names of the references.
        strength: as given to `StyleEditor.edit`, for the manifest.
        settings: what else every line of the manifest shall say, as JSON can hold it.
        suffix: names the image format (".png", ".jpg", ".webp").

    Returns:
        The batches, one by one.

    Raises:
        ValueError: two edits would have one file name, or a name is that of a path.
    """
    for argument, names in (("targets", targets), ("references", references)):
        if len(set(names)) != len(names):
            raise ValueError(f"{argument} must have different names, got {', '.join(names)}")
    directory, seen = Path(directory), set()
    with replacing(directory / "manifest.jsonl") as manifest, open(manifest, "w", encoding="utf-8") as lines:
        for batch in batches:
            for i, (edit, image) in enumerate(zip(batch.edits, to_pil(batch.images), strict=True)):
                target, reference = targets[edit.target], references[edit.reference]
                name = f"{target}_{edit.part}_{reference}_{edit.query.name}{suffix}"
                if name in seen:
                    raise ValueError(f"edits must differ in target, reference, part or query, got {name} twice")
                if name != Path(name).name:
                    raise ValueError(f"names of targets, references and parts must have no separators, got {name!r}")
                seen.add(name)
                save(image, directory / name, quality=90)
                record = {"file": name, "target": target, "reference": reference, "part": edit.part}
                record |= {"query": describe(edit), "strength": strength, **(settings or {})}
                record["locality"] = _locality(batch, i)
                lines.write(json.dumps(record, allow_nan=False) + "\n")
            yield batch


def describe(edit: Edit) -> dict[str, Any]:
    """The query of an edit, as JSON can hold it."""
    return {"kind": type(edit.query).__name__.lower(), **asdict(edit.query)}


def _locality(batch: EditBatch, i: int) -> dict[str, float | None] | None:
    if batch.locality is None:
        return None
    values = {name: float(column[i]) for name, column in batch.locality._asdict().items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
