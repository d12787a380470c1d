# SPDX-License-Identifier: Apache-2.0
"""Measure a catalog build: images per second, and the share of each stage.

Usage::

    python benchmarks/bench_editing.py [--network random-face] [--images 16] [--record]

The default is a toy network. The network "random-face" generates realistic faces and is downloaded once (for research
only).
"""

from __future__ import annotations

import argparse
import time

import environment
import record
import torch
from timing import Figure

from stylefast import Catalog, generators
from stylefast.catalog import Clustering
from stylefast.generators import Generator


def build(generator: Generator, images: int, clusters: int) -> tuple[Catalog, float]:
    """Build a catalog in which each cluster is a part; return it with the seconds of the build."""
    w = generator.latents(range(images), truncation=0.7)
    generator.synthesize(generator.styles(w[:1]), w[:1])  # the first call allocates memory
    begin = time.perf_counter()
    catalog = Catalog.build(generator, w, Clustering(n_clusters=clusters))
    seconds = time.perf_counter() - begin
    return catalog.annotate({f"cluster{k}": [k] for k in range(clusters)}), seconds


def catalog_figure(name: str, images: int, clusters: int, threads: int, stages: dict[str, float]) -> Figure:
    """Return the figure of clustering and M together, with the generator as the peer, from the seconds per stage."""
    seconds = stages["clustering"] + stages["contribution"]
    ratio = stages["generator"] / seconds
    work, peer = f"{name}, {images} images, {clusters} clusters: clustering and M", "the generator alone"
    return Figure(
        "Catalog.build", work, None, threads, seconds, seconds, seconds, seconds,
        peer=peer, to_peer=ratio, median_to_peer=ratio, peers={peer: ratio},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", default="toy:sg2")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--clusters", type=int, default=16)
    parser.add_argument("--threads", type=int, default=min(2, len(environment.CPUS) or 1))
    parser.add_argument("--record", action="store_true", help="Append to benchmarks/results/<machine>.jsonl.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = generators.load(arguments.network)
    catalog, seconds = build(generator, arguments.images, arguments.clusters)
    stages = catalog.seconds
    percentages = ", ".join(f"{stage} {100 * spent / seconds:.0f} %" for stage, spent in stages.items())
    rest = 100 * (1 - sum(stages.values()) / seconds)
    print(f"{generator.name}, {arguments.threads} threads")
    print(f"catalog: {arguments.images / seconds:.2f} images/s ({percentages}, rest {rest:.0f} %)")
    figure = catalog_figure(generator.name, arguments.images, arguments.clusters, arguments.threads, stages)
    print(record.line(figure))
    if arguments.record:
        record.append(figure)


if __name__ == "__main__":
    main()
