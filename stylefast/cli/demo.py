# SPDX-License-Identifier: Apache-2.0
"""The demo, which builds a catalog, edits faces, draws figures and measures locality."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import figures, generators
from ..catalog import FFHQ_REGIONS, BuildOptions, Catalog, Clustering
from ..editing import EditBatch, Grid, Job, JobOptions, Random, SeedLatents, Sequential, Simultaneous, StyleEditor
from ..figures import canvas
from ..figures.figures import require_matplotlib
from ..generators import Generator
from ..io.atomic import atomic_write
from ..locality import roi

QUERIES = (Sequential(1.0), Sequential(), Simultaneous(1.0), Random())
PARTS = ("eyes", "nose", "mouth")
SHOWN = Sequential().name  # of the strategy that the figures show
EPSILONS = (0.25, 1.0, 4.0, 16.0)  # of epsilon.jpg
HEAT_END = 20.0  # of all heat maps, so that they can be compared


def load(network: str) -> Generator:
    """Return the generator. If it cannot be downloaded, print a message and return a toy generator."""
    try:
        return generators.load(network)
    except ConnectionError as error:
        print(f"{error}\nThe demo runs on the toy generator, without faces.")
        return generators.load("toy:sg2")


def run(
    directory: str | os.PathLike[str],
    *,
    network: str = "random-face",
    images: int = 160,
    contribution_images: int = 24,
    targets: Sequence[int] = (1004, 1011, 1027),
    references: Sequence[int] = (1002, 1016, 1035),
    truncation: float = 0.7,
    batch_size: int = 2,
) -> dict[str, Any]:
    """Build a catalog, edit every target with every reference, part and strategy, draw figures, and measure locality.

    The files in `directory` are catalog.safetensors, `edits/*.jpg` with edits/manifest.jsonl, clusters.png,
    contributions.png, grid.jpg, epsilon.jpg, heat.png and summary.json.

    Returns:
        The contents of summary.json: `locality[part][query] = {inside, outside, ratio}` with mean CIELAB differences
        over edits, the duration of each stage in seconds, the parts, and the seeds.
    """
    require_matplotlib()
    directory, times = Path(directory), [time.perf_counter()]
    generator = load(network)
    times.append(time.perf_counter())

    is_toy = generator.name.startswith("toy")
    w = generator.latents(range(images), truncation=truncation)
    clustering, options = Clustering(n_clusters=8) if is_toy else Clustering(), BuildOptions(batch_size=batch_size)
    regions = {part: [i] for i, part in enumerate(PARTS)} if is_toy else FFHQ_REGIONS
    catalog = Catalog.build(generator, w, clustering, options, regions=regions, contribution_images=contribution_images)
    catalog.save(directory / "catalog.safetensors")
    times.append(time.perf_counter())

    w_targets, w_references = (generator.latents(seeds, truncation=truncation) for seeds in (targets, references))
    editor = StyleEditor(generator, catalog)
    target_images = SeedLatents(generator, targets, truncation=truncation)
    plan = Grid(target_images, SeedLatents(generator, references, truncation=truncation), PARTS, QUERIES)
    # The job does not resume, because the summary needs the images of all edits.
    job_options = JobOptions(image_format="jpg", batch_size=batch_size, measure=True, resume=False, overwrite=True)
    metadata = {"network": generator.name, "truncation": truncation, "rgb": False}
    result = Result(len(targets), len(references))
    for batch in Job(editor, plan, directory / "edits", job_options, metadata=metadata):
        result.add(batch)
    times.append(time.perf_counter())

    draw = _Figures(directory, editor, (w_targets, w_references), (targets, references), result)
    draw.clusters()
    draw.edits()
    draw.epsilons()
    times.append(time.perf_counter())

    stages = zip(("load", "catalog", "edits", "figures"), pairwise(times), strict=True)
    seconds = {stage: end - start for stage, (start, end) in stages}
    summary = {
        "network": generator.name,
        "parts": catalog.parts,
        "targets": list(targets),
        "references": list(references),
        "truncation": truncation,
        "locality": result.locality(),
        "seconds": seconds | {f"catalog_{stage}": value for stage, value in catalog.seconds.items()},
    }
    with atomic_write(directory / "summary.json") as path:
        path.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return summary


class Result:
    """Images and locality of the edits, which are collected for the figures and the summary."""

    def __init__(self, n_targets: int, n_references: int) -> None:
        self.size: tuple[int, int] = (n_targets, n_references)
        self.targets: dict[int, Tensor] = {}
        self.shown: dict[tuple[str, int, int], Tensor] = {}  # images
        self._differences: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)

    def add(self, batch: EditBatch) -> None:
        """Add the edits of a batch."""
        assert batch.locality is not None and batch.targets is not None
        for i, edit in enumerate(batch.edits):
            self.targets[edit.target] = batch.targets[i]
            if edit.query.name == SHOWN:
                self.shown[edit.part, edit.target, edit.reference] = batch.images[i]
            pair = float(batch.locality.delta_e_inside[i]), float(batch.locality.delta_e_outside[i])
            self._differences[edit.part, edit.query.name].append(pair)

    def locality(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Return the mean difference inside and outside the part over all edits, and their ratio, by part and query.

        An edit without a pixel inside (or outside) the part does not count in that mean. A mean over no edits and a
        ratio that is not finite are None.
        """
        table: dict[str, dict[str, dict[str, float | None]]] = defaultdict(dict)
        for (part, query), pairs in self._differences.items():
            inside, outside = torch.tensor(pairs, dtype=torch.float64, device="cpu").nanmean(0)
            values = {"inside": inside, "outside": outside, "ratio": inside / outside}
            table[part][query] = {name: float(value) if value.isfinite() else None for name, value in values.items()}
        return dict(table)

    def grid(self) -> Tensor:
        """Return the images of the shown edits, [P, T, R, C, H, W]."""
        rows = [self.shown[p, t, r] for p in PARTS for t in range(self.size[0]) for r in range(self.size[1])]
        return torch.stack(rows).unflatten(0, (len(PARTS), *self.size))


