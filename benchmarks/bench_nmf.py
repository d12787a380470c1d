# SPDX-License-Identifier: Apache-2.0
"""Compare nmf_step with torch, and a fit of NMF with fits of scikit-learn's NMF that reach the same error.

Usage::

    python benchmarks/bench_nmf.py [--rounds 9] [--seconds 20] [--fits 3] [--threads 2] [--record]

The fits factorise the activations at 16 x 16 of 32 images of `random-face` into 16 components, from the same kind of
initialisation. A fit must end with a squared error that is at most 1 % larger than the smallest error known. Our fit
has its default settings; scikit-learn gets the smallest of 10, 20, 40, ... iterations that suffices. The time of
scikit-learn includes the transposition that it needs. Only ratios are printed, because machines are shared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import environment
import limits
import numpy as np
import record
import torch
from peers import ours
from timing import Candidate, Figure, WrongResult, comparison, figure, race
from torch import Tensor
from verify import verify
from workloads import Workload

from stylefast import NMF, generators
from stylefast.ops import NMF_STEP
from stylefast.ops.nmf_step import nmf_step

SIZES = ((64, 512, 16), (64, 512, 32))  # N, C, H = W
CLUSTERS = (16, 32)
SWEEPS = 20
IMAGES, COMPONENTS = 32, 16  # of the fits
QUALITY = 1.01  # largest error of a fit, relative to the smallest error known
ITERATIONS = (10, 20, 40, 80, 160, 320)


class Fit(NamedTuple):
    """Seconds of a fit, and its squared error relative to the squared norm of the data."""

    seconds: float
    error: float


def step_arguments(n: int, c: int, side: int, k: int) -> dict[str, Any]:
    """Return the arguments of nmf_step: mixtures of sparse components with noise."""
    rng = torch.Generator().manual_seed(k)
    components = torch.rand(k, c, generator=rng) * (torch.rand(k, c, generator=rng) < 0.3)
    x = torch.empty(n, c, side, side)
    for image in x:
        u = torch.rand(k, side, side, generator=rng) * (torch.rand(k, side, side, generator=rng) < 0.3)
        image[:] = torch.einsum("khw,kc->chw", u, components) + 0.1 * torch.randn(image.shape, generator=rng)
    return {"activations": x, "components": components, "sweeps": SWEEPS}


def by_products(activations: Tensor, components: Tensor, sweeps: int) -> tuple[Tensor, ...]:
    """Compute nmf_step in torch with a matrix product per sum, and one row of all positions per update."""
    n, _, h, w = activations.shape
    x, k = activations.clamp(min=0).flatten(2), len(components)
    scores = torch.matmul(components, x).transpose(0, 1).reshape(k, -1)  # [K, N H W]
    gram = components @ components.T
    inverse = gram.diagonal().reciprocal().tolist()
    u = scores / gram.sum(1, keepdim=True)
    for _ in range(sweeps):
        for i in range(k):
            u[i].add_(scores[i] - gram[i] @ u, alpha=inverse[i]).clamp_(min=0)
    memberships = u.view(k, n, h * w).transpose(0, 1)  # [N, K, H W]
    products = torch.matmul(memberships, x.transpose(1, 2)).sum(0)
    return memberships.reshape(n, k, h, w), products.double(), (u @ u.T).double(), x.square().sum().double()


def step_figure(size: tuple[int, int, int], k: int, threads: int, rounds: int, seconds: float) -> Figure:
    """Return the figure of nmf_step on one workload."""
    inputs = step_arguments(*size, k)
    check = partial(verify, NMF_STEP, inputs)
    candidates = {
        "ours": ours(NMF_STEP, inputs),
        "torch, products": Candidate(partial(by_products, **inputs), check),
        "reference": Candidate(partial(nmf_step, **inputs, backend="reference"), check),
    }
    workload = Workload(NMF_STEP, "x".join(map(str, (*size, size[2]))), k, lambda: inputs)
    return figure(workload, threads, inputs, race(candidates, limits.probes(threads), rounds, seconds))


def faces(count: int) -> Tensor:
    """Return the activations at 16 x 16 of the first images of random-face."""
    generator = generators.load("random-face")
    w = generator.latents(range(count), truncation=0.7)
    layer = [site.name for site in generator.sites if site.kind == "conv" and site.size[0] == 16][-1]
    pieces = [generator.activations(rows, [layer]).values() for rows in w.split(4)]
    return torch.cat([next(iter(values)) for values in pieces])


def squared_error(x: Tensor, components: Tensor) -> float:
    """Return the squared error of the points for the best memberships, relative to their squared norm."""
    step, h = nmf_step(x, components, 200), components.double()
    return 1 + float(((step.gram @ h - 2 * step.products) * h).sum() / step.energy)


def fit(x: Tensor) -> Fit:
    """Fit NMF with its default settings."""
    begin = time.perf_counter()
    model = NMF(COMPONENTS).fit(x, progress=False)
    return Fit(time.perf_counter() - begin, squared_error(x, torch.as_tensor(model.components_)))


def fit_sklearn(x: Tensor, iterations: int, solver: str = "cd") -> Fit:
    """Fit scikit-learn's NMF for a number of iterations."""
    decomposition: Any = environment.load("sklearn.decomposition")
    begin = time.perf_counter()
    rows = x.clamp(min=0).permute(0, 2, 3, 1).reshape(-1, x.shape[1]).numpy()
    model = decomposition.NMF(COMPONENTS, solver=solver, init="nndsvda", tol=0, max_iter=iterations, random_state=0)
    model.fit(rows)
    return Fit(time.perf_counter() - begin, squared_error(x, torch.from_numpy(model.components_)))


