# SPDX-License-Identifier: Apache-2.0
"""`stylefast faces` and `stylefast samples`, two names of one command."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from .. import figures
from ..core.progress import progress_bar
from ..distributed import Ranks
from ..generators import Generator
from ..io.outputs import check_output_file
from .arguments import SynthesisOptions, option_groups, seeds
from .interrupts import report_interrupt
from .terminal import remark, say

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
PER_SHEET = 100  # images
MAX_IMAGES = 10_000


@option_groups
def faces(
    seeds_: Annotated[
        str, typer.Option("--seeds", help="Seeds of the images, such as 0,1,4-6. There are at most 10,000.")
    ] = "0-63",
    out: Annotated[
        Path,
        typer.Option(
            help="File to write the sheet to: .jpg, .png or .webp. A sheet has at most 100 images. Several sheets have "
            "numbers, such as images-1.jpg and images-2.jpg."
        ),
    ] = Path("images.jpg"),
    cell: Annotated[int, typer.Option(min=32, max=1024, help="Longer side of an image on the sheet in pixels.")] = 160,
    network: SynthesisOptions = SynthesisOptions(),
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.", rich_help_panel="Run")] = 1,
) -> None:
    """Draw a sheet of images with their seeds, from which you choose targets and references.

    The commands faces and samples are the same: one name for faces, and one for other images.
    """
    rows = seeds("--seeds", seeds_)
    if len(rows) > MAX_IMAGES:
        raise ValueError(f"seeds must be those of at most {MAX_IMAGES:,} images, got {len(rows):,}")
    sheets = [rows[start : start + PER_SHEET] for start in range(0, len(rows), PER_SHEET)]
    paths = [out] if len(sheets) == 1 else [_numbered(out, i + 1, len(sheets)) for i in range(len(sheets))]
    for path in paths:
        check_output_file("out", path, *SUFFIXES)
    with network.load() as (generator, group):
        if Ranks(group).rank > 0:
            return
        if network.engine != "eager":
            generator.use_engine(network.engine, batch_size=batch_size)
            remark(str(generator.engine))
        n_saved = 0
        with (
            report_interrupt(lambda: f"{n_saved} of {len(paths)} sheets are complete"),
            progress_bar(len(rows), "images", "image") as bar,
        ):
            for path, sheet in zip(paths, sheets, strict=True):
                images = _images(generator, sheet, network.truncation, batch_size, bar.update)
                names = [f"seed {seed}" for seed in sheet]
                figures.save(figures.image_sheet(images, names, cell=cell), path)
                n_saved += 1
    say(f"{len(rows):,} {'image is' if len(rows) == 1 else 'images are'} in {_listed(paths)}")


def _images(
    generator: Generator, rows: Sequence[int], truncation: float, batch_size: int, count: Callable[[int], object]
) -> Iterator[Tensor]:
    """Yield the images of seeds in batches, and count them."""
    for start in range(0, len(rows), batch_size):
        w = generator.latents(rows[start : start + batch_size], truncation=truncation)
        yield generator.synthesize(generator.styles(w), w)
        count(len(w))


def _numbered(path: Path, number: int, total: int) -> Path:
    """Return the path of one of several sheets. Numbers have the same number of digits."""
    return path.with_name(f"{path.stem}-{number:0{len(str(total))}}{path.suffix}")


def _listed(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} to {paths[-1]}"
