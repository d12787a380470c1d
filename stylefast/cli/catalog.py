# SPDX-License-Identifier: Apache-2.0
"""`stylefast catalog build | show | annotate`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from .. import figures
from ..catalog import FFHQ_REGIONS, BuildOptions, Catalog, Clustering, LatentBatches, Region, read_clusters
from ..distributed import Ranks
from ..generators import Generator
from .arguments import NetworkOptions, option_groups, seeds
from .interrupts import report_interrupt

app: typer.Typer = typer.Typer(no_args_is_help=True, help="Build, show and annotate catalogs.")


@app.command("build")
@option_groups
def build(
    out: Annotated[Path, typer.Option(help="The catalog to write, a .safetensors file.")],
    network: NetworkOptions = NetworkOptions(),
    seeds_: Annotated[str, typer.Option("--seeds", help="Images to learn from, such as 0,1,4-6.")] = "0-159",
    clustering: Clustering = Clustering(),
    centroids: Annotated[
        Path | None, typer.Option(help="A pickled k-means or catalog whose clusters and names are taken.")
    ] = None,
    contribution_images: Annotated[
        int | None, typer.Option(help="Number of images that M is measured on, the first ones; default: all images.")
    ] = None,
    options: BuildOptions = BuildOptions(),
    boxes: Annotated[
        Literal["ffhq", "none"], typer.Option(help='Whether to name the parts of aligned faces ("ffhq").')
    ] = "ffhq",
) -> None:
    """Build a catalog: cluster a layer and measure what every channel contributes to every cluster."""
    rows = seeds(seeds_)
    pickled = None if centroids is None else read_clusters(centroids)
    workdir = options.workdir
    hint = "without --workdir nothing is kept" if workdir is None else f"the same command goes on from {workdir}/"
    with network.load() as (generator, group), report_interrupt(lambda: hint):
        catalog = Catalog.build(
            generator,
            LatentBatches(generator, rows, truncation=network.truncation, size=options.shard_images),
            clustering,
            options,
            centroids=None if pickled is None else pickled.centroids,
            contribution_images=contribution_images,
            group=group,
        )
        catalog.provenance |= {"seeds": seeds_, "truncation": network.truncation}
        if pickled is not None and pickled.parts:
            catalog.annotate(pickled.parts)
        elif boxes == "ffhq":
            catalog.annotate(FFHQ_REGIONS)
        if Ranks(group).rank == 0:
            catalog.save(out)
            print(f"{out}: {_parts(catalog)}")


@app.command()
@option_groups
def show(
    catalog: Annotated[Path, typer.Argument(help="The catalog.")],
    outdir: Annotated[
        Path | None, typer.Option(help="The folder for figures of clusters and contributions; default: no figures.")
    ] = None,
    network: NetworkOptions = NetworkOptions(),
    seeds_: Annotated[str, typer.Option("--seeds", help="Seeds of the images that show the clusters.")] = "0-5",
) -> None:
    """Print what a catalog contains; draw its clusters and contributions."""
    loaded = Catalog.load(catalog)
    print(f"{loaded.generator}, layer {loaded.layer}, K = {loaded.n_clusters}, {len(loaded.sites)} sites")
    print(f"parts: {_parts(loaded)}")
    for name, value in loaded.provenance.items():
        print(f"{'n_relocated' if name == 'n_reseeded' else name}: {value}")
    if outdir is not None:
        with network.load() as (generator, _):
            loaded.check(generator)
            _draw(loaded, generator, generator.latents(seeds(seeds_), truncation=network.truncation), outdir)
        print(f"clusters.png and contributions.png are in {outdir}/")


@app.command()
def annotate(
    catalog: Annotated[Path, typer.Argument(help="The catalog; it is rewritten as a whole or not at all.")],
    part: Annotated[
        list[str] | None, typer.Option(help="A part and its clusters, such as eyes=3,17; may be repeated.")
    ] = None,
    boxes: Annotated[
        Literal["ffhq"] | None, typer.Option(help="Name the remaining clusters after the parts of aligned faces.")
    ] = None,
) -> None:
    """Name the clusters of a catalog, in place of the names so far."""
    if not (part or boxes):
        raise ValueError("annotate needs --part name=ids or --boxes ffhq")
    loaded = Catalog.load(catalog)
    regions: dict[str, Region] = dict(FFHQ_REGIONS) if boxes == "ffhq" else {}
    for text in part or []:
        name, _, ids = text.partition("=")
        if not name or not re.fullmatch(r"\d+(,\d+)*", ids):
            raise ValueError(f"part must look like eyes=3,17, got {text!r}")
        regions[name] = [int(k) for k in ids.split(",")]
    loaded.annotate(regions).save(catalog)
    print(_parts(loaded))


def _draw(catalog: Catalog, generator: Generator, w: torch.Tensor, outdir: Path) -> None:
    images, labels = generator.synthesize(generator.styles(w), w), catalog.labels(generator, w)
    overlay = figures.cluster_overlay(images, labels, n_clusters=catalog.n_clusters, cell=384)
    figures.save(overlay, outdir / "clusters.png")
    sites = [(site.name, site.start, site.stop) for site in catalog.sites]
    parts = [part for part, ids in catalog.parts.items() if ids]
    names = parts or [str(k) for k in range(catalog.n_clusters)]
    m = torch.stack([catalog.contribution(part) for part in parts]) if parts else catalog.contributions  # [P, S]
    figures.save(figures.contribution_map(m, names, sites), outdir / "contributions.png")


def _parts(catalog: Catalog) -> str:
    return ", ".join(f"{part} {ids}" for part, ids in catalog.parts.items()) or "none"
