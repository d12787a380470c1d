# SPDX-License-Identifier: Apache-2.0
"""Results of batches: the edits of a folder with their locality, filtered and sorted, and pictures of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..editing.manifest import read_entries
from ..gallery.previews import crop_around
from ..gallery.shown import ShownEdit, shown_edit
from ..io.images import UNREADABLE, read_image, to_pillow
from .workspace import Workspace

ORDERS = {  # name -> (key, whether large values come first)
    "File name": ("file", False),
    "ΔE inside, high first": ("inside", True),
    "ΔE outside, low first": ("outside", False),
    "Ratio, high first": ("ratio", True),
}
MISSING, GAP = "#d8dce3", 2  # colour of a missing image; pixels between two images


@dataclass(frozen=True)
class Result:
    """One edit of a folder.

    Args:
        edit: Names, locality and files of the edit.
        network: Name of the generator.
        truncation: Truncation psi of the latents of seeds.
    """

    edit: ShownEdit
    network: str | None
    truncation: float | None

    @property
    def file(self) -> str:
        return self.edit.file

    @property
    def part(self) -> str:
        return self.edit.names[1]

    @property
    def inside(self) -> float | None:
        """Mean CIELAB difference inside the part, or None if it was not measured."""
        return self.edit.figures[0]

    @property
    def outside(self) -> float | None:
        """Mean CIELAB difference outside the part, or None if it was not measured."""
        return self.edit.figures[1]

    @property
    def ratio(self) -> float | None:
        """`inside / outside`, which is inf if nothing changed outside, or None if nothing changed at all."""
        return math.inf if self.outside == 0 and self.inside else self.edit.figures[2]

    @property
    def seed(self) -> int | None:
        """Seed of the target, or None if it has another name than that of a seed."""
        target = self.edit.names[0]
        digits = target.removeprefix("seed")
        return int(digits) if digits != target and digits.isdecimal() else None

    @property
    def caption(self) -> str:
        """Four lines: part, target and reference; query; locality; its ratio."""
        target, part, reference, query = self.edit.names
        locality = f"ΔE inside {figure(self.inside)} · ΔE outside {figure(self.outside)}\nratio {figure(self.ratio)}"
        return f"{part} · {target} ← {reference}\n{query}\n{locality}"


def read_results(directory: Path) -> list[Result]:
    """Return the edits that the manifest and the journals of a folder list. Without the folder, there are none.

    Raises:
        ValueError: If a line is not an entry of an edit. The message names the line.
    """
    if not directory.is_dir():
        return []
    with read_entries(directory) as entries:
        fields = (json.loads(line) for _, _, line in entries.lines())
        return [Result(shown_edit(directory, each), each.get("network"), each.get("truncation")) for each in fields]


def select(
    results: Iterable[Result],
    parts: Sequence[str] = (),
    *,
    min_inside: float | None = None,
    max_outside: float | None = None,
    order: str = "File name",
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


def original(result: Result, workspace: Workspace) -> Image.Image | None:
    """Return the unedited target: the one beside the edits or, for a seed of the page's generator, a new one.

    Otherwise, return None.
    """
    if (kept := kept_original(result)) is not None:
        return kept
    same = (workspace.generator.name, workspace.truncation) == (result.network, result.truncation)
    return to_pillow(workspace.image(result.seed)) if same and result.seed is not None else None


def kept_original(result: Result) -> Image.Image | None:
    """Return the unedited target that is kept beside the edits, or None."""
    path = result.edit.originals[0]
    return None if path is None else picture(Path(path))


def picture(path: Path) -> Image.Image | None:
    """Return an image, or None if the file is missing, damaged or not a regular file."""
    try:
        return read_image(path)
    except UNREADABLE:
        return None


def thumbnail(directory: Path, result: Result, size: tuple[int, int] = (240, 180)) -> Image.Image:
    """Return the part in the target, if that is kept beside the edits, and in the edit. A missing edit is grey."""
    edit = picture(directory / result.file) or Image.new("RGB", size, MISSING)
    images = [image for image in (kept_original(result), edit) if image is not None]
    sheet = Image.new("RGB", (len(images) * size[0] + GAP * (len(images) - 1), size[1]), "white")
    for i, image in enumerate(images):
        sheet.paste(close_up(image, result, size), (i * (size[0] + GAP), 0))
    return sheet


def close_up(image: Image.Image, result: Result, size: tuple[int, int] = (960, 720)) -> Image.Image:
    """Return the part of an edit in an image, with its surroundings, in a size."""
    left, top, right, bottom = map(round, crop_around(result.edit.box, image.size))
    return image.crop((left, top, right, bottom)).resize(size, Image.Resampling.LANCZOS)


def figure(value: float | None) -> str:
    """Return a measured value with two decimals, or a dash."""
    if value is None:
        return "–"
    return "∞" if math.isinf(value) else f"{value:.2f}"
