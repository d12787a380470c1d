# SPDX-License-Identifier: Apache-2.0
"""Results of batches: the edits of a folder with their locality, filtered and sorted, and pictures of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..editing.manifest import Entries
from ..io.images import flatten, to_pillow
from ..io.private import folder_lock
from .workspace import Workspace

ORDERS = {  # name -> (key, whether large values come first)
    "file name": ("file", False),
    "In, high first": ("inside", True),
    "Out, low first": ("outside", False),
    "ratio, high first": ("ratio", True),
}
MISSING, GAP = "#d8dce3", 2  # colour of a missing image; pixels between two images


@dataclass(frozen=True)
class Result:
    """One edit of a folder.

    Args:
        file: File name of the image.
        target: Name of the target.
        reference: Name of the reference.
        part: Name of the part.
        query: Strategy and strength, as people read them.
        inside: Mean CIELAB difference inside the part, or None if it was not measured.
        outside: Mean CIELAB difference outside the part, or None if it was not measured.
        network: Name of the generator.
        truncation: Truncation psi of the latents of seeds.
    """

    file: str
    target: str
    reference: str
    part: str
    query: str
    inside: float | None
    outside: float | None
    network: str | None
    truncation: float | None

    @property
    def ratio(self) -> float | None:
        """`inside / outside`, which is inf if nothing changed outside, or None if nothing changed at all."""
        if self.inside is None or self.outside is None:
            return None
        if self.outside == 0:
            return math.inf if self.inside else None
        return self.inside / self.outside

    @property
    def seed(self) -> int | None:
        """Seed of the target, or None if it has another name than that of a seed."""
        digits = self.target.removeprefix("seed")
        return int(digits) if digits != self.target and digits.isdecimal() else None

    @property
    def caption(self) -> str:
        """Part, target, reference, query and locality in one line."""
        return f"{self.part} · {self.target} ← {self.reference} · {self.query}"

    @property
    def figures(self) -> str:
        """Locality in one line."""
        return f"In {figure(self.inside)} · Out {figure(self.outside)} · ratio {figure(self.ratio)}"


def read_results(directory: Path) -> list[Result]:
    """Return the edits that the manifest and the journals of a folder list. Without the folder, there are none.

    Raises:
        ValueError: If a line is not an entry of an edit. The message names the line.
    """
    if not directory.is_dir():
        return []
    with folder_lock(directory, shared=True), Entries(directory) as entries:
        return [_result(json.loads(line)) for _, _, line in entries.lines()]


def select(
    results: Iterable[Result],
    parts: Sequence[str] = (),
    *,
    min_inside: float | None = None,
    max_outside: float | None = None,
    order: str = "file name",
) -> list[Result]:
    """Filter and sort results.

    Args:
        results: Results of a folder.
        parts: Parts that are kept. Without any, all are.
        min_inside: Least difference inside the part. Edits without a measurement are then left out.
        max_outside: Largest difference outside the part. Edits without a measurement are then left out.
        order: One of `ORDERS`. Edits without a value come last.
    """

    def is_kept(result: Result) -> bool:
        if parts and result.part not in parts:
            return False
        if min_inside is not None and (result.inside is None or result.inside < min_inside):
            return False
        return max_outside is None or (result.outside is not None and result.outside <= max_outside)

    name, descending = ORDERS[order]
    kept = sorted(filter(is_kept, results), key=lambda result: result.file)
    valued = [result for result in kept if getattr(result, name) is not None]
    rest = [result for result in kept if getattr(result, name) is None]
    return sorted(valued, key=lambda result: getattr(result, name), reverse=descending) + rest


def original(directory: Path, result: Result, workspace: Workspace) -> Image.Image | None:
    """Return the unedited target: the one beside the edits or, for a seed of the page's generator, a new one.

    Otherwise, return None.
    """
    if (kept := kept_original(directory, result)) is not None:
        return kept
    same = (workspace.generator.name, workspace.truncation) == (result.network, result.truncation)
    return to_pillow(workspace.image(result.seed)) if same and result.seed is not None else None


def kept_original(directory: Path, result: Result) -> Image.Image | None:
    """Return the unedited target that is kept beside the edits, or None."""
    return picture(directory / "originals" / "targets" / f"{result.target}{Path(result.file).suffix}")


def picture(path: Path) -> Image.Image | None:
    """Return an image, or None if the file is missing or damaged."""
    try:
        with Image.open(path) as image:
            return flatten(image).convert("RGB")
    except OSError:
        return None


def thumbnail(directory: Path, result: Result, height: int = 224) -> Image.Image:
    """Return the original, if it is kept beside the edits, and the edit side by side. A missing edit is grey."""
    edit = picture(directory / result.file) or Image.new("RGB", (height, height), MISSING)
    images = [image for image in (kept_original(directory, result), edit) if image is not None]
    sheet = Image.new("RGB", (len(images) * height + GAP * (len(images) - 1), height), "white")
    for i, image in enumerate(images):
        sheet.paste(image.resize((height, height), Image.Resampling.LANCZOS), (i * (height + GAP), 0))
    return sheet


def figure(value: float | None) -> str:
    """Return a measured value with two decimals, or a dash."""
    if value is None:
        return "–"
    return "∞" if math.isinf(value) else f"{value:.2f}"


def _result(fields: dict[str, Any]) -> Result:
    locality = fields.get("locality") or {}
    query, strength = fields["query"], fields.get("strength", 1)
    label = str(query.get("kind", "edit")) if isinstance(query, dict) else str(query)
    if label == "sequential":
        label = f"ε {_number(query.get('epsilon'))}, ρ {_number(query.get('rho'))}"
    if strength != 1:
        label += f", strength {_number(strength)}"
    return Result(
        **{name: str(fields.get(name)) for name in ("file", "target", "reference", "part")},
        query=label,
        inside=locality.get("delta_e_inside"),
        outside=locality.get("delta_e_outside"),
        network=fields.get("network"),
        truncation=fields.get("truncation"),
    )


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
