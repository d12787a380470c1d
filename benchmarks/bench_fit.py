# SPDX-License-Identifier: Apache-2.0
"""A whole fit of spherical k-means against scikit-learn's KMeans on the normalised points, at the same quality.

    python benchmarks/bench_fit.py [--seeds 1] [--record]

204,800 points of 512 channels in NCHW, 20 clusters of 60 directions that overlap, 10 restarts; scikit-learn's time
includes the transposition and the normalisation that it needs. Minutes a seed: theirs.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import environment
import numpy as np
import record
import torch
from timing import Figure, WrongResult, percentile
from torch import Tensor
from torch.nn.functional import normalize

from stylefast import SphericalKMeans, assign

N, C, SIDE = 200, 512, 32
CLUSTERS, RESTARTS, DIRECTIONS = 20, 10, 60
QUALITY = 1e-3  # relative: ours may not be worse than theirs by more


def mixture(seed: int, n: int = N, side: int = SIDE, count: int = DIRECTIONS) -> Tensor:
    """Activations [N, C, H, W] of any length, around directions that share a part and are not equally frequent."""
    rng = torch.Generator().manual_seed(seed)
    shared = 0.8 * torch.randn(1, C, generator=rng)
    directions = normalize(torch.randn(count, C, generator=rng) + shared, dim=1)
    frequency = torch.rand(count, generator=rng) + 0.05
    x = torch.empty(n, C, side, side)
    for image in x:
        chosen = directions[torch.multinomial(frequency, side * side, True, generator=rng)]  # [P, C]
        chosen = chosen + 1.5 / C**0.5 * torch.randn(chosen.shape, generator=rng)
        image[:] = (chosen * (0.5 + torch.rand(len(chosen), 1, generator=rng))).t().view(image.shape)
    return x


def ours(x: Tensor, seed: int) -> float:
    """The objective of a fit: mean cosine."""
    return SphericalKMeans(CLUSTERS, n_init=RESTARTS, seed=seed).fit(x, progress=False).objective_


def theirs(x: Tensor, seed: int) -> tuple[np.ndarray, Tensor]:
    """scikit-learn's labels, and the normalised points [P, C] that it was given."""
    cluster: Any = environment.load("sklearn.cluster")
    points = normalize(x.permute(0, 2, 3, 1).reshape(-1, C), dim=1)
    return cluster.KMeans(CLUSTERS, n_init=RESTARTS, random_state=seed).fit(points.numpy()).labels_, points


def objective(x: Tensor, labels: np.ndarray, points: Tensor) -> float:
    """Mean cosine of x to the normalised sums of the points of every label."""
    sums = torch.zeros(CLUSTERS, C).index_add_(0, torch.from_numpy(labels).long(), points)
    return assign(x, normalize(sums, dim=1)).similarity.double().mean().item()


def compare(seed: int) -> tuple[float, float]:
    """Seconds of our fit and of theirs. Raises WrongResult if ours is worse."""
    x = mixture(seed)
    begin = time.perf_counter()
    mine = ours(x, seed)
    between = time.perf_counter()
    labels, points = theirs(x, seed)
    end = time.perf_counter()
    other = objective(x, labels, points)
    if not mine >= other * (1 - QUALITY):
        raise WrongResult(f"the objective is {mine:.5f}, scikit-learn's {other:.5f}")
    print(f"seed {seed}: objective {mine:.5f}, scikit-learn's {other:.5f}", flush=True)
    return between - begin, end - between


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=min(2, len(environment.CPUS) or 1))
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results/<machine>.jsonl")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    mine, other = zip(*(compare(seed) for seed in range(arguments.seeds)), strict=True)
    ratio, median = min(other) / min(mine), percentile(other, 50) / percentile(mine, 50)
    name = f"{N}x{C}x{SIDE}x{SIDE} {RESTARTS} restarts of {CLUSTERS}"
    p20, p50, p80 = (percentile(mine, p) for p in (20, 50, 80))
    result = Figure(
        "SphericalKMeans.fit", name, None, arguments.threads, min(mine), p20, p50, p80,
        peer="scikit-learn", to_peer=ratio, median_to_peer=median, peers={"scikit-learn": ratio},
    )  # fmt: skip
    print(record.line(result))
    if arguments.record:
        record.append(result)


if __name__ == "__main__":
    main()
