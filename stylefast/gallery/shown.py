# SPDX-License-Identifier: Apache-2.0
"""What the gallery shows of an edit: the fields of its entry, checked, and the files of its images."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.text import shortened
from ..editing.originals import KINDS, find_original
from ..io.images import FORMATS

SYMBOLS = {"epsilon": "ε", "rho": "ρ", "strength": "λ"}
WHOLE = (0.0, 0.0, 1.0, 1.0)  # box of an edit whose region is unknown


@dataclass(frozen=True)
class ShownEdit:
    """Edit as the gallery shows it.

    Args:
        file: File name of the image.
        names: Target, part, reference and query.
        label: End of the file name without the suffix if the file name begins with the other names, else None.
        box: Left, top, right and bottom edge of the part in fractions of the image.
        figures: Change inside the part, change outside of it and their ratio as the manifest has them, or None.
        originals: Files of the unedited target and reference, or None.
    """

    file: str
    names: tuple[str, str, str, str]
    label: str | None
    box: tuple[float, ...]
    figures: tuple[float | None, ...]
    originals: tuple[Path | None, ...]

    @property
    def stem(self) -> str:
        """File name without the suffix."""
        return os.path.splitext(self.file)[0]

    @property
    def image_format(self) -> str:
        """Suffix of the file name, without the dot."""
        return os.path.splitext(self.file)[1].removeprefix(".")


def shown_edit(directory: Path, fields: dict[str, Any]) -> ShownEdit:
    """Return what is shown of an edit.

    Args:
        directory: Folder of the edits.
        fields: Entry of the edit.

    Raises:
        ValueError: If the file is not the name of an image file in the folder.
    """
    file = fields["file"]
    stem, suffix = os.path.splitext(file)
    if os.path.basename(file) != file or suffix not in FORMATS:
        raise ValueError(f"file must be the name of a {', '.join(FORMATS)} file, got {shortened(file)!r}")
    target, part, reference = (str(fields.get(name, "")) for name in ("target", "part", "reference"))
    start = f"{target}_{part}_{reference}_"
    label = stem.removeprefix(start) if stem.startswith(start) else None
    locality = fields["locality"] if isinstance(fields["locality"], dict) else {}
    figures = (_number(locality.get(name)) for name in ("delta_e_inside", "delta_e_outside", "ratio"))
    names = zip(KINDS, (target, reference), strict=True)
    originals = (
        find_original(directory, kind, name, suffix[1:]) if os.path.basename(name) == name != "" else None
        for kind, name in names
    )
    query = query_text(fields.get("query"), fields.get("strength", 1))
    box = _box(fields.get("box"))
    return ShownEdit(file, (target, part, reference, query), label, box, tuple(figures), tuple(originals))


def query_text(query: Any, strength: Any) -> str:
    """Return a strategy with its parameters as text, such as "sequential, ε 0.25, ρ 0.1".

    Args:
        query: Field `query` of an entry.
        strength: Field `strength` of an entry, which is shown unless it is 1.
    """
    parameters = dict(query) if isinstance(query, dict) else {}
    words = [str(parameters.pop("kind", "unknown"))]
    words += [f"{SYMBOLS.get(name, name)} {_text(value)}" for name, value in parameters.items() if value is not False]
    if strength != 1:
        words.append(f"strength {_text(strength)}")
    return ", ".join(words)


def _text(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:g}"
    if isinstance(value, list):
        return "per site"
    return query_text(value, 1) if isinstance(value, dict) else shortened(json.dumps(value))


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return round(float(value), 4) if is_number else None


def _box(value: Any) -> tuple[float, ...]:
    edges = [_number(edge) for edge in value] if isinstance(value, list) and len(value) == 4 else []
    if len(edges) < 4 or None in edges:
        return WHOLE
    left, top, right, bottom = (min(1.0, max(0.0, edge)) for edge in edges if edge is not None)
    return (left, top, right, bottom) if left < right and top < bottom else WHOLE
