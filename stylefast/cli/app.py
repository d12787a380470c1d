# SPDX-License-Identifier: Apache-2.0
"""The command line: `stylefast demo | catalog build | show | annotate | edit | convert | bench | info`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer

from .. import figures, generators
from ..catalog import FFHQ_REGIONS, Catalog, LatentBatches, Region, read_clusters
from ..distributed import Ranks, process_group
from ..editing import Grid, Job, Pairs, Query, Sequential, StyleEditor
from ..editing.pairs import KINDS
from ..generators.convert import convert as converted
from . import demo as demonstration
from .arguments import Device, Network, Outdir, Tf32, Trunc, images, numbers, seeds, share
from .report import report

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Local editing of StyleGAN images.")
catalogs = typer.Typer(no_args_is_help=True, help="Build, look at and annotate catalogs.")
app.add_typer(catalogs, name="catalog")

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


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
    centroids: Annotated[Path | None, typer.Option(help="Take the clusters and names of a pickled catalog.")] = None,
    restarts: Annotated[int, typer.Option(help="Runs of k-means; the best objective wins.")] = 8,
    run: Annotated[int | None, typer.Option(help="Take this run's clusters instead.")] = None,
    seed: Annotated[int, typer.Option(help="Of k-means.")] = 0,
    features: Annotated[str, typer.Option(help="raw, standardized or squared.")] = "raw",
    contribution_images: Annotated[int | None, typer.Option(help="Measure M on the first so many images.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images a forward pass.")] = 4,
    boxes: Annotated[str, typer.Option(help='"ffhq" names the parts of aligned faces; "none".')] = "ffhq",
    workdir: Annotated[Path | None, typer.Option(help="Keep the state here; a build that was stopped goes on.")] = None,
    dtype: Annotated[str, typer.Option(help="Of kept activations: float32, float16 or bfloat16.")] = "float32",
    device: Device = "cpu",
    tf32: Tf32 = True,
) -> None:
    """Build a catalog: cluster a layer and measure what every channel contributes to every cluster."""
    if boxes not in ("ffhq", "none"):
        raise ValueError(f'boxes must be "ffhq" or "none", got {boxes!r}')
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    rows, old = seeds(seeds_), None if centroids is None else read_clusters(centroids)
    with process_group(device) as (group, here), _stopped_by_hand(lambda: _resumed(workdir)):
        torch.backends.cudnn.allow_tf32 = tf32
        generator = generators.load(network, device=here)
        catalog = Catalog.build(
            generator,
            LatentBatches(generator, rows, truncation=trunc),
            n_clusters=clusters,
            centroids=None if old is None else old.centroids,
            layer=layer,
            resolution=resolution,
            features=features,
            n_init=restarts,
            seed=seed,
            run=run,
            contribution_images=contribution_images,
            batch_size=batch_size,
            dtype=DTYPES[dtype],
            workdir=workdir,
            group=group,
        )
        catalog.provenance |= {"seeds": seeds_, "truncation": trunc}
        if old is not None and old.parts:
            catalog.annotate(old.parts)
        elif boxes == "ffhq":
            catalog.annotate(FFHQ_REGIONS)
        if Ranks(group).rank == 0:
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
    targets: Annotated[str | None, typer.Option("--seeds", "--targets", help="0,1,4-6, or files of latents.")] = None,
    references: Annotated[str | None, typer.Option(help="References, likewise.")] = None,
    parts: Annotated[str | None, typer.Option(help="Parts of the catalog, with commas.")] = None,
    pairs: Annotated[Path | None, typer.Option(help="Instead: a .csv or .jsonl file with an edit a line.")] = None,
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
    writers: Annotated[int, typer.Option(help="Threads that encode and write.")] = 2,
    shard: Annotated[str, typer.Option(help="Make the i-th of n parts of the edits only: i/n.")] = "1/1",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out bad lines of --pairs, and report.")] = False,
    device: Device = "cpu",
    tf32: Tf32 = True,
) -> None:
    """Edit every target with every reference, part and budget, or what a file lists; go on where a job was stopped."""
    part, queries = share(shard), _queries(query, epsilon, rho)
    if pairs is None and None in (targets, references, parts):
        raise ValueError("edit needs --seeds, --references and --parts, or --pairs")
    if pairs is not None and (parts is not None or len(queries) > 1):
        raise ValueError("edit takes parts from --pairs: leave out --parts, and give one --epsilon at most")
    with process_group(device) as (group, here):
        torch.backends.cudnn.allow_tf32 = tf32
        generator = generators.load(network, device=here)
        editor = StyleEditor(generator, Catalog.load(catalog, generator), rgb=rgb)
        own, others = (images(text, generator, trunc) for text in (targets, references))
        plan = (
            Grid(editor, own, others, (parts or "").split(","), queries, strength=strength)
            if pairs is None
            else Pairs(editor, pairs, own, others, query=queries[0], strength=strength, skip_bad=skip_bad)
        )
        job = Job(
            plan,
            outdir,
            settings={"network": generator.name, "truncation": trunc, "rgb": rgb},
            suffix=f".{image_format}",
            batch_size=batch_size,
            measure=measure,
            writers=writers,
            share=part,
            group=group,
        )
        if isinstance(plan, Pairs) and plan.n_refused and job.ranks.rank == 0:
            lines = [f"{plan.n_refused} bad lines of {pairs} are left out, the first of them:", *plan.refused]
            print("\n".join(lines), file=sys.stderr)
        rest = f"edits are in {outdir}/; the same command goes on with the rest"
        with _stopped_by_hand(lambda: f"{job.found + job.made} of {job.total} {rest}"):
            for _ in job:
                pass
        _print_result(job, shard)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A .pkl, .pt or .pth file of another code base.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    label: Annotated[int | None, typer.Option("--class", help="Of a conditional network: the class to show.")] = None,
) -> None:
    """Make a network of another code base into a file for --network; nothing that is in it is run."""
    for name, value in converted(source, target, label=label).items():
        print(f"{name}: {value}")


@app.command()
def bench(
    rounds: Annotated[int, typer.Option(help="Timed calls of every candidate, in turn.")] = 15,
    only: Annotated[str, typer.Option(help="Workloads with this regular expression in their id.")] = "",
    record: Annotated[bool, typer.Option(help="Append to benchmarks/results/.")] = False,
) -> None:
    """Compare the CPU kernels with other ways to do the same, and with this machine's limits (in a checkout)."""
    script = Path(__file__).parents[2] / "benchmarks" / "peers.py"
    if not script.is_file():
        raise FileNotFoundError("the benchmarks are in the source repository: run this in a checkout, pip install -e .")
    options = ["--rounds", str(rounds), "--only", only, *(["--record"] if record else [])]
    raise typer.Exit(subprocess.run([sys.executable, str(script), *options]).returncode)  # threads bind at its start


