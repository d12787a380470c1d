# SPDX-License-Identifier: Apache-2.0
"""Batches of edits as users describe them: the plan, the equal command, and files of pairs."""

from __future__ import annotations

import csv
import itertools
import os
import re
import shlex
import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch

from ..catalog import Catalog
from ..core.checks import SEEDS
from ..core.lists import numbers, seeds
from ..editing import Grid, Job, JobOptions, Pairs, Plan, SeedLatents, Strategy, StyleEditor
from ..editing.journal import difference
from ..editing.listed import listed
from ..editing.manifest import is_intact, read_entries
from ..io.atomic import atomic_write
from ..io.outputs import check_output_folder
from .queries import ADAPTIVE, strategy_of
from .workspace import Workspace

MAX_EXPORTED = 1_000_000  # lines of an exported file of pairs
COLUMNS = ("target", "reference", "part", "query", "epsilon", "rho", "strength")


@dataclass(frozen=True)
class Batch:
    """Edits as the user describes them in the page.

    Args:
        targets: Seeds of the targets, such as 0,1,4-6.
        references: Seeds of the references.
        parts: Names of the parts.
        query: One of `QUERIES`.
        epsilon: Budgets of the sequential strategy, separated by commas. Each budget gives an edit of its own.
        rho: Threshold of the sequential strategy.
        strength: Factor of every query.
        pairs: File with one edit per line. It replaces the targets, references and parts.
        folder: Name of the folder of the images.
        image_format: Format of the image files.
        batch_size: Edits per forward pass of the generator.
    """

    targets: str = ""
    references: str = ""
    parts: tuple[str, ...] = ()
    query: str = ADAPTIVE
    epsilon: str = "1"
    rho: float = 0.1
    strength: float = 1.0
    pairs: Path | None = None
    folder: str = "batch"
    image_format: str = "jpg"
    batch_size: int = 1

    def strategies(self) -> list[Strategy]:
        """Return one sequential strategy per budget, or the other strategy."""
        if self.query != "sequential":
            return [strategy_of(self.query, 0, 0)]
        budgets = numbers("epsilon", self.epsilon)
        if self.pairs is not None and len(budgets) > 1:
            raise ValueError(f"epsilon must be one budget for a file of pairs, got {self.epsilon!r}")
        return [strategy_of(self.query, budget, self.rho) for budget in budgets]

    def plan(self, workspace: Workspace) -> Plan:
        """Return the plan of the edits, unchecked."""
        generator, truncation, strategies = workspace.generator, workspace.truncation, self.strategies()
        if self.pairs is not None:
            every = SeedLatents(generator, SEEDS, truncation=truncation)
            return Pairs(self.pairs, every, every, query=strategies[0], strength=self.strength)
        targets, references = (
            SeedLatents(generator, seeds(name, text), truncation=truncation)
            for name, text in (("targets", self.targets), ("references", self.references))
        )
        return Grid(targets, references, self.parts, strategies, strength=self.strength)

    def directory(self, workspace: Workspace) -> Path:
        """Return the folder of the images. It may not exist yet."""
        if not re.fullmatch(r"[^\W_][\w .-]*", self.folder.strip()):
            raise ValueError(f"folder must be a name of letters, digits, blanks, '-', '_' and '.', got {self.folder!r}")
        directory = workspace.outdir / self.folder.strip()
        check_output_folder("folder", directory)
        return directory

    def job(self, workspace: Workspace, catalog: Catalog) -> Job:
        """Return the job of the edits, after a check of the plan.

        Raises:
            ValueError: If an edit cannot be made. The message describes the first such edit. It names a file of pairs
                without its folder, because the folder of an uploaded file is internal.
        """
        editor = StyleEditor(workspace.generator, catalog)
        options = JobOptions(image_format=self.image_format, batch_size=self.batch_size, measure=True, originals=True)  # type: ignore[arg-type]
        metadata = {"network": workspace.generator.name, "truncation": workspace.truncation, "rgb": False}
        try:
            plan, directory = self.plan(workspace), self.directory(workspace)
            job = Job(editor, plan, directory, options, metadata=metadata, progress=False)
            job.check()
        except ValueError as error:
            if self.pairs is None:
                raise
            raise ValueError(str(error).replace(str(self.pairs), self.pairs.name)) from error
        return job

    def command(self, workspace: Workspace) -> str:
        """Return the command of a shell that makes the same images, with quotes where the shell needs them.

        A file of pairs is copied beside the folders of the batches, because an uploaded file does not last.
        """
        generator, settings = workspace.generator, workspace.generator.precision
        options = {"catalog": _absolute(workspace.catalog_path)}
        if self.pairs is not None:
            options["pairs"] = _absolute(keep_pairs(self.pairs, workspace))
        else:
            options |= {"seeds": _without_blanks(self.targets), "references": _without_blanks(self.references)}
            options["parts"] = ",".join(self.parts)
        options["query"] = "sequential" if self.query == ADAPTIVE else self.query
        if self.query == "sequential":
            options |= {"epsilon": ",".join(map(_text, numbers("epsilon", self.epsilon))), "rho": _text(self.rho)}
        options["strength"] = _text(self.strength)
        network = workspace.network
        options["network"] = _absolute(Path(network)) if os.path.exists(network) else network
        options |= {"trunc": _text(workspace.truncation), "engine": generator.engine.name}
        options["device"] = str(generator.device)
        if settings.get("float16_resolutions"):
            options["precision"] = "float16"
        options |= {"format": self.image_format, "batch-size": str(self.batch_size)}
        options["outdir"] = _absolute(self.directory(workspace))
        words = itertools.chain(*((f"--{name}", value) for name, value in options.items()))
        flags = ["--no-tf32"] if settings.get("tf32") is False else []
        return shlex.join(["stylefast", "edit", *words, *flags])


