# SPDX-License-Identifier: Apache-2.0
"""What commands have in common: options, and what the texts that they take mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..editing import ImageSource, SeedLatents, StoredLatents
from ..editing.sources import SEEDS
from ..generators import Generator

Network = Annotated[
    str, typer.Option(help='"random-face" (real faces), its wheel, a converted .safetensors, or "toy:sg1|sg2|sg3".')
]
Trunc = Annotated[float, typer.Option(help="Truncation psi.")]
Device = Annotated[str, typer.Option(help="cpu or cuda; under torchrun cuda is each process' own GPU.")]
Tf32 = Annotated[bool, typer.Option(help="On a GPU, let cuDNN compute float32 convolutions in TF32.")]
Outdir = Annotated[Path, typer.Option(help="Where to write.")]


def seeds(text: str) -> list[int]:
    """Seeds as NVlabs' tools take them: "0,1,4-6" is 0, 1, 4, 5, 6."""
    found: list[int] = []
    for item in text.split(","):
        if not (range_ := re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", item)):
            raise ValueError(f"seeds must look like 0,1,4-6, got {text!r}")
        first, last = int(range_[1]), int(range_[2] or range_[1])
        if last < first:
            raise ValueError(f"seeds must rise from first to last, got {item.strip()!r}")
        found += range(first, last + 1)
    return found


def images(text: str | None, generator: Generator, truncation: float) -> ImageSource:
    """The images of seeds, of a file of latents or styles, or of several with commas; of None, those of all seeds."""
    if text is not None and Path(text).suffix:
        return StoredLatents.load(text if Path(text).exists() or "," not in text else text.split(","), generator)
    given: Sequence[int] = SEEDS if text is None else seeds(text)
    return SeedLatents(generator, given, truncation=truncation)


def numbers(name: str, text: str) -> list[float]:
    """Numbers with commas."""
    try:
        return [float(item) for item in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} must be numbers with commas, such as 0.25,1, got {text!r}") from None


def share(text: str) -> tuple[int, int]:
    """Which of how many: "2/8" is (1, 8)."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"shard must look like 1/8, from 1/8 to 8/8, got {text!r}")
    return int(found[1]) - 1, int(found[2])
