# SPDX-License-Identifier: Apache-2.0
"""Measure how local the edits of the default settings are, against those of the former default settings.

A setting is a catalog and a series of queries. For every part, all targets are edited with all references. The result
is a curve per part and setting: the mean CIELAB difference inside the part against the difference outside of it. The
region of a part is its boxes in FFHQ_REGIONS, for every setting, so that it does not depend on the clusters.

Usage::

    python benchmarks/bench_defaults.py [--quick] [--folder build/defaults] [--record]

The alternatives have other clusters than the defaults, and the same queries. The folder keeps the catalogs and the
measured edits. A run that was stopped resumes from it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from statistics import fmean
from typing import Any

import curves
import torch
from joint_layers import joint_catalog
from torch import Tensor
from torch.nn.functional import avg_pool2d
from tqdm import tqdm

from stylefast import Catalog, StyleEditor, generators
from stylefast.catalog import FFHQ_REGIONS, Clustering
from stylefast.catalog.regions import area_weights
from stylefast.editing import Sequential
from stylefast.generators import Generator
from stylefast.locality import delta_e

TRUNCATION = 0.7
IMAGES, MEASURED = 160, 24  # of a catalog: seeds from 0, of which the first measure M
TARGETS, REFERENCES = range(1000, 1016), range(1100, 1104)  # seeds that no catalog has seen
PARTS = ("eyes", "nose", "mouth")
SCALE = 4  # images are averaged over 4 x 4 pixels before the difference: 256 x 256 pixels for random-face


@dataclass(frozen=True)
class Setting:
    """A catalog and a series of queries from local to global.

    Args:
        name: Name of the setting in records.
        clustering: Options of the clustering.
        values: Parameters of the queries.
        default: The parameter that is the default.
        query: Function from a parameter to a strategy.
        by_boxes: Whether the boxes choose the restart. Otherwise it is the restart with the best objective.
        is_joint: Whether the points are those of two layers together.
    """

    name: str
    clustering: Clustering
    values: tuple[float, ...] = (0.7, 0.55, 0.4)  # rho as a multiple of the largest contribution
    default: float = 0.55
    query: Callable[[float], Sequential] = lambda share: Sequential(share=share)
    by_boxes: bool = True
    is_joint: bool = False

    def catalog(self, generator: Generator, n_images: int, n_measured: int) -> Catalog:
        """Build the catalog."""
        w = generator.latents(range(n_images), truncation=TRUNCATION)
        if self.is_joint:
            return joint_catalog(generator, w, self.clustering, n_measured).annotate(FFHQ_REGIONS)
        regions = FFHQ_REGIONS if self.by_boxes else None
        built = Catalog.build(generator, w, self.clustering, regions=regions, contribution_images=n_measured)
        return built.annotate(FFHQ_REGIONS)


SETTINGS = (
    Setting(
        "former",
        Clustering(n_clusters=32, resolution=16, features="raw", n_init=8, seed=0),
        values=(0.5, 1.0, 4.0),  # epsilon
        default=1.0,
        query=lambda epsilon: Sequential(epsilon, rho=0.1),
        by_boxes=False,
    ),
    Setting("default", Clustering()),
    Setting("restart 6, which fits the boxes least", Clustering(run=6)),
    Setting("K = 32", Clustering(n_clusters=32)),
    Setting("K = 96", Clustering(n_clusters=96)),
    Setting("layer of 32 x 32", Clustering(resolution=32), values=(0.85, 0.7, 0.55, 0.4)),
    Setting("layers of 16 x 16 and 32 x 32 together", Clustering(), values=(0.85, 0.7, 0.55, 0.4), is_joint=True),
    Setting("method nmf", Clustering(method="nmf")),
)


class Measurement:
    """Differences of edits, of which those in a file are read and the others are measured and appended to it.

    Args:
        generator: Generator of the images.
        path: File with one JSON line per edit.
        targets, references: Seeds of the images.
    """

    def __init__(self, generator: Generator, path: Path, targets: range, references: range) -> None:
        self._generator, self._path, self.targets, self.references = generator, path, targets, references
        lines = path.read_text().splitlines() if path.exists() else []
        self._known: dict[str, tuple[float, float]] = {key: (i, o) for key, i, o in map(json.loads, lines)}
        self._w = {seed: generator.latents([seed], truncation=TRUNCATION) for seed in (*targets, *references)}
        self._styles = {seed: generator.styles(w) for seed, w in self._w.items()}
        self._images: dict[int, Tensor] = {}
        size = tuple(length // SCALE for length in generator.image_size)
        self._weights = {part: area_weights({part: FFHQ_REGIONS[part]}, size)[part].float() for part in PARTS}

    def means(self, part: str, q: Tensor) -> tuple[float, float]:
        """Return the mean difference inside and outside the part over all pairs of targets and references."""
        edits = [(target, reference) for target in self.targets for reference in self.references]
        inside, outside = zip(*(self._edit(part, q, *edit) for edit in tqdm(edits, delay=2, leave=False)), strict=True)
        return fmean(inside), fmean(outside)

    def _edit(self, part: str, q: Tensor, target: int, reference: int) -> tuple[float, float]:
        key = f"{part} {target} {reference} {blake2b(q.numpy().tobytes(), digest_size=8).hexdigest()}"
        if key not in self._known:
            if target not in self._images:
                self._images[target] = self._synthesize(self._styles[target], target)
            styles = self._styles[target] + q * (self._styles[reference] - self._styles[target])
            difference = delta_e(self._synthesize(styles, target), self._images[target])[0]
            weights = self._weights[part]
            means = [float((difference * x).sum() / x.sum()) for x in (weights, 1 - weights)]
            self._known[key] = means[0], means[1]
            with self._path.open("a") as file:
                file.write(json.dumps([key, *means]) + "\n")
        return self._known[key]

    def _synthesize(self, styles: Tensor, target: int) -> Tensor:
        return avg_pool2d(self._generator.synthesize(styles, self._w[target]), SCALE)


def measure(setting: Setting, catalog: Catalog, measurement: Measurement, generator: Generator) -> Iterator[Any]:
    """Yield the record of every part: its curve, and how it was measured."""
    editor = StyleEditor(generator, catalog)
    for part in PARTS:
        points = []
        for value in setting.values:
            q = editor.query(part, setting.query(value))
            inside, outside = measurement.means(part, q)
            point = {"value": value, "channels": int(q.count_nonzero()), "inside": inside, "outside": outside}
            points.append(point)
            print(f"{setting.name:8}{part:6}{json.dumps(point)}", flush=True)
        run = {"run": catalog.provenance.get("run"), "clusters": len(catalog.clusters(part)), "K": catalog.n_clusters}
        n_pairs = len(measurement.targets) * len(measurement.references)
        yield {"setting": setting.name, "part": part, "default": setting.default, "pairs": n_pairs, **run} | {
            "points": points
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="Few images and pairs: a check that the script runs.")
    parser.add_argument("--folder", type=Path, default=Path("build/defaults"), help="Folder of the catalogs and edits.")
    parser.add_argument("--network", default="random-face")
    parser.add_argument("--record", action="store_true", help=f"Write {curves.RECORDS.name} and {curves.FIGURE.name}.")
    arguments = parser.parse_args()
    folder: Path = arguments.folder / ("quick" if arguments.quick else "full")
    folder.mkdir(parents=True, exist_ok=True)
    generator = generators.load(arguments.network)
    sizes = (24, 4) if arguments.quick else (IMAGES, MEASURED)
    catalogs = {}
    for setting in SETTINGS:
        path = folder / f"{setting.name}.safetensors"
        if not path.exists():
            setting.catalog(generator, *sizes).save(path)
        catalogs[setting.name] = Catalog.load(path, generator)
    if arguments.network == "random-face":
        generator.use_engine("native")
    targets, references = (TARGETS[:2], REFERENCES[:1]) if arguments.quick else (TARGETS, REFERENCES)
    measurement = Measurement(generator, folder / "edits.jsonl", targets, references)
    with torch.inference_mode():
        records = [r for s in SETTINGS for r in measure(s, catalogs[s.name], measurement, generator)]
    print(curves.table(records))
    if arguments.record:
        curves.write(records)


if __name__ == "__main__":
    main()