def is_saved(workspace: Workspace, catalog: Catalog) -> bool:
    """Return whether the file of the catalog has the clusters and the parts of a session."""
    saved = workspace.read_catalog()[0]
    same = (saved.parts, saved.layer, saved.features) == (catalog.parts, catalog.layer, catalog.features)
    pairs = ((saved.centroids, catalog.centroids), (saved.contributions, catalog.contributions))
    return same and all(torch.equal(a, b) for a, b in pairs)


def write_pairs(plan: Plan, path: Path) -> None:
    """Write the edits of a plan as a file of pairs.

    Args:
        plan: Checked plan.
        path: File to write, a .csv file.

    Raises:
        ValueError: If there are more than 1,000,000 edits.
    """
    if len(plan) > MAX_EXPORTED:
        raise ValueError(f"a file of pairs must have at most {MAX_EXPORTED:,} edits, got {len(plan):,}")
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(COLUMNS)
        for edit in plan:
            query = edit.parameters["query"]
            is_adaptive = query.get("share") is not None
            budget = ["" if is_adaptive or name not in query else _text(query[name]) for name in ("epsilon", "rho")]
            names = plan.targets.name(edit.target), plan.references.name(edit.reference), edit.part
            lines.writerow([*names, query["kind"], *budget, _text(edit.strength)])


def count_existing(job: Job) -> int:
    """Return the number of edits of a checked job whose images are in its folder.

    Raises:
        ValueError: If an image of the folder has the name of one of the edits, but other settings.
    """
    if not job.directory.is_dir():
        return 0
    settings, n_existing = job.settings(), 0
    with read_entries(job.directory, settings) as entries:
        for edit, entry in listed(job.plan, entries, job.options.image_format):
            description = job.describe(edit, settings)
            if entry.description == description:
                n_existing += is_intact(job.directory, entry, verify=False) is not None
            elif (path := job.directory / description["file"]).exists():
                engine = f", or start the page with --engine {entry.engine[0]}" if entry.is_of(description) else ""
                raise ValueError(
                    f"folder must not have images of the same names with other settings, got {path}: "
                    f"{difference(entry.description, description)}; choose another folder{engine}"
                )
    return n_existing


def without_options(text: str) -> str:
    """Return the sentence of an error of a job without the options of the command, which the page does not offer."""
    reason, advice, _ = text.partition("; choose another folder, or replace")
    return f"{reason}; choose another folder." if advice else text


def keep_pairs(path: Path, workspace: Workspace) -> Path:
    """Copy a file of pairs beside the folders of the batches, under a name that depends on its contents."""
    check_output_folder("outdir", workspace.outdir)
    workspace.outdir.mkdir(parents=True, exist_ok=True)
    digest = sha256(path.read_bytes()).hexdigest()[:8]
    kept = workspace.outdir / f"pairs-{digest}{path.suffix.lower()}"
    if not kept.exists():
        with atomic_write(kept) as temporary:
            shutil.copyfile(path, temporary)
    return kept


def _text(value: float) -> str:
    """Return the shortest text that reads as the same number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def _without_blanks(text: str) -> str:
    return "".join(text.split())


def _absolute(path: Path) -> str:
    return os.path.abspath(path)
