# SPDX-License-Identifier: Apache-2.0
"""Compare a fit of SphericalKMeans with a fit of scikit-learn's KMeans on the normalised points, at the same quality.

Usage::

    python benchmarks/bench_fit.py [--clusters 20] [--seeds 1] [--record]

The data are 204,800 points of 512 channels in NCHW, drawn around three overlapping directions per cluster. Both fit 20
clusters with 10 restarts, and 128 clusters with 4 restarts. The time of scikit-learn includes the transposition and the
normalisation that it needs. On two cores, scikit-learn takes about 2 and 6 minutes per seed.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import environment
import numpy as np
import record
import torch
from timing import WrongResult, comparison
from torch import Tensor
from torch.nn.functional import normalize
from workloads import mixture

from stylefast import SphericalKMeans, assign

IMAGES, CHANNELS, SIDE = 200, 512, 32
QUALITY = 1e-3  # largest relative loss of the objective compared with scikit-learn


class Fit(NamedTuple):
    """Workload: clusters and restarts."""

    clusters: int
    restarts: int


FITS = (Fit(20, 10), Fit(128, 4))


def fit(x: Tensor, size: Fit, seed: int) -> float:
    """Fit SphericalKMeans and return its objective, the mean cosine."""
    return SphericalKMeans(size.clusters, n_init=size.restarts, seed=seed).fit(x, progress=False).objective_


def fit_sklearn(x: Tensor, size: Fit, seed: int) -> tuple[np.ndarray, Tensor]:
    """Fit scikit-learn's KMeans; return its labels and the normalised points [P, C] that it needs."""
    cluster: Any = environment.load("sklearn.cluster")
    points = normalize(x.permute(0, 2, 3, 1).reshape(-1, CHANNELS), dim=1)
    return cluster.KMeans(size.clusters, n_init=size.restarts, random_state=seed).fit(points.numpy()).labels_, points


def objective(x: Tensor, clusters: int, labels: np.ndarray, points: Tensor) -> float:
    """Return the mean cosine of x to the nearest centroid; centroids are the normalised sums of points per label."""
    sums = torch.zeros(clusters, CHANNELS).index_add_(0, torch.from_numpy(labels).long(), points)
    return assign(x, normalize(sums, dim=1)).similarity.double().mean().item()


def compare(size: Fit, seed: int) -> tuple[float, float]:
    """Return the seconds of our fit and of scikit-learn's fit to the data of a seed.

    Raises:
        WrongResult: If our objective is worse than scikit-learn's by more than QUALITY.
    """
    x = mixture(seed, IMAGES, SIDE, 3 * size.clusters)
    begin = time.perf_counter()
    score = fit(x, size, seed)
    between = time.perf_counter()
    labels, points = fit_sklearn(x, size, seed)
    end = time.perf_counter()
    sklearn_score = objective(x, size.clusters, labels, points)
    if not score >= sklearn_score * (1 - QUALITY):
        raise WrongResult(f"the objective is {score:.5f}, scikit-learn's is {sklearn_score:.5f}")
    print(f"K = {size.clusters}, seed {seed}: objective {score:.5f}, scikit-learn's {sklearn_score:.5f}", flush=True)
    return between - begin, end - between


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clusters", type=int, choices=[size.clusters for size in FITS], help="Only this workload.")
    parser.add_argument("--seeds", type=int, default=1, help="Data sets per workload.")
    parser.add_argument("--threads", type=int, default=min(2, len(environment.CPUS) or 1))
    parser.add_argument("--record", action="store_true", help="Append to benchmarks/results/<machine>.jsonl.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for size in FITS:
        if arguments.clusters not in (None, size.clusters):
            continue
        seconds, sklearn_seconds = zip(*(compare(size, seed) for seed in range(arguments.seeds)), strict=True)
        name = f"{IMAGES}x{CHANNELS}x{SIDE}x{SIDE} {size.restarts} restarts of {size.clusters}"
        figure = comparison(
            "SphericalKMeans.fit", name, None, arguments.threads, seconds, "scikit-learn", sklearn_seconds
        )  # fmt: skip
        print(record.line(figure))
        if arguments.record:
            record.append(figure)


if __name__ == "__main__":
    main()
