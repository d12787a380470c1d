# SPDX-License-Identifier: Apache-2.0
"""The command line: `stylefast demo | catalog build | catalog show | catalog annotate | edit | bench | info`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from . import demo as demonstration
from . import figures, generators
from .__main__ import report
from .catalog import Catalog
from .editing import Query, Sequential, Simultaneous, Softmax, StyleEditor
from .output import save_edits
from .regions import FFHQ_REGIONS, Region

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Local editing of StyleGAN images.")
catalogs = typer.Typer(no_args_is_help=True, help="Build, look at and annotate catalogs.")
app.add_typer(catalogs, name="catalog")

Network = Annotated[str, typer.Option(help='"random-face" (real faces), its wheel, or "toy:sg1|sg2|sg3".')]
Trunc = Annotated[float, typer.Option(help="Truncation psi.")]
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


@app.command()
def demo(outdir: Outdir = Path("demo"), network: Network = "random-face") -> None:
    """Edit the eyes, nose and mouth of real faces: catalog, edits, figures, locality."""
    summary = demonstration.run(outdir, network=network)
    print("Mean CIELAB difference inside / outside the part:\n" + demonstration.table(summary))
    print(f"Figures, edited images, manifest and summary.json are in {outdir}/")


@catalogs.command("build")
def build(
    out: Annotated[Path, typer.Option(help="The catalog, a .safetensors file.")],
    network: Network = "random-face",
    seeds_: Annotated[str, typer.Option("--seeds", help="Images to learn from, such as 0,1,4-6.")] = "0-159",
    trunc: Trunc = 0.7,
    resolution: Annotated[int, typer.Option(help="Rows of the layer to cluster.")] = 16,
    layer: Annotated[str | None, typer.Option(help="The layer to cluster, by name.")] = None,
    clusters: Annotated[int, typer.Option(help="K.")] = 32,
    restarts: Annotated[int, typer.Option(help="Runs of k-means; the best objective wins.")] = 8,
    run: Annotated[int | None, typer.Option(help="Take this run's clusters instead.")] = None,
    seed: Annotated[int, typer.Option(help="Of k-means.")] = 0,
    features: Annotated[str, typer.Option(help="raw, standardized or squared.")] = "raw",
    contribution_images: Annotated[int | None, typer.Option(help="Measure M on the first so many images.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images a forward pass.")] = 4,
    boxes: Annotated[str, typer.Option(help='"ffhq" names the parts of aligned faces; "none".')] = "ffhq",
) -> None:
    """Build a catalog: cluster a layer and measure what every channel contributes to every cluster."""
    if boxes not in ("ffhq", "none"):
        raise ValueError(f'boxes must be "ffhq" or "none", got {boxes!r}')
    rows = seeds(seeds_)
    generator = generators.load(network)
    catalog = Catalog.build(
        generator,
        generator.latents(rows, truncation=trunc),
        n_clusters=clusters,
        layer=layer,
        resolution=resolution,
        features=features,
        n_init=restarts,
        seed=seed,
        run=run,
        contribution_images=contribution_images,
        batch_size=batch_size,
    )
    catalog.provenance |= {"seeds": seeds_, "truncation": trunc}
    if boxes == "ffhq":
        catalog.annotate(FFHQ_REGIONS)
    catalog.save(out)
    print(f"{out}: {_parts(catalog)}")


@catalogs.command()
def show(
    catalog: Annotated[Path, typer.Argument(help="A catalog.")],
    outdir: Annotated[Path | None, typer.Option(help="Also draw clusters and contributions there.")] = None,
    network: Network = "random-face",
    seeds_: Annotated[str, typer.Option("--seeds", help="Images to draw clusters on.")] = "0-5",
    trunc: Trunc = 0.7,
) -> None:
    """Print what a catalog holds; draw its clusters and contributions."""
    loaded = Catalog.load(catalog)
    print(f"{loaded.generator}, layer {loaded.layer}, K = {loaded.n_clusters}, {len(loaded.sites)} sites")
    print(f"parts: {_parts(loaded)}")
    for name, value in loaded.provenance.items():
        print(f"{name}: {value}")
    if outdir is None:
        return
    generator = generators.load(network)
    loaded.check(generator)
    w = generator.latents(seeds(seeds_), truncation=trunc)
    images, labels = generator.synthesize(generator.styles(w), w), loaded.labels(generator, w)
    overlay = figures.cluster_overlay(images, labels, n_clusters=loaded.n_clusters, cell=384)
    figures.save(overlay, outdir / "clusters.png")
    sites = [(site.name, site.start, site.stop) for site in loaded.sites]
    named = [part for part, ids in loaded.parts.items() if ids]
    rows = named or [str(k) for k in range(loaded.n_clusters)]
    m = torch.stack([loaded.contribution(part) for part in named]) if named else loaded.contributions  # [P, S]
    figures.save(figures.contribution_map(m, rows, sites), outdir / "contributions.png")
    print(f"clusters.png and contributions.png are in {outdir}/")


@catalogs.command()
def annotate(
    catalog: Annotated[Path, typer.Argument(help="A catalog; rewritten whole or not at all.")],
    part: Annotated[list[str] | None, typer.Option(help="name=ids, such as eyes=3,17; several times.")] = None,
    boxes: Annotated[str | None, typer.Option(help='"ffhq" names what --part leaves.')] = None,
) -> None:
    """Name a catalog's clusters, in place of the names so far."""
    if boxes not in ("ffhq", None) or not (part or boxes):
        raise ValueError(f'annotate needs --part name=ids or --boxes "ffhq", got boxes {boxes!r}')
    loaded = Catalog.load(catalog)
    regions: dict[str, Region] = dict(FFHQ_REGIONS) if boxes == "ffhq" else {}
    for text in part or []:
        name, _, ids = text.partition("=")
        if not name or not re.fullmatch(r"\d+(,\d+)*", ids):
            raise ValueError(f"part must look like eyes=3,17, got {text!r}")
        regions[name] = [int(k) for k in ids.split(",")]
    loaded.annotate(regions).save(catalog)
    print(_parts(loaded))