class _Figures:
    """Figures of the demo, which each method writes to the directory."""

    def __init__(
        self,
        directory: Path,
        editor: StyleEditor,
        w: tuple[Tensor, Tensor],
        seeds: tuple[Sequence[int], Sequence[int]],
        result: Result,
    ) -> None:
        self.directory, self.editor, self.w, self.result = directory, editor, w, result
        self.names = [[f"seed {seed}" for seed in some] for some in seeds]  # of targets and references
        generator, catalog = editor.generator, editor.catalog
        self.targets = torch.stack([result.targets[t] for t in range(result.size[0])])
        self.references = generator.synthesize(generator.styles(w[1]), w[1])
        size = figures.label_size(generator.image_size, 256)
        self.labels = [catalog.labels(generator, latents, size=size) for latents in w]  # of targets and references

    def region(self, part: str, t: int, r: int) -> Tensor:
        """Return the region of interest of an edit, [1, h, w] bool."""
        target, reference = (self.editor.catalog.part_map(labels, part) for labels in self.labels)
        return roi(target[t : t + 1], reference[r : r + 1])

    def clusters(self) -> None:
        """Draw the parts on the targets, and the contributions to the parts."""
        catalog = self.editor.catalog
        named = {part: ids for part, ids in catalog.parts.items() if ids}
        overlay = figures.cluster_overlay(self.targets, self.labels[0], parts=named, n_clusters=catalog.n_clusters)
        figures.save(overlay, self.directory / "clusters.png")
        sites = [(site.name, site.start, site.stop) for site in catalog.sites]
        m = torch.stack([catalog.contribution(part) for part in named])  # [P, S]
        figures.save(figures.contribution_map(m, list(named), sites), self.directory / "contributions.png")

    def edits(self) -> None:
        """Draw the grid of the shown edits, and the heat maps of some of them."""
        T, R = self.result.size
        pairs = [(t, r) for t in range(T) for r in range(R)]
        mean = [torch.cat([self.region(part, *pair) for pair in pairs]).float().mean(0) for part in PARTS]
        grid = figures.edit_grid(
            self.targets,
            self.references,
            self.result.grid(),
            part_names=PARTS,
            boxes=figures.mask_boxes(torch.stack(mean)),
            target_names=self.names[0],
            reference_names=self.names[1],
        )
        figures.save(grid, self.directory / "grid.jpg")
        shown = [(part, t, t % R) for part in PARTS for t in range(T)]
        edited = torch.stack([self.result.shown[edit] for edit in shown])
        masks = torch.cat([self.region(*edit) for edit in shown])
        names = [f"{part}, {self.names[0][t]} from {self.names[1][r]}" for part, t, r in shown]
        targets = self.targets[[t for _, t, _ in shown]]
        heat = figures.heat_map(edited, targets, mask=masks, names=names, vmax=HEAT_END)
        figures.save(heat, self.directory / "heat.png")

    def epsilons(self) -> None:
        """Draw one edit of each part with several budgets."""
        rows = []
        for i, part in enumerate(PARTS):
            t, r = (i % n for n in self.result.size)
            queries = [Sequential(epsilon) for epsilon in EPSILONS]
            w = self.w[0][t : t + 1], self.w[1][r : r + 1]
            edited = torch.cat([batch.images for batch in self.editor.edit(*w, part, queries=queries, progress=False)])
            row = figures.epsilon_row(
                self.targets[t : t + 1],
                self.references[r : r + 1],
                edited,
                epsilons=EPSILONS,
                mask=self.region(part, t, r),
                part=part,
                names=(self.names[0][t], self.names[1][r]),
                vmax=HEAT_END,
            )
            rows.append(row)
        figures.save(canvas.stack(rows), self.directory / "epsilon.jpg")


def table(summary: dict[str, Any]) -> str:
    """Return a table of the locality in a summary: mean CIELAB difference inside / outside the part, and the ratio."""
    lines = [f"{'part':8}" + "".join(f"{query.name:>24}" for query in QUERIES)]
    for part, queries in summary["locality"].items():
        cells = [queries[query.name] for query in QUERIES]
        texts = ["no change" if _is_zero(c) else "{} / {} = {}x".format(*map(_number, c.values())) for c in cells]
        lines.append(f"{part:8}" + "".join(f"{text:>24}" for text in texts))
    return "\n".join(lines)


def _is_zero(cell: dict[str, float | None]) -> bool:
    """Return whether both differences would be printed as zero, because no channel or hardly any was edited."""
    return all(value is not None and value < 0.005 for value in (cell["inside"], cell["outside"]))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
