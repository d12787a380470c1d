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
from ..figures.figures import require_matplotlib
from ..generators import Generator
from .arguments import NetworkOptions, example, option_groups, seeds
from .interrupts import report_interrupt

app: typer.Typer = typer.Typer(no_args_is_help=True, help="Build, show and annotate catalogs.")


@app.command("build", epilog=example("stylefast catalog build --seeds 0-159 --out my.safetensors"))
@option_groups
def build(
    out: Annotated[Path, typer.Option(help="File to write the catalog to, a .safetensors file.")],
    boxes: Annotated[
        Literal["ffhq", "none"],
        typer.Option(
            help="Boxes that name the clusters: the parts of aligned faces (ffhq), or no boxes (none).",
            metavar="<ffhq | none>",
        ),
    ] = "ffhq",
    seeds_: Annotated[
        str,
        typer.Option("--seeds", help="Seeds of the images to cluster, such as 0,1,4-6.", rich_help_panel="Images"),
    ] = "0-159",
    contribution_images: Annotated[
        int | None,
        typer.Option(
            help="Number of images on which the contributions M are measured, from the start of --seeds. "
            "The default is all images.",
            rich_help_panel="Images",
        ),
    ] = None,
    clustering: Clustering = Clustering(),
    centroids: Annotated[
        Path | None,
        typer.Option(
            help="Pickle file with a k-means estimator of scikit-learn or a catalog of the paper's authors. Its "
            "clusters and their names are used, and k-means is not run: --clusters, --restarts, --seed and --run are "
            "ignored. If the file names clusters, --boxes is ignored too.",
            rich_help_panel="Clustering",
        ),
    ] = None,
    network: NetworkOptions = NetworkOptions(),
    options: BuildOptions = BuildOptions(),
) -> None:
    """Build a catalog: cluster a layer, and measure the contribution of every style channel to every cluster.

    If the command was stopped, run it again: with --workdir, it resumes where it was stopped.
    """
    rows = seeds(seeds_)
    pickled = None if centroids is None else read_clusters(centroids)
    workdir = options.workdir
    hint = "without --workdir nothing is kept" if workdir is None else f"the same command resumes from {workdir}/"
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
            print(f"{out}: K = {catalog.n_clusters}, parts: {_parts(catalog)}")


@app.command(epilog=example("stylefast catalog show my.safetensors --outdir figures"))
@option_groups
def show(
    catalog: Annotated[Path, typer.Argument(help="Catalog to show, a .safetensors file.")],
    outdir: Annotated[
        Path | None,
        typer.Option(help="Folder for clusters.png and contributions.png. By default no figures are drawn."),
    ] = None,
    seeds_: Annotated[
        str, typer.Option("--seeds", help="Seeds of the images on which the clusters are drawn, such as 0,1,4-6.")
    ] = "0-5",
    network: NetworkOptions = NetworkOptions(),
) -> None:
    """Print the contents of a catalog and, with --outdir, draw its clusters and contributions.

    Only the figures need the generator.
    """
    if outdir is not None:
        require_matplotlib()
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


@app.command(epilog=example("stylefast catalog annotate my.safetensors --boxes ffhq --part eyes=3,17"))
def annotate(
    catalog: Annotated[Path, typer.Argument(help="Catalog to change, a .safetensors file.")],
    part: Annotated[
        list[str] | None,
        typer.Option(help="Part and the ids of its clusters, such as eyes=3,17. The option can be repeated."),
    ] = None,
    boxes: Annotated[
        Literal["ffhq"] | None,
        typer.Option(
            help="Boxes that name the clusters without a --part: the eyes, nose, mouth, skin and background of aligned "
            "faces (ffhq). A --part replaces the box of the same name."
        ),
    ] = None,
) -> None:
    """Name the clusters of a catalog. The new names replace all previous names."""
    if not (part or boxes):
        raise ValueError("annotate needs --part, such as --part eyes=3,17, or --boxes ffhq")
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
