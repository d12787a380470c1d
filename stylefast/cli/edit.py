# SPDX-License-Identifier: Apache-2.0
"""`stylefast edit`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..core.lists import numbers, seeds, split
from ..editing import Grid, Job, JobOptions, Pairs, Plan, Sequential, Strategy, StyleEditor
from ..editing.strategies import STRATEGIES
from ..generators import Generator
from ..io.outputs import check_output_folder
from .arguments import SynthesisOptions, image_files, images, option_groups, shard, utf8
from .catalog import check_generator, read_catalog
from .interrupts import report_interrupt
from .terminal import remark, say


@dataclass(frozen=True)
class QueryOptions:
    """The query of the edits.

    Args:
        query: Strategy that selects the channels: those with the largest contribution to the part until a budget is
            spent (sequential), all in proportion to their contribution (simultaneous), or those that belong to the
            part clearly more than to any other part (softmax).
        epsilon: Budgets of the sequential strategy, separated by commas. Each budget gives an edit of its own. Without
            this option and --rho, budget and threshold adapt to the part. Other strategies ignore this option.
        rho: Threshold of the sequential strategy, from 0 to 1. Channels whose contribution is not above it keep the
            style of the target. With --epsilon, it is 0.1 by default. Other strategies ignore this option.
        strength: Factor of every query.
    """

    query: Literal["sequential", "simultaneous", "softmax"] = "sequential"
    epsilon: str | None = None
    rho: float | None = None
    strength: float = 1.0

    def strategies(self) -> list[Strategy]:
        """Return one sequential strategy per budget, or the other strategy."""
        budgets = [None] if self.epsilon is None else numbers("epsilon", self.epsilon)
        if self.query == "sequential":
            return [Sequential(budget, self.rho) for budget in budgets]
        return [STRATEGIES[self.query]()]


@dataclass(frozen=True)
class ImageOptions:
    """The targets, references and parts of the edits.

    Args:
        targets: Images to edit: seeds such as 0,1,4-6, or files of latents, separated by commas. With --pairs, the
            file may name only these images as targets, or any seed without this option.
        references: Images to take parts from: seeds, or files of latents or styles, separated by commas. With
            --pairs, the file may name only these images as references, or any seed without this option.
        parts: Parts of the catalog, separated by commas. Every target is edited with every reference, part and
            budget. Cannot be combined with --pairs.
        pairs: File with one edit per line: a .csv file, whose first line names the columns, or a .jsonl file with one
            object per line. The columns or keys target, reference and part are required. The optional query, epsilon,
            rho and strength override --query, --epsilon, --rho and --strength for the line. If a line names a strategy
            other than --query, --epsilon and --rho are not used for it. --epsilon must be a single budget.
        skip_bad: Whether to skip the lines of --pairs that cannot be used, and report them. Otherwise the first such
            line is an error.
    """

    targets: str | None = None
    references: str | None = None
    parts: str | None = None
    pairs: Path | None = None
    skip_bad: bool = False

    def check(self, strategies: list[Strategy]) -> None:
        """Raise ValueError if options are missing or exclude each other."""
        if self.pairs is None and self.skip_bad:
            raise ValueError("--skip-bad needs --pairs, the file whose bad lines are skipped")
        required = {"--seeds": self.targets, "--references": self.references, "--parts": self.parts}
        missing = [flag for flag, value in required.items() if value is None]
        if self.pairs is None and missing:
            raise ValueError(f"without --pairs, edit needs {', '.join(required)}; missing: {', '.join(missing)}")
        if self.pairs is not None and self.parts is not None:
            raise ValueError("with --pairs, edit takes the parts from the file: leave out --parts")
        if self.pairs is not None and len(strategies) > 1:
            raise ValueError(f"with --pairs, edit takes one --epsilon, got {len(strategies)}")

        if self.pairs is not None and not self.pairs.exists():
            raise FileNotFoundError(f"{self.pairs} does not exist")
        for flag, text in (("--seeds", self.targets), ("--references", self.references)):
            if (named := image_files(text)) is not None:
                for file in [named] if isinstance(named, str) else named:
                    if not Path(file).exists():
                        raise FileNotFoundError(
                            f"{flag} must be seeds such as 0,1,4-6 or files, and {file} does not exist"
                        )
            elif text is not None:
                seeds(flag, text)

    def plan(self, generator: Generator, truncation: float, strategies: list[Strategy], strength: float) -> Plan:
        """Return the plan of the edits."""
        targets = images("--seeds", self.targets, generator, truncation)
        references = images("--references", self.references, generator, truncation)
        if self.pairs is None:
            parts = [utf8(part) for part in split(self.parts or "")]
            return Grid(targets, references, parts, strategies, strength=strength)
        return Pairs(self.pairs, targets, references, query=strategies[0], strength=strength, skip_bad=self.skip_bad)


@option_groups
def edit(
    catalog: Annotated[Path, typer.Option(help="Annotated catalog of the generator, a .safetensors file.")],
    selection: ImageOptions = ImageOptions(),
    query: QueryOptions = QueryOptions(),
    rgb: Annotated[
        bool,
        typer.Option(
            help="Whether to edit the toRGB sites too, which change colours in the whole image.",
            rich_help_panel="Query",
        ),
    ] = False,
    network: SynthesisOptions = SynthesisOptions(),
    outdir: Annotated[
        Path,
        typer.Option(
            help="Folder for the images and manifest.jsonl. It is created if necessary.", rich_help_panel="Output"
        ),
    ] = Path("out"),
    options: JobOptions = JobOptions(measure=True, originals=True),
    shard_: Annotated[
        str,
        typer.Option(
            "--shard",
            help="Shard of the job, i/n. Only the edits of this shard are made. Shards are counted from 1: 2/8 is the "
            "second of eight. After all shards, run the command without --shard, which writes manifest.jsonl.",
            rich_help_panel="Run",
        ),
    ] = "1/1",
) -> None:
    """Edit every target with every reference, part and budget, or make the edits that a file lists.

    If the command was stopped, run it again: it keeps the finished images and makes the others.
    """
    job_shard, strategies = shard(shard_), query.strategies()
    if job_shard[1] > 1 and network.engine == "auto":
        raise ValueError("engine must be named with --shard, because shards could choose different ones, got auto")
    selection.check(strategies)
    check_output_folder("outdir", outdir)
    loaded = read_catalog(catalog)
    with network.load() as (generator, group):
        check_generator(catalog, loaded, generator)
        editor = StyleEditor(generator, loaded, rgb=rgb)
        plan = selection.plan(generator, network.truncation, strategies, query.strength)
        metadata = {"network": generator.name, "truncation": network.truncation, "rgb": rgb}
        job = Job(editor, plan, outdir, options, metadata=metadata, shard=job_shard, group=group)
        job.check()
        network.use_engine(job)
        if isinstance(plan, Pairs) and plan.n_refused and job.ranks.rank == 0:
            remark(_skipped(plan))
        if job.ranks.rank == 0:
            remark(f"{_count(job.total, 'edit')} of images of {generator.name} into {outdir}/")
        hint = "the same command makes the rest"
        with report_interrupt(
            lambda: f"{outdir}/ has {job.n_existing + job.n_written} of {_count(job.total, 'edit')}; {hint}"
        ):
            for _ in job:
                pass
        _print_result(job, shard_)


def _skipped(plan: Pairs) -> str:
    """Return the report of the skipped lines of a file."""
    first = f", of which these are the first {len(plan.refused)}" if plan.n_refused > len(plan.refused) else ""
    return "\n".join([f"skipped {_count(plan.n_refused, 'bad line')} of {plan.path}{first}:", *plan.refused])


def _print_result(job: Job, shard: str) -> None:
    n_existing, n_written = (sum(job.ranks.gather(n)) for n in (job.n_existing, job.n_written))
    if job.ranks.rank > 0:
        return
    n_edits = n_existing + n_written
    existing = f" ({n_existing} {'was' if n_existing == 1 else 'were'} there)" if n_existing else ""
    if job.shard[1] == 1:
        say(f"{_count(n_edits, 'edit')}{existing} and manifest.jsonl are in {job.directory}/")
        remark(f"`stylefast gallery {shlex.quote(str(job.directory))}` shows {'it' if n_edits == 1 else 'them'}")
        return
    say(f"{_count(n_edits, 'edit')}{existing} of shard {shard} {'is' if n_edits == 1 else 'are'} in {job.directory}/")
    say("After all shards, the same command without --shard checks all edits and writes manifest.jsonl")


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