@app.command()
def info() -> None:
    """Print versions, the op x backend grid, and why a backend cannot run."""
    print(report())


def _queries(kind: str, epsilon: str, rho: float) -> list[Query]:
    if kind not in KINDS:
        raise ValueError(f"query must be one of {', '.join(KINDS)}, got {kind!r}")
    budgets = numbers("epsilon", epsilon)
    return [Sequential(budget, rho) for budget in budgets] if kind == "sequential" else [KINDS[kind]()]


def _print_result(job: Job, shard: str) -> None:
    found, made = (sum(job.ranks.gather(n)) for n in (job.found, job.made))
    if job.ranks.rank > 0:
        return
    there = f" ({found} were there)" if found else ""
    listed = "and manifest.jsonl are" if job.share[1] == 1 else "are"
    print(f"{found + made} edits{there} {listed} in {job.directory}/")
    if job.share[1] > 1:
        print(f"That is shard {shard}; the same command without --shard checks all and writes manifest.jsonl")


@contextmanager
def _stopped_by_hand(message: Callable[[], str]) -> Iterator[None]:
    """Ends the command with the message if the block is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"stylefast: interrupted: {message()}", file=sys.stderr)
        raise typer.Exit(130) from None


def _resumed(workdir: Path | None) -> str:
    return "without --workdir nothing is kept" if workdir is None else f"the same command goes on from {workdir}/"


def _parts(catalog: Catalog) -> str:
    return ", ".join(f"{part} {ids}" for part, ids in catalog.parts.items()) or "none"


def main() -> None:
    """Runs the command line; an error that the user can mend is one line, not a traceback."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch's: a layer of 100 MB is 50 page faults, not 25,000
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"stylefast: {error}")
