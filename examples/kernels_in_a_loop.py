# SPDX-License-Identifier: Apache-2.0
"""Use the kernels in a loop of your own: cluster a stream of activations, measure M, and blend styles.

The activations are random mixtures. In your program they come from a network.

python examples/kernels_in_a_loop.py --steps 20
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

import stylefast


def batches(n: int, directions: Tensor, seed: int = 0) -> Iterator[Tensor]:
    """Yield n batches of activations [N, C, H, W] whose points lie around the given directions [K, C]."""
    rng = torch.Generator().manual_seed(seed)
    for _ in range(n):
        labels = torch.randint(len(directions), (8, 32, 32), generator=rng)
        points = directions[labels] + 0.1 * torch.randn(8, 32, 32, directions.shape[1], generator=rng)
        yield points.permute(0, 3, 1, 2)  # strides of channels_last: the kernels read any strides in place


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="number of batches")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    directions = normalize(torch.randn(16, 256), dim=1)

    # Online spherical k-means: each batch is read once, and the centroids follow the running sums.
    centroids = normalize(directions + 0.3 * torch.randn_like(directions), dim=1)  # [K, C]
    running = torch.zeros_like(centroids)
    for activations in batches(arguments.steps, directions):
        step = stylefast.lloyd_step(activations, centroids)
        running = 0.9 * running + step.sums
        centroids = normalize(running, dim=1)
    print(f"mean cosine of the last batch: {float(step.objective):.4f}")
    print(f"lowest cosine between a centroid and its direction: {float((centroids * directions).sum(1).min()):.4f}")

    # M of the same layer: labels and M in one read, added over batches with equal weights.
    M = torch.zeros_like(centroids)
    for activations in batches(4, directions, seed=1):
        M += stylefast.assign_contribution(activations, centroids).contribution / 4
    print(f"the rows of M sum to {float(M.sum(0).mean()):.4f} per channel")

    # A grid of 4 targets x 32 references x 3 queries in one call. No operand is copied.
    target, reference = torch.randn(4, 256), torch.randn(32, 256)
    queries = torch.stack([stylefast.query.sequential(M[k], epsilon=20.0, rho=0.05) for k in (0, 1, 2)])  # [Q, S]
    edits = torch.cartesian_prod(torch.arange(4), torch.arange(32), torch.arange(3))  # [E, 3]
    styles = stylefast.blend(target, reference, queries, edits=edits)  # [E, S]
    moved = (styles != target[edits[:, 0]]).sum(1)
    print(f"{len(styles)} edits, {int(moved.min())} to {int(moved.max())} of 256 channels moved")


if __name__ == "__main__":
    main()