@app.command()
def edit(
    catalog: Annotated[Path, typer.Option(help="An annotated catalog of the network.")],
    seeds_: Annotated[str, typer.Option("--seeds", help="Targets, such as 0,1,4-6.")],
    references: Annotated[str, typer.Option(help="References, likewise.")],
    parts: Annotated[str, typer.Option(help="Parts of the catalog, with commas.")],
    outdir: Outdir = Path("out"),
    network: Network = "random-face",
    trunc: Trunc = 0.7,
    query: Annotated[str, typer.Option(help="sequential, simultaneous or softmax.")] = "sequential",
    epsilon: Annotated[str, typer.Option(help="Budgets of the sequential query, with commas.")] = "1",
    rho: Annotated[float, typer.Option(help="Threshold of the sequential query.")] = 0.1,
    strength: Annotated[float, typer.Option(help="Multiplies the query.")] = 1.0,
    rgb: Annotated[bool, typer.Option(help="Also edit the toRGB sites.")] = False,
    measure: Annotated[bool, typer.Option(help="Measure locality for the manifest.")] = True,
    batch_size: Annotated[int, typer.Option(help="Edits a forward pass.")] = 4,
    image_format: Annotated[str, typer.Option("--format", help="png, jpg or webp.")] = "png",
) -> None:
    """Edit every target with every reference, part and budget; write images and manifest.jsonl."""
    kinds: dict[str, list[Query]] = {
        "sequential": [Sequential(budget, rho) for budget in _numbers(epsilon)],
        "simultaneous": [Simultaneous()],
        "softmax": [Softmax()],
    }
    if query not in kinds:
        raise ValueError(f"query must be one of {', '.join(kinds)}, got {query!r}")
    if image_format not in ("png", "jpg", "webp"):
        raise ValueError(f"format must be png, jpg or webp, got {image_format!r}")
    rows = [seeds(text) for text in (seeds_, references)]
    generator = generators.load(network)
    editor = StyleEditor(generator, Catalog.load(catalog, generator), rgb=rgb)
    targets, sources = (generator.latents(row, truncation=trunc) for row in rows)
    batches = editor.edit(
        targets,
        sources,
        parts.split(","),
        queries=kinds[query],
        strength=strength,
        measure=measure,
        batch_size=batch_size,
    )
    names = [[f"seed{seed:04d}" for seed in row] for row in rows]
    saved = save_edits(
        batches,
        outdir,
        targets=names[0],
        references=names[1],
        strength=strength,
        settings={"network": generator.name, "catalog": str(catalog), "truncation": trunc, "rgb": rgb},
        suffix=f".{image_format}",
    )
    print(f"{sum(len(batch.edits) for batch in saved)} edits and manifest.jsonl are in {outdir}/")


@app.command()
def bench(
    rounds: Annotated[int, typer.Option(help="Timed calls of every candidate, in turn.")] = 15,
    only: Annotated[str, typer.Option(help="Workloads with this regular expression in their id.")] = "",
    record: Annotated[bool, typer.Option(help="Append to benchmarks/results/.")] = False,
) -> None:
    """Compare the CPU kernels with other ways to do the same, and with this machine's limits (in a checkout)."""
    script = Path(__file__).parents[1] / "benchmarks" / "peers.py"
    if not script.is_file():
        raise FileNotFoundError("the benchmarks are in the source repository: run this in a checkout, pip install -e .")
    options = ["--rounds", str(rounds), "--only", only, *(["--record"] if record else [])]
    raise typer.Exit(subprocess.run([sys.executable, str(script), *options]).returncode)  # threads bind at its start


@app.command()
def info() -> None:
    """Print versions, the op x backend grid, and why a backend cannot run."""
    print(report())


def _numbers(text: str) -> list[float]:
    try:
        return [float(item) for item in text.split(",")]
    except ValueError:
        raise ValueError(f"epsilon must be numbers with commas, such as 0.25,1, got {text!r}") from None


def _parts(catalog: Catalog) -> str:
    return ", ".join(f"{part} {ids}" for part, ids in catalog.parts.items()) or "none"


def main() -> None:
    """Runs the command line; an error that the user can mend is one line, not a traceback."""
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"stylefast: {error}")
