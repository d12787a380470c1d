# SPDX-License-Identifier: Apache-2.0
"""Ratios of the CPU ops to the best torch formulations and to the machine's limits, in one interleaved run.

    python benchmarks/peers.py [--rounds 15] [--threads 2]

Every formulation is checked against the reference before anything is timed; a wrong one ends the run. Times are not
printed: on a shared machine only ratios of the same run mean something. The floor of an op is the larger of its least
bytes / bandwidth and its flops / peak, with the bandwidth of torch.sum and the rate of a large torch.mm, both measured
in the same rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

import stylefast
from stylefast.ops import ASSIGN_CONTRIBUTION, BLEND, CONTRIBUTION, LLOYD_STEP
from stylefast.ops.op import Cost

N, C, SIDE, GRID = 64, 512, 32, 32


def lloyd_by_matmul(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """One spherical Lloyd step from NCHW read in place: batched matrix products with images as [C, H W]."""
    flat = x.flatten(2)  # [N, C, P]
    labels = torch.matmul(centroids, flat).argmax(1)  # [N, P]
    one_hot = torch.nn.functional.one_hot(labels, len(centroids)).to(x.dtype)  # [N, P, K]
    weighted = one_hot / flat.square().sum(1).sqrt().unsqueeze(2)
    return labels, torch.matmul(flat, weighted).sum(0).t()  # [K, C]


def contribution_by_matmul(x: Tensor, labels: Tensor, k: int) -> Tensor:
    """M from labels of the layer's own size, a matrix product an image."""
    flat = x.flatten(2)
    variance, mean = torch.var_mean(flat, 2, correction=0, keepdim=True)
    squared = ((flat - mean) * (variance + 1e-5).rsqrt()).square()
    one_hot = torch.nn.functional.one_hot(labels.flatten(1).long(), k).to(x.dtype)  # [N, P, K]
    return torch.matmul(squared, one_hot).mean(0).t() / flat.shape[2]


def pooled_by_matmul(x: Tensor, labels: Tensor, k: int) -> Tensor:
    """M of a large layer: the one-hot resized, then a matrix product an image."""
    one_hot = torch.nn.functional.one_hot(labels.long(), k).movedim(-1, 1).to(x.dtype)  # [N, K, h, w]
    total = torch.zeros(k, x.shape[1])
    for image, hot in zip(x, one_hot, strict=True):
        u = torch.nn.functional.interpolate(hot[None], size=image.shape[1:], mode="bilinear")[0].flatten(1)  # [K, P]
        variance, mean = torch.var_mean(image.flatten(1), 1, correction=0, keepdim=True)
        total += u @ ((image.flatten(1) - mean) * (variance + 1e-5).rsqrt()).square().t()
    return total / (x.shape[0] * x.shape[2] * x.shape[3])


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every call in every round, the calls in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in tqdm(range(rounds), delay=2, leave=False):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return times


def require_close(name: str, got: Tensor, truth: Tensor, tolerance: float = 1e-4) -> None:
    error = float((got.double() - truth.double()).abs().max() / truth.double().abs().max())
    if not error <= tolerance:
        raise SystemExit(f"{name} is wrong by {error:.1e} of the largest value: nothing is timed")


def compare(name: str, ours: Callable[[], Any], peers: dict[str, Callable[[], Any]], cost: Cost, rounds: int) -> None:
    x, a, b = torch.ones(N * C * SIDE * SIDE), torch.ones(2048, 2048), torch.ones(2048, 2048)
    limits = {"read": lambda: x.sum(), "mm": lambda: torch.mm(a, b)}
    times = interleaved({"ours": ours, **peers, **limits}, rounds)
    best = {key: min(values) for key, values in times.items()}
    middle = {key: statistics.median(values) for key, values in times.items()}
    floor = max(cost.bytes / (x.nbytes / best["read"]), cost.flops / (2 * 2048**3 / best["mm"]))
    ratios = "  ".join(
        f"{peer} {best[peer] / best['ours']:.1f}x (median {middle[peer] / middle['ours']:.1f}x)" for peer in peers
    )
    print(f"{name:34} {best['ours'] / floor:4.1f} x floor   {ratios}", flush=True)


def lloyd(rounds: int) -> None:
    x = torch.randn(N, C, SIDE, SIDE)
    for k in (8, 16, 32, 64, 128):
        c = normalize(torch.randn(k, C), dim=1)
        truth = stylefast.lloyd_step(x, c, backend="reference")
        compiled = torch.compile(lloyd_by_matmul)
        require_close("lloyd_step", stylefast.lloyd_step(x, c, backend="cpu").sums, truth.sums)
        require_close("matmul", lloyd_by_matmul(x, c)[1], truth.sums)
        require_close("compiled matmul", compiled(x, c)[1], truth.sums)
        peers = {"compiled": lambda: compiled(x, c), "eager": lambda: lloyd_by_matmul(x, c)}  # noqa: B023
        cost = LLOYD_STEP.cost(x, c[None], "raw")
        compare(f"lloyd_step K={k}", lambda: stylefast.lloyd_step(x, c, backend="cpu"), peers, cost, rounds)  # noqa: B023
        both = {"in sequence": lambda: contribution_by_matmul(x, compiled(x, c)[0].view(N, SIDE, SIDE), k)}  # noqa: B023
        cost = ASSIGN_CONTRIBUTION.cost(x, c, "raw", True, False)
        call = lambda: stylefast.assign_contribution(x, c, backend="cpu")  # noqa: B023, E731
        compare(f"assign_contribution K={k}", call, both, cost, rounds)


def contributions(rounds: int) -> None:
    x, large = torch.randn(N, C, SIDE, SIDE), torch.randn(4, 64, 512, 512)
    for k in (8, 32, 128):
        for name, a, peer in (("", x, contribution_by_matmul), (" 64x512x512", large, pooled_by_matmul)):
            coarse = torch.randint(k, (len(a), GRID // 4, GRID // 4))
            labels = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2).int()  # coherent, as real labels are
            truth = stylefast.contribution(a, labels, k, backend="reference")
            require_close("contribution", stylefast.contribution(a, labels, k, backend="cpu"), truth)
            require_close("matmul", peer(a, labels, k), truth)
            ours = lambda: stylefast.contribution(a, labels, k, backend="cpu")  # noqa: B023, E731
            cost = CONTRIBUTION.cost(a, labels, k, True, "bilinear", False)
            compare(f"contribution{name} K={k}", ours, {"matmul": lambda: peer(a, labels, k)}, cost, rounds)  # noqa: B023


def blending(rounds: int) -> None:
    t, r, q = torch.randn(4096, 9088), torch.randn(4096, 9088), torch.rand(9088)
    out, other = torch.empty_like(t), torch.empty_like(t)
    require_close("blend", stylefast.blend(t, r, q, out=out, backend="cpu"), torch.lerp(t, r, q), 1e-6)
    peers = {"lerp(out=)": lambda: torch.lerp(t, r, q, out=other), "lerp": lambda: torch.lerp(t, r, q)}
    cost = BLEND.cost(t, r, q[None], None, None)
    compare("blend 4096 x 9088", lambda: stylefast.blend(t, r, q, out=out, backend="cpu"), peers, cost, rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {stylefast.backends.native.instruction_set()}")
    print("ours to the floor; peers to ours, minima of the interleaved rounds (and medians)")
    for part in (lloyd, contributions, blending):
        part(arguments.rounds)
