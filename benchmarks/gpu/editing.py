# SPDX-License-Identifier: Apache-2.0
"""Stage `editing`: edits per second of the package against plain loops over the same network on the same device.

The network is StyleGAN2 (configuration F) with random weights, in the code of this package; the compiled operations of
NVlabs are not part of the comparison. Every time includes the pixels on the host. The loops are measured in turn, after
their pixels have been compared:

- plain: one forward pass per edit; the float image is copied to the host and becomes bytes there;
- plain, bytes on the GPU: the same, but the image becomes bytes on the GPU;
- the package: edits are blended and synthesised in batches, and bytes are copied while the next batch runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from timing import WrongResult, percentile
from torch import Tensor

from stylefast import blend
from stylefast.generators import Generator
from stylefast.generators.converted import use_float16
from stylefast.generators.stylegan2 import StyleGAN2, stylegan2

from .device import clocks, spread, start, write
from .isolated import deadline, run, serve
from .rehearsal import DEVICE, REHEARSAL, cuda
from .statuses import CUT

RESOLUTIONS = (16,) if REHEARSAL else (1024, 256)
WIDEST = 8 if REHEARSAL else 512  # channels of the lowest resolutions
EDITS, BATCH = (5, 2) if REHEARSAL else (32, 8)
ROUNDS = 1 if REHEARSAL else 5
ROW_SECONDS = 45.0  # compiling takes most of it
COMPILE = {"backend": "eager"} if REHEARSAL else {"mode": "reduce-overhead"}
OUTLIERS = 1e-3  # fraction of the bytes that may differ by more than the levels
LEVELS = {"float32": 1, "float16": 4}
Loop = Callable[[], np.ndarray]


class Row(NamedTuple):
    """What is compared with the plain loops."""

    resolution: int
    precision: str
    way: str  # "eager" or "compiled"

    def __str__(self) -> str:
        return f"{self.resolution} {self.precision} {self.way}"


ROWS = {
    str(row): row
    for way in ("eager", "compiled")
    for row in (Row(resolution, precision, way) for resolution in RESOLUTIONS for precision in LEVELS)
}


class Edits(NamedTuple):
    """Latents w [T, rows, D], styles [T, S] and queries [Q, S], and the edits as indices [E, 3]."""

    w: Tensor
    styles: Tensor
    queries: Tensor
    index: Tensor


def random_network(resolution: int) -> StyleGAN2:
    """Return configuration F with random weights. Equal resolutions give equal weights."""
    random, tensors = torch.Generator().manual_seed(0), dict[str, Tensor]()

    def draw(name: str, *shape: int, scale: float = 1.0) -> None:
        tensors[name] = scale * torch.randn(shape, generator=random)

    for i in range(8):
        draw(f"mapping.fc{i}.weight", WIDEST, WIDEST, scale=WIDEST**-0.5)
        draw(f"mapping.fc{i}.bias", WIDEST, scale=0.1)
    draw("synthesis.const", WIDEST, 4, 4)
    taps = torch.tensor([1.0, 3, 3, 1]) / 8
    tensors["synthesis.filter"] = torch.outer(taps, taps)
    size, before = 4, WIDEST
    while size <= resolution:
        channels = min(WIDEST, 32768 // size)
        for name, inputs in (("conv0", before), ("conv1", channels), ("torgb", channels)):
            if size == 4 and name == "conv0":
                continue
            prefix, outputs, kernel = f"synthesis.b{size}.{name}.", 3 if name == "torgb" else channels, 3
            kernel = 1 if name == "torgb" else kernel
            draw(f"{prefix}affine.weight", inputs, WIDEST, scale=0.3 * WIDEST**-0.5)
            tensors[f"{prefix}affine.bias"] = torch.ones(inputs)
            draw(f"{prefix}weight", outputs, inputs, kernel, kernel, scale=0.2 * inputs**-0.5 if kernel == 1 else 1)
            draw(f"{prefix}bias", outputs, scale=0.1)
            if kernel == 3:
                draw(f"{prefix}noise", size, size, scale=0.1)
        before, size = channels, 2 * size
    return StyleGAN2(tensors, clamp=256.0)


def edits_of(generator: Generator) -> Edits:
    """Return edits of all pairs of a target and another image, with two queries in turn."""
    w = generator.latents(range(8), truncation=0.7)
    random = torch.Generator().manual_seed(0)
    queries = (torch.rand(2, generator.style_width, generator=random) < 0.2).float()
    index = torch.tensor([(i % 8, (i + 1 + i // 8) % 8, i % 2) for i in range(EDITS)])
    return Edits(w, generator.styles(w), queries.to(DEVICE), index.to(DEVICE))


def plain_loop(generator: Generator, edits: Edits, *, bytes_on_gpu: bool) -> np.ndarray:
    """Return the pixels [E, H, W, C] of one forward pass per edit, with the styles set by hooks."""
    network: Any = generator.network
    pixels, row, handles = [], Tensor(), []

    def replace(columns: slice, module: Any, inputs: Any, output: Any) -> Tensor:
        return row[:, columns]

    for site in generator.sites:
        affine = network.get_submodule(f"synthesis.{site.name}.affine")
        handles.append(affine.register_forward_hook(partial(replace, site.slice)))
    try:
        for target, reference, query in edits.index.tolist():
            q = edits.queries[query]
            row = ((1 - q) * edits.styles[target] + q * edits.styles[reference])[None]
            image = network.synthesis(edits.w[target : target + 1])[0].permute(1, 2, 0)
            if bytes_on_gpu:
                pixels.append((image * 127.5 + 128).clamp(0, 255).to(torch.uint8).cpu().numpy())
            else:
                pixels.append((image.cpu().numpy() * 127.5 + 128).clip(0, 255).astype(np.uint8))
    finally:
        for handle in handles:
            handle.remove()
    return np.stack(pixels)


def package_loop(generator: Generator, edits: Edits) -> np.ndarray:
    """Return the pixels [E, H, W, C]; each batch is copied while the next one runs."""
    pixels: list[np.ndarray] = []
    pending: list[tuple[Tensor, Any]] = []

    def finish() -> None:
        copy, event = pending.pop()
        event.synchronize()
        pixels.append(copy.numpy())

    for index in edits.index.split(BATCH):
        styles = blend(edits.styles, edits.styles, edits.queries, edits=index)
        images = generator.synthesize(styles, edits.w[index[:, 0]])
        scaled = images.permute(0, 2, 3, 1).mul(255).round_().to(torch.uint8, memory_format=torch.contiguous_format)
        copied = cuda.Event(enable_timing=True)
        copy = scaled.to("cpu", non_blocking=True)
        copied.record()
        if pending:
            finish()
        pending.append((copy, copied))
    finish()
    return np.concatenate(pixels)


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Switch TF32 off in convolutions."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def verify(name: str, expected: np.ndarray, pixels: np.ndarray, levels: int) -> None:
    """Raise WrongResult unless almost all bytes differ by at most `levels`."""
    if expected.std() < 10:
        raise WrongResult("the images of the plain loop are almost constant")
    outliers = float((np.abs(pixels.astype(np.int16) - expected) > levels).mean())
    if pixels.shape != expected.shape or outliers > OUTLIERS:
        raise WrongResult(f"{name}: a fraction {outliers:.2g} of the bytes differs by more than {levels}")


@torch.no_grad()
def measure(name: str) -> None:
    """Verify and time a row."""
    row = ROWS[name]
    network = random_network(row.resolution)
    if row.precision == "float16":
        use_float16(network)
    generator = stylegan2(network.to(DEVICE))
    edits = edits_of(generator)
    loops: dict[str, Loop] = {
        "plain": partial(plain_loop, generator, edits, bytes_on_gpu=False),
        "plain, bytes on the GPU": partial(plain_loop, generator, edits, bytes_on_gpu=True),
        row.way: partial(package_loop, generator, edits),
    }
    with exact_convolutions():
        expected = loops["plain"]()
        for by, loop in loops.items():
            verify(by, expected, loop(), LEVELS[row.precision])
    if row.way == "compiled":
        generator.compile(BATCH, **COMPILE)
        for _ in range(2):  # CUDA graphs are recorded in the second call
            verify("compiled", expected, loops[row.way](), 8)  # with TF32
    times = race(loops)
    medians = {by: percentile(seconds, 50) for by, seconds in times.items()}
    ours = medians.pop(row.way)
    ratios = {by: seconds / ours for by, seconds in medians.items()}
    rates = {by: EDITS / percentile(seconds, 50) for by, seconds in times.items()}
    fields = {"network": f"stylegan2-f {row.resolution}", "precision": row.precision, "implementation": row.way}
    fields |= {"edits": EDITS, "batch": BATCH, "per_second": rates, "ratios": ratios, "clocks": clocks()}
    write("editing", **fields, **{"tf32": torch.backends.cudnn.allow_tf32}, **spread(times[row.way]))
    text = "; ".join(f"{ratio:.2f}x {by}" for by, ratio in ratios.items())
    print(f"{name:<24}{rates[row.way]:9.1f} edits/s, {text}", flush=True)


def race(loops: dict[str, Loop]) -> dict[str, list[float]]:
    """Return the seconds of every loop, measured in turn after a first call of each."""
    seconds: dict[str, list[float]] = {by: [] for by in loops}
    for count in range(1 + ROUNDS):
        for by, loop in loops.items():
            cuda.synchronize()
            begin = time.perf_counter()
            loop()
            cuda.synchronize()
            if count:
                seconds[by].append(time.perf_counter() - begin)
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rows is not None:
        return serve(arguments.rows, measure, lambda name: 100.0 if REHEARSAL else ROW_SECONDS)
    start()
    tally = run("gpu.editing", list(ROWS), deadline())
    print(tally)
    return 1 if tally.failed else CUT if tally.left else 0


if __name__ == "__main__":
    sys.exit(main())