def attempts(x: Tensor, best: float) -> Iterator[int]:
    """Yield the numbers of iterations with which scikit-learn's error is too large, and then one that suffices."""
    for iterations in ITERATIONS:
        yield iterations
        if fit_sklearn(x, iterations).error <= QUALITY * best:
            return
    raise WrongResult(f"scikit-learn does not reach the error {best:.5f} in {ITERATIONS[-1]} iterations")


def fit_figure(x: Tensor, threads: int, fits: int) -> Figure:
    """Return the figure of the fits.

    Raises:
        WrongResult: If the error of our fit is too large.
    """
    best = squared_error(x, torch.as_tensor(NMF(COMPONENTS, tol=0).fit(x, progress=False).components_))
    *_, iterations = attempts(x, best)
    pairs = [(fit(x), fit_sklearn(x, iterations)) for _ in range(fits)]
    if not (error := pairs[0][0].error) <= QUALITY * best:
        raise WrongResult(f"the error of the fit is {error:.5f}, the smallest known is {best:.5f}")
    print(f"errors: {error:.5f}, scikit-learn {pairs[0][1].error:.5f} in {iterations} iterations, best {best:.5f}")
    name = f"{'x'.join(map(str, x.shape))} of random-face, {COMPONENTS} components"
    seconds, other_seconds = (np.array([f.seconds for f in column]).tolist() for column in zip(*pairs, strict=True))
    return comparison("NMF.fit", name, None, threads, seconds, "scikit-learn", other_seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="Rounds per workload of nmf_step.")
    parser.add_argument("--seconds", type=float, default=20, help="Time limit per workload of nmf_step.")
    parser.add_argument("--fits", type=int, default=3, help="Fits of each kind. With 0, nothing is downloaded.")
    parser.add_argument("--threads", type=int, default=min(2, len(environment.CPUS) or 1))
    parser.add_argument("--record", action="store_true", help="Append to benchmarks/results/<machine>.jsonl.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for size in SIZES:
        for k in CLUSTERS:
            report(step_figure(size, k, arguments.threads, arguments.rounds, arguments.seconds), arguments.record)
    if arguments.fits:
        report(fit_figure(faces(IMAGES), arguments.threads, arguments.fits), arguments.record)


def report(result: Figure, recorded: bool) -> None:
    print(record.line(result), flush=True)
    if recorded:
        record.append(result)


if __name__ == "__main__":
    main()
