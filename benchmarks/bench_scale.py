# SPDX-License-Identifier: Apache-2.0
"""Measure large jobs: peak memory, blending, reading from disk, and page sizes.

Usage::

    python benchmarks/bench_scale.py memory [--edits 10000]
    python benchmarks/bench_scale.py blend [--edits 131072]
    python benchmarks/bench_scale.py stream [--images 512]
    python benchmarks/bench_scale.py pages [--network random-face]

Both sides of a comparison run alternately. `blend` prints the ratio of the median rates and, in brackets, of the best
rates.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import environment
import limits
import torch
from bench_editing import build
from timing import percentile
from torch import Tensor
from workloads import STYLES

from stylefast import SphericalKMeans, StyleEditor, blend, generators
from stylefast.editing import Grid, Job, JobOptions, SeedLatents
from stylefast.generators import Generator
from stylefast.io.tensors import read_tensors, write_tensors

ROUNDS = 10
BUFFERS = (128, 256, 1024, 4096)  # edits per buffer of styles
SHARD = (64, 512, 32)  # N, C, H = W of a shard of activations


def grid(generator: Generator, edits: int) -> tuple[StyleEditor, Grid]:
    """Return an editor and a plan of at least `edits` edits: 20 references, one part, as many targets as needed."""
    catalog, _ = build(generator, 8, 8)
    targets = SeedLatents(generator, range(1000, 1000 + -(-edits // 20)))
    references = SeedLatents(generator, range(20))
    return StyleEditor(generator, catalog), Grid(targets, references, "cluster0")


def seconds(work: Iterable[object]) -> float:
    """Return the seconds that it takes to exhaust an iterator, which does its work when it is advanced."""
    begin = time.perf_counter()
    deque(work, maxlen=0)
    return time.perf_counter() - begin


def peak(edits: int, send: Callable[[int], None]) -> None:
    """Run a job with the toy generator and send the peak memory of the process in kB."""
    torch.set_num_threads(1)
    editor, plan = grid(generators.load("toy:sg2"), edits)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(editor, plan, folder, JobOptions(batch_size=16), progress=False)
        n_edits = sum(len(batch.edits) for batch in job)
        assert n_edits == len(plan) >= edits
    send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def memory(edits: int) -> str:
    """Return a line with the peak memory of many edits divided by the peak of 100, each in a separate process."""
    context = multiprocessing.get_context("spawn")
    peaks = []
    for n in (100, edits):
        answer, send = context.Pipe(duplex=False)
        process = context.Process(target=peak, args=(n, send.send))
        process.start()
        peaks.append(answer.recv())
        process.join()
    return f"peak memory of {edits} edits / 100 edits = {peaks[1] / peaks[0]:.3f} (100 edits: {peaks[0] >> 10} MB)"


def paged(huge: str, network: str, batch_size: int, threads: int, send: Callable[[list[float]], None]) -> None:
    """Measure the generator and a blend into fresh memory, and send the median seconds of each.

    Memory lies on huge pages if `huge` is "1", and on pages of 4 kB if it is "0".
    """
    os.environ["THP_MEM_ALLOC_ENABLE"] = huge
    torch.set_num_threads(threads)
    generator = generators.load(network)
    w = generator.latents(range(batch_size))
    styles, rows = generator.styles(w), torch.rand(256, STYLES)
    edits = torch.cartesian_prod(torch.arange(1), torch.arange(256), torch.arange(5))
    calls = partial(generator.synthesize, styles, w), partial(blend, rows[:1], rows, rows[:5], edits=edits)
    send([percentile([seconds(call() for _ in range(1)) for _ in range(ROUNDS)], 50) for call in calls])


def pages(network: str, batch_size: int, threads: int) -> Iterator[str]:
    """Yield one line for the generator and one for a blend: time on pages of 4 kB divided by time on huge pages.

    Each page size is measured in separate processes, which alternate.
    """
    context, medians = multiprocessing.get_context("spawn"), list[list[list[float]]]()
    for _ in range(3):
        medians.append([])
        for huge in "01":
            answer, send = context.Pipe(duplex=False)
            process = context.Process(target=paged, args=(huge, network, batch_size, threads, send.send))
            process.start()
            medians[-1].append(answer.recv())
            process.join()
    for i, work in enumerate((f"{batch_size} images of {network}", f"1280 x {STYLES} blended into fresh memory")):
        ratios = [small[i] / huge[i] for small, huge in medians]
        yield f"{work}: time, 4 kB / huge pages = {percentile(ratios, 50):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def blending(edits: int, threads: int) -> Iterator[str]:
    """Yield one line per buffer size, with the rate of blending divided by the rate of streaming stores.

    The blended styles are written into two alternating buffers.
    """
    rng = torch.Generator().manual_seed(0)
    targets, references = torch.randn(512, STYLES, generator=rng), torch.randn(256, STYLES, generator=rng)
    queries = torch.rand(5, STYLES, generator=rng)
    rows = torch.cartesian_prod(torch.arange(512), torch.arange(256), torch.zeros(1, dtype=torch.int64))[:edits]
    rows[:, 2] = torch.arange(len(rows)) % 5
    store = limits.probes(threads)["store"]
    for size in BUFFERS:
        buffers = [torch.zeros(size, STYLES) for _ in range(2)]
        chunks = [chunk for chunk in rows.split(size) if len(chunk) == size]
        rates, limit = list[float](), list[float]()
        for i, chunk in enumerate(chunks):
            begin = time.perf_counter()
            blend(targets, references, queries, edits=chunk, out=buffers[i % 2])
            spent = time.perf_counter() - begin
            if i >= 2:  # by now the pages of both buffers are mapped
                rates.append(buffers[0].nbytes / spent)
                limit.append(store())
        ratio, best = percentile(rates, 50) / percentile(limit, 50), max(rates) / max(limit)
        written = f"{len(chunks) * size} edits x {STYLES} into buffers of {size}"
        yield f"{written}: {ratio:.2f} ({best:.2f}) of the streaming-store bandwidth"


def stream(images: int) -> Iterator[str]:
    """Yield lines with the rates of a build from activations on disk: writing, reading with checksums, and fitting."""
    n, c, side = SHARD
    shards = -(-images // n)
    x: Tensor = torch.randn(n, c, side, side).half()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.safetensors" for i in range(shards)]
        spent = seconds(write_tensors(path, "bench", {"x": x}) for path in paths)
        yield f"write shards of {x.nbytes / 1e6:.0f} MB, float16: {shards * x.nbytes / spent / 1e9:.2f} GB/s"
        spent = seconds(read_tensors(path, "bench") for path in paths)
        yield f"read shards and verify their checksums: {shards * x.nbytes / spent / 1e9:.2f} GB/s"

        class Files:
            def __iter__(self) -> Iterator[Tensor]:
                return (read_tensors(path, "bench")[0]["x"] for path in paths)

        kmeans = SphericalKMeans(32, n_init=8, max_iter=3, tol=0)
        spent = seconds(kmeans.fit(files, progress=False) for files in [Files()])
        passes = 3 + 4  # first batch, count of nonzero points, sample; then four evaluations
        yield f"fit, 8 restarts of 32 clusters, {passes} passes: {shards * n * passes / spent:.0f} images/s per pass"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("measurement", choices=("memory", "blend", "stream", "pages"))
    parser.add_argument("--network", default="random-face")
    parser.add_argument("--edits", type=int)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--threads", type=int, default=min(2, len(environment.CPUS) or 1))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measurement == "memory":
        print(memory(arguments.edits or 10_000))
    else:
        lines = {
            "blend": partial(blending, arguments.edits or 131_072, arguments.threads),
            "stream": partial(stream, arguments.images),
            "pages": partial(pages, arguments.network, arguments.batch_size, arguments.threads),
        }
        for line in lines[arguments.measurement]():
            print(line, flush=True)


if __name__ == "__main__":
    main()
