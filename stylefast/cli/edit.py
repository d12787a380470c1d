# SPDX-License-Identifier: Apache-2.0
"""`stylefast edit`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..catalog import Catalog
from ..editing import Grid, Job, JobOptions, Pairs, Plan, Sequential, Strategy, StyleEditor
from ..editing.strategies import STRATEGIES
from ..generators import Generator
from .arguments import NetworkOptions, Outdir, images, numbers, option_groups, shard
from .interrupts import report_interrupt


@dataclass(frozen=True)
class QueryOptions:
    """The query of the edits.

    Args:
        query: the strategy that selects the channels.
        epsilon: budgets of the sequential query, separated by commas; each gives an edit.
        rho: threshold of the sequential query.
        strength: factor of the query.
    """

    query: Literal["sequential", "simultaneous", "softmax"] = "sequential"
    epsilon: str = "1"
    rho: float = 0.1
    strength: float = 1.0

    def strategies(self) -> list[Strategy]:
        budgets = numbers("epsilon", self.epsilon)
        if self.query == "sequential":
            return [Sequential(budget, self.rho) for budget in budgets]
        return [STRATEGIES[self.query]()]


@option_groups
def edit(
    catalog: Annotated[Path, typer.Option(help="An annotated catalog of the network.")],
    targets: Annotated[
        str | None,
        typer.Option("--seeds", "--targets", help="The images to edit: seeds such as 0,1,4-6, or files of latents."),
    ] = None,
    references: Annotated[
        str | None, typer.Option(help="The images to take parts from: seeds, or files of latents.")
    ] = None,
    parts: Annotated[str | None, typer.Option(help="Parts of the catalog, separated by commas.")] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="A .csv or .jsonl file with one edit per line, instead of --parts.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip the lines of --pairs that cannot be used, and report them.")
    ] = False,
    query: QueryOptions = QueryOptions(),
    outdir: Outdir = Path("out"),
    network: NetworkOptions = NetworkOptions(),
    rgb: Annotated[bool, typer.Option(help="Whether to edit the toRGB sites too.")] = False,
    options: JobOptions = JobOptions(measure=True),
    shard_: Annotated[str, typer.Option("--shard", help="Make shard i of n of the edits: i/n.")] = "1/1",
) -> None:
    """Edit every target with every reference, part and budget, or what a file lists; goes on where it was stopped."""
    job_shard, strategies = shard(shard_), query.strategies()
    if pairs is None and None in (targets, references, parts):
        raise ValueError("edit needs --seeds, --references and --parts, or --pairs")
    if pairs is not None and (parts is not None or len(strategies) > 1):
        raise ValueError("edit takes parts from --pairs: leave out --parts, and give one --epsilon at most")
    with network.load() as (generator, group):
        editor = StyleEditor(generator, Catalog.load(catalog, generator), rgb=rgb)
        target_images = images(targets, generator, network.truncation)
        reference_images = images(references, generator, network.truncation)
        plan: Plan
        if pairs is None:
            plan = Grid(target_images, reference_images, (parts or "").split(","), strategies, strength=query.strength)
        else:
            plan = Pairs(
                pairs,
                target_images,
                reference_images,
                query=strategies[0],
                strength=query.strength,
                skip_bad=skip_bad,
            )
        metadata = _metadata(generator, network, rgb)
        job = Job(editor, plan, outdir, options, metadata=metadata, shard=job_shard, group=group)
        job.check()
        if isinstance(plan, Pairs) and plan.n_refused and job.ranks.rank == 0:
            lines = [f"{plan.n_refused} bad lines of {pairs} are left out, the first of them:", *plan.refused]
            print("\n".join(lines), file=sys.stderr)
        hint = f"edits are in {outdir}/; the same command goes on with the rest"
        with report_interrupt(lambda: f"{job.n_existing + job.n_written} of {job.total} {hint}"):
            for _ in job:
                pass
        _print_result(job, shard_)


def _metadata(generator: Generator, network: NetworkOptions, rgb: bool) -> dict[str, object]:
    return {"network": generator.name, "truncation": network.truncation, "rgb": rgb}


def _print_result(job: Job, shard: str) -> None:
    n_existing, n_written = (sum(job.ranks.gather(n)) for n in (job.n_existing, job.n_written))
    if job.ranks.rank > 0:
        return
    existing = f" ({n_existing} were there)" if n_existing else ""
    subject = "and manifest.jsonl are" if job.shard[1] == 1 else "are"
    print(f"{n_existing + n_written} edits{existing} {subject} in {job.directory}/")
    if job.shard[1] > 1:
        print(f"That is shard {shard}; the same command without --shard checks all and writes manifest.jsonl")
