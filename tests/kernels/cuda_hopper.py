# SPDX-License-Identifier: Apache-2.0
"""Run the Hopper kernel of lloyd_step on CPU tensors, as compiled by cuda_emulation.py: `make cuda`.

It compares the results with the reference, checks that no bit depends on the order of threads, blocks and copies, and
checks that results change or the emulation fails if any one wait, barrier or fence is removed.

This needs GCC on x86-64.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from agreement import agree
from cells import Cell, bits, invoke, outputs
from cuda_emulation import build, load
from sanitized import report, tight

from stylefast.ops import OPS
from stylefast.ops.assign import clustered

ROOT = Path(__file__).resolve().parents[2]
(LLOYD_STEP,) = (op for op in OPS if op.name == "lloyd_step")
HOPPER = (3, 232448)  # processors, bytes of shared memory per block
ORDERS = (0, 1, 37, 103)  # of threads, blocks and copies; in order 103, warps lag behind each other (fibers.cpp)
SIZES = (  # N, C, H, W, B, K: planes of less and more than a tile, every number of boxes, and the borders of B K
    (2, 64, 8, 8, 1, 4),
    (1, 128, 1, 8, 1, 1),
    (3, 192, 9, 16, 1, 7),
    (1, 256, 24, 17, 2, 16),
    (2, 320, 4, 18, 1, 31),
    (1, 384, 2, 72, 32, 1),
    (1, 448, 13, 8, 3, 9),
    (2, 512, 16, 20, 1, 32),
)
WAITS = re.compile(r"\b(wait|meet|meet_any|fence_writes|begin_products|end_products|wait_for_products|__syncthreads)\(")
# Samples that together need every wait.
WAIT_SAMPLES = ("bfloat16-2x512x16x20-B1-K32", "special")


def sample(n: int, c: int, h: int, w: int, b: int, k: int, dtype: torch.dtype, seed: int = 0) -> Cell:
    x, centroids = clustered(n, c, h, w, b * k, dtype, seed)
    inputs = {"activations": x.contiguous(), "centroids": centroids.view(b, k, c), "features": "raw"}
    return Cell(LLOYD_STEP, "cuda", inputs)


def special() -> Cell:
    """Return a sample with zeros, infinities, NaN, tiny and huge norms, ties, and centroids that are not finite."""
    cell = sample(2, 128, 9, 24, 2, 8, torch.bfloat16)
    x, centroids = cell.inputs["activations"], cell.inputs["centroids"]
    points = x.flatten(2)  # a view
    points[0, 5, 3], points[0, 70, 60], points[1, 127, 64] = torch.inf, torch.nan, -torch.inf
    points[1, :, 200:] = torch.nan
    points[0, :, 100] *= 1e-17
    points[0, :, 101] *= 1e17
    centroids[0, 5] = centroids[0, 2]
    centroids[1, 3] = torch.nan
    centroids[1, 4, 7] = torch.inf
    return cell


def far_norms() -> Cell:
    """Return a float16 sample whose norms differ by a factor of 2^30."""
    cell = sample(1, 128, 8, 32, 1, 8, torch.float16)
    points = cell.inputs["activations"].flatten(2)
    points *= torch.logspace(-14, 14, points.shape[2], base=2).to(torch.float16)
    points[0, :, 9] = torch.inf
    return cell


def large_norms() -> Cell:
    """Return a float16 sample of few positions, whose weights are about 2^-16."""
    cell = sample(1, 64, 1, 8, 1, 8, torch.float16)
    cell.inputs["activations"] *= 2.0**13
    return cell


def ties() -> Cell:
    """Return a sample of small integers, whose scores are exact, and in which every centroid occurs several times."""
    rng = torch.Generator().manual_seed(0)
    rows = torch.randint(-1, 2, (5, 64), generator=rng)
    x = rows[torch.randint(5, (2, 9, 16), generator=rng)].movedim(-1, 1).contiguous()
    centroids = rows[torch.randint(5, (31,), generator=rng)].unsqueeze(0)
    inputs = {"activations": x.bfloat16(), "centroids": centroids.float(), "features": "raw"}
    return Cell(LLOYD_STEP, "cuda", inputs)


def slices() -> Cell:
    """Return a slice of a larger tensor, whose other elements are NaN, and a centroid of NaN, which stays empty."""
    cell = sample(2, 64, 5, 16, 1, 5, torch.bfloat16)
    cell.inputs["centroids"][0, 3] = torch.nan
    x = cell.inputs["activations"]
    buffer = torch.full((3, 2, 66, 6, 16), torch.nan, dtype=x.dtype)
    buffer[1:, 1, 2:, 1:] = x
    return cell._replace(inputs={**cell.inputs, "activations": buffer[1:, 1, 2:, 1:]})


def samples() -> dict[str, Cell]:
    cells = {
        f"{dtype}-{n}x{c}x{h}x{w}-B{b}-K{k}"[6:]: sample(n, c, h, w, b, k, dtype)
        for dtype in (torch.bfloat16, torch.float16)
        for n, c, h, w, b, k in SIZES
    }
    norms = {"far_norms": far_norms(), "large_norms": large_norms()}
    return {**cells, **norms, "special": special(), "ties": ties(), "slices": slices()}


def unsupported() -> dict[str, Cell]:
    """Return samples that the portable kernel must take."""
    cell, squared = (sample(1, 64, 8, 8, 1, 4, torch.bfloat16) for _ in range(2))
    squared.inputs["features"] = "squared"
    channels_last = cell.inputs["activations"].contiguous(memory_format=torch.channels_last)
    return {
        "odd planes": sample(2, 64, 9, 15, 1, 4, torch.bfloat16),
        "channels": sample(1, 96, 8, 8, 1, 4, torch.bfloat16),
        "many channels": sample(1, 576, 1, 8, 1, 4, torch.bfloat16),
        "many rows": sample(1, 64, 8, 8, 3, 11, torch.bfloat16),
        "float32": sample(1, 64, 8, 8, 1, 4, torch.float32),
        "no images": sample(0, 64, 8, 8, 1, 4, torch.bfloat16),
        "squared": squared,
        "channels_last": cell._replace(inputs={**cell.inputs, "activations": channels_last}),
    }


def waits() -> Iterator[tuple[str, int]]:
    """Yield the file and the line of every wait, barrier and fence of the kernel."""
    for name in ("consume.cuh", "lloyd_step.cu"):
        for number, line in enumerate((ROOT / "csrc" / "cuda" / "hopper" / name).read_text().splitlines(), 1):
            if WAITS.search(line.partition("//")[0]):
                yield name, number


def result(cell: Cell) -> tuple[torch.Tensor, ...]:
    return outputs(invoke(cell, [tight(value) for value in cell.inputs.values()]))


def check(on_cpu: ctypes.CDLL, name: str, cell: Cell, orders: tuple[int, ...] = ORDERS) -> None:
    """Raise AssertionError if results are wrong, depend on the order, or come from the portable kernel."""
    first = None
    for order in orders:
        on_cpu.on_cpu_order(order)
        got = result(cell)
        assert on_cpu.on_cpu_boxes() > 0, f"{name}: the Hopper kernel has not run"
        agree(LLOYD_STEP, got, cell.inputs, exact=name == "ties")
        first = first or got
        assert all(torch.equal(bits(x), bits(y)) for x, y in zip(got, first, strict=True)), (
            f"{name}: other bits in order {order}"
        )


def main() -> None:
    on_cpu = load(str(build("plain", "-O2")))
    torch.set_num_threads(1)
    on_cpu.on_cpu_device(*HOPPER)
    on_cpu.on_cpu_capability(9)
    cells = samples()
    for name, cell in unsupported().items():
        os.environ["STYLEFAST_HOPPER"] = "1"
        result(cell)
        assert on_cpu.on_cpu_boxes() == 0, f"{name}: the Hopper kernel has run"
    for variable, capability in (("0", 9), ("1", 8), ("1", 10)):
        os.environ["STYLEFAST_HOPPER"] = variable
        on_cpu.on_cpu_capability(capability)
        result(cells["slices"])
        assert on_cpu.on_cpu_boxes() == 0, f"the Hopper kernel has run with {variable} on {capability}.0"
    on_cpu.on_cpu_capability(9)
    for name, cell in cells.items():
        print(name, file=sys.stderr, flush=True)
        check(on_cpu, name, cell)

    def without(file: str, line: int) -> None:
        on_cpu.on_cpu_skip(file.encode(), line)
        try:
            for name in WAIT_SAMPLES:
                check(on_cpu, name, cells[name])
        except AssertionError as error:
            print(error, file=sys.stderr, flush=True)
            os.abort()

    needless = [place for place in waits() if not report(partial(without, *place))]
    assert not needless, f"results do not change without these waits: {needless}"
    print(f"{len(cells)} samples agree in {len(ORDERS)} orders; all {len(list(waits()))} waits are needed")


if __name__ == "__main__":
    main()
