# SPDX-License-Identifier: Apache-2.0
"""`stylefast catalog build | show | annotate`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from .. import figures
from ..catalog import FFHQ_REGIONS, BuildOptions, Catalog, Clustering, LatentBatches, Region, read_clusters
from ..catalog.inputs import KMEANS_OPTIONS, changed
from ..catalog.pickled import Clusters
from ..catalog.regions import check_part_name
from ..core.lists import seeds, split
from ..distributed import Ranks
from ..figures.figures import require_matplotlib
from ..figures.memberships import MAX_MAPS
from ..generators import Generator
from ..io.outputs import check_output_file, check_output_folder
from .arguments import FLAGS, NetworkOptions, choice, example, option_groups, utf8
from .interrupts import report_interrupt
from .terminal import remark, say

MAX_DRAWN = 100  # images of a figure
CELL = 384  # pixels of an image in a figure
TITLES = {  # key in a file -> title
    "contribution_images": "images of the contributions",
    "epochs": "epochs of the factorisation",
    "n_reseeded": "relocated clusters",
    "objectives": "objectives of the restarts",
    "overlaps": "overlaps of the parts with their boxes, by restart",
    "relative_error": "squared error of the factorisation, relative to the squared norm of the data",
    "run": "chosen restart",
    "seed": "seed of k-means",
    "seeds": "seeds of the images",
}

app: typer.Typer = typer.Typer(no_args_is_help=True, help="Build, show and annotate catalogs.")


@app.command("build", epilog=example("stylefast catalog build --seeds 0-159 --out my.safetensors"))
@option_groups
def build(
    out: Annotated[Path, typer.Option(help="File to write the catalog to, a .safetensors file.")],
    boxes: Annotated[
        Literal["ffhq", "none"],
        typer.Option(
            help="Boxes that name the clusters and choose the restart: the parts of aligned faces (ffhq), or none.",
            **choice("ffhq", "none"),
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
            "clusters and their names are used, and k-means is not run: it excludes --clusters, --method, --restarts, "
            "--seed and --run. If the file names clusters, --boxes is ignored.",
            rich_help_panel="Clustering",
        ),
    ] = None,
    network: NetworkOptions = NetworkOptions(),
    options: BuildOptions = BuildOptions(),
) -> None:
    """Build a catalog: cluster a layer, and measure the contribution of every style channel to every cluster.

    If the command was stopped, run it again: with --workdir, it resumes where it was stopped.
    """
    _check_build(out, options.workdir, clustering)
    rows = seeds("--seeds", seeds_)
    pickled = None if centroids is None else _read_clusters(centroids, clustering)
    named = pickled.parts if pickled is not None else {}
    workdir = options.workdir
    hint = "without --workdir nothing is kept" if workdir is None else f"the same command resumes from {workdir}/"
    with network.load() as (generator, group), report_interrupt(lambda: hint):
        if Ranks(group).rank == 0:
            remark(f"catalog of {len(rows):,} images of {generator.name} into {out}")
        catalog = Catalog.build(
            generator,
            LatentBatches(generator, rows, truncation=network.truncation, size=options.shard_images),
            clustering,
            options,
            regions=named or (FFHQ_REGIONS if boxes == "ffhq" else None),
            centroids=None if pickled is None else pickled.centroids,
            contribution_images=contribution_images,
            group=group,
        )
        catalog.provenance |= {"seeds": seeds_, "truncation": network.truncation}
        if Ranks(group).rank == 0:
            if "overlaps" in catalog.provenance:
                remark(_choice(catalog.provenance))
            catalog.save(out)
            say(f"{out}: K = {catalog.n_clusters}, parts: {_parts(catalog)}")


@app.command(epilog=example("stylefast catalog show my.safetensors --outdir figures"))
@option_groups
def show(
    catalog: Annotated[Path, typer.Argument(help="Catalog to show, a .safetensors file.")],
    outdir: Annotated[
        Path | None,
        typer.Option(
            help="Folder for clusters.png, contributions.png and, if the catalog was built with --method nmf, "
            "memberships.png. By default no figures are drawn."
        ),
    ] = None,
    seeds_: Annotated[
        str, typer.Option("--seeds", help="Seeds of the images on which the clusters are drawn, such as 0,1,4-6.")
    ] = "0-5",
    network: NetworkOptions = NetworkOptions(),
) -> None:
    """Print the contents of a catalog and, with --outdir, draw its clusters and contributions.

    Only the figures need the generator.
    """
    rows = seeds("--seeds", seeds_)
    if outdir is not None:
        require_matplotlib()
        check_output_folder("outdir", outdir)
        if len(rows) > MAX_DRAWN:
            raise ValueError(f"seeds must be those of at most {MAX_DRAWN} images to draw, got {len(rows):,}")
    loaded = read_catalog(catalog)
    say(f"{loaded.generator}, layer {loaded.layer}, K = {loaded.n_clusters}, {len(loaded.sites)} sites")
    say(f"parts: {_parts(loaded)}")
    for name, value in loaded.provenance.items():
        say(f"{TITLES.get(name, name)}: {_readable(value)}")
    if outdir is not None:
        with network.load() as (generator, _):
            check_generator(catalog, loaded, generator)
            drawn = _draw(loaded, generator, generator.latents(rows, truncation=network.truncation), outdir)
        say(f"{', '.join(drawn[:-1])} and {drawn[-1]} are in {outdir}/")


@app.command(epilog=example("stylefast catalog annotate my.safetensors --boxes ffhq --part eyes=3,17"))
@option_groups
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
            "faces (ffhq). A --part replaces the box of the same name.",
            **choice("ffhq"),
        ),
    ] = None,
) -> None:
    """Name the clusters of a catalog. The new names replace all previous names."""
    if not (part or boxes):
        raise ValueError("annotate needs --part, such as --part eyes=3,17, or --boxes ffhq")
    loaded = read_catalog(catalog)
    regions: dict[str, Region] = dict(FFHQ_REGIONS) if boxes == "ffhq" else {}
    named: dict[str, Region] = {}
    for text in part or []:
        name, _, ids = text.rpartition("=")
        name = utf8(name.strip())
        if not name or not all(re.fullmatch(r"\d{1,9}", k) for k in split(ids)):
            raise ValueError(f"part must look like eyes=3,17, got {text!r}")
        if name in named:
            raise ValueError(f"part must be given once per name, got {name!r} twice")
        named[name] = [int(k) for k in split(ids)]
    loaded.annotate(regions | named).save(catalog)
    say(_parts(loaded))


def read_catalog(path: Path) -> Catalog:
    """Read a catalog. Raise FileNotFoundError with the command that makes one if it does not exist."""
    try:
        return Catalog.load(path)
    except FileNotFoundError:
        hint = f"`stylefast catalog build --out {path}` makes a catalog"
        raise FileNotFoundError(f"{path} does not exist: {hint}") from None


def check_generator(path: Path, catalog: Catalog, generator: Generator) -> None:
    """Raise ValueError with the name of the file if a catalog belongs to another generator."""
    try:
        catalog.check(generator)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}") from None


def _check_build(out: Path, workdir: Path | None, clustering: Clustering) -> None:
    """Raise ValueError if the outputs of a build cannot be written, or options exclude each other."""
    check_output_file("out", out, ".safetensors")
    if workdir is not None:
        check_output_folder("workdir", workdir)
    if clustering.method == "nmf" and (given := _given(clustering, KMEANS_OPTIONS)):
        raise ValueError(f"--method nmf does not run k-means: leave out {', '.join(given)}")


def _read_clusters(path: Path, clustering: Clustering) -> Clusters:
    """Read clusters of other tools. Raise ValueError if options of k-means were given, or a part has a bad name."""
    pickled = read_clusters(path)
    if given := _given(clustering, ("n_clusters", "method", "n_init", "seed", "run")):
        raise ValueError(f"--centroids gives the clusters, and k-means is not run: leave out {', '.join(given)}")
    for part in pickled.parts:
        check_part_name(part)
    return pickled


def _readable(value: Any) -> str:
    """Return the text of a value of the provenance. Numbers have five digits."""
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_readable(x)}" for name, x in value.items())
    if isinstance(value, list):
        return ("; " if any(isinstance(x, dict) for x in value) else ", ").join(map(_readable, value))
    return str(value)


def _given(clustering: Clustering, names: Iterable[str]) -> list[str]:
    """Return the flags of the options, out of some fields, that differ from their defaults."""
    return [FLAGS.get(name, f"--{name}") for name in changed(clustering, names)]


def _choice(provenance: dict[str, Any]) -> str:
    """Return which restart was chosen by the boxes, with the overlaps of its parts."""
    run, overlaps = provenance["run"], provenance["overlaps"]
    parts = ", ".join(f"{part} {overlap:.2f}" for part, overlap in overlaps[run].items())
    return (
        f"restart {run} of 0 to {len(overlaps) - 1} fits the boxes best, with the overlaps {parts}; "
        "--run chooses another"
    )


def _draw(catalog: Catalog, generator: Generator, w: torch.Tensor, outdir: Path) -> list[str]:
    """Draw the figures of a catalog, and return the names of their files."""
    images = generator.synthesize(generator.styles(w), w)
    labels = catalog.labels(generator, w, size=figures.label_size(generator.image_size, CELL))
    overlay = figures.cluster_overlay(images, labels, n_clusters=catalog.n_clusters, cell=CELL)
    figures.save(overlay, outdir / "clusters.png")
    sites = [(site.name, site.start, site.stop) for site in catalog.sites]
    parts = [part for part, ids in catalog.parts.items() if ids]
    names = parts or [str(k) for k in range(catalog.n_clusters)]
    m = torch.stack([catalog.contribution(part) for part in parts]) if parts else catalog.contributions  # [P, S]
    figures.save(figures.contribution_map(m, names, sites), outdir / "contributions.png")
    if catalog.method == "kmeans":
        return ["clusters.png", "contributions.png"]
    shown = catalog.occupancy.mean((1, 2)).argsort(descending=True)[:MAX_MAPS].sort().values.tolist()
    if len(shown) < catalog.n_clusters:
        remark(f"memberships.png shows the {MAX_MAPS} clusters with the largest memberships")
    part_of = {k: part for part, ids in catalog.parts.items() for k in ids}
    titles = [f"{k} {part_of.get(k, '')}".strip() for k in shown]
    maps = figures.membership_maps(images, catalog.memberships(generator, w)[:, shown], names=titles)
    figures.save(maps, outdir / "memberships.png")
    return ["clusters.png", "contributions.png", "memberships.png"]


def _parts(catalog: Catalog) -> str:
    return ", ".join(f"{part} {ids}" for part, ids in catalog.parts.items()) or "none"
