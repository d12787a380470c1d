# SPDX-License-Identifier: Apache-2.0
"""Folders of edits for tests of the gallery, without a generator, and a reader of the data of the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

QUERY = {"kind": "sequential", "epsilon": 1.0, "rho": 0.1, "fractional": False}


def picture(path: Path, seed: int, size: tuple[int, int] = (32, 32)) -> None:
    """Write a smooth image of random colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = np.random.default_rng(seed).integers(0, 256, (3, 3, 3)).astype(np.uint8)
    Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC).save(path)


def entry(target: str, part: str, reference: str, epsilon: float = 1.0, **fields: Any) -> dict[str, Any]:
    """An entry of a measured edit; fields may be replaced."""
    label = f"sequential_{epsilon:g}"
    locality = {"in_mse": 0.1, "out_mse": 0.1, "delta_e_inside": 4.0, "delta_e_outside": 0.5, "ratio": 8.0}
    return {
        "file": f"{target}_{part}_{reference}_{label}.png",
        **{"target": target, "reference": reference, "part": part, "query": QUERY | {"epsilon": epsilon}},
        **{"strength": 1.0, "bytes": 1, "sha256": "", "locality": locality, "batch_size": 1},
        **{"box": [0.25, 0.25, 0.75, 0.5], **fields},
    }


def write_folder(directory: Path, entries: list[dict[str, Any]], *, originals: bool = True) -> Path:
    """Write images, originals and the manifest of entries; an image of a file that exists is kept."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in entries), encoding="utf-8")
    for number, line in enumerate(entries):
        files = [directory / line["file"]]
        if originals:
            pairs = (("targets", line["target"]), ("references", line["reference"]))
            files += [directory / "originals" / kind / f"{name}.png" for kind, name in pairs]
        for seed, file in enumerate(files, 10 * number):
            if not file.exists():
                picture(file, seed)
    return directory


def grid_folder(directory: Path, **options: Any) -> Path:
    """A folder of 3 targets x 2 parts x 2 references x 2 budgets, all with different figures."""
    names = [
        (f"seed{target:04}", part, f"seed{reference:04}", epsilon)
        for target in (1, 2, 3)
        for part in ("eyes", "mouth")
        for reference in (7, 8)
        for epsilon in (0.25, 1.0)
    ]
    entries = []
    for number, name in enumerate(names):
        inside, outside = float(number * 7 % 24 + 1), (number * 5 % 24 + 1) / 8
        figures = {"delta_e_inside": inside, "delta_e_outside": outside, "ratio": inside / outside}
        entries.append(entry(*name, locality=figures))
    return write_folder(directory, entries, **options)


def contents(directory: Path) -> dict[str, bytes]:
    """Contents of all files of a gallery."""
    paths = [directory / "gallery.html", *(directory / "gallery").rglob("*.*")]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def data(directory: Path, number: int = 0) -> dict[str, Any]:
    """Data of a script of the page."""
    text = (directory / "gallery" / "data" / f"{number:04}.js").read_text("ascii")
    assert text.startswith("addEdits(") and text.endswith(");\n")
    return json.loads(text.removeprefix("addEdits(").removesuffix(");\n"))


def meta(directory: Path) -> dict[str, Any]:
    """Facts about the whole gallery, which stand in the page."""
    text = (directory / "gallery.html").read_text("utf-8")
    return json.loads(text.split('<script id="meta" type="application/json">')[1].split("</script>")[0])
