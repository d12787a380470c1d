# SPDX-License-Identifier: Apache-2.0
"""Stages `key` and `rest`: measure the GPU time of ops and of their rivals, and the host time of small calls.

Usage::

    python -m gpu.timings key | rest [--only "lloyd_step.*bfloat16"]

Every result is verified before it is timed. On a few images it must agree with the reference. On all images, two calls
of our backends must give equal bits, and the result must agree with the results on parts of the images. A time is the
median GPU time with a cold L2 cache. Each time is a separate row.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from formulations import one_torch_op
from timing import WrongResult, percentile
from verify import TOLERANCE, outputs, verify
from workloads import SMALL_CALLS, Workload

from stylefast.ops import ASSIGN, CONTRIBUTION, LLOYD_STEP

from . import rivals
from .device import Copier, Timer, backends, clocks, missing, spread, start, write
from .isolated import ROW_SECONDS, deadline, run, serve
from .rehearsal import DEVICE, REHEARSAL, cuda
from .statuses import CUT
from .whole import verify_whole
from .workloads import GPU_WORKLOADS, KEY_WORKLOADS, GpuWorkload

FEW = 8  # an eighth of the images is verified against the reference: 512 of 4096, more than an H100 has processors
ROUNDS = 1 if REHEARSAL else 30
CALLS = 1 if REHEARSAL else 50
OURS = ("cuda", "triton", HOPPER := "cuda with STYLEFAST_HOPPER=1")
BEYOND = (2 if REHEARSAL else 2**31 // (512 * 32 * 32)) + 2  # images; the last two lie beyond element 2^31


class Row(NamedTuple):
    """A workload, and the backend or rival that runs it."""

    workload: GpuWorkload
    by: str


def rows() -> dict[str, Row]:
    """Return the rows of both stages by name, the most informative rows first."""
    pairs = [Row(workload, by) for workload in GPU_WORKLOADS for by in ("cuda", "triton", *rivals.names(workload))]
    pairs += [Row(workload, HOPPER) for workload in GPU_WORKLOADS if runs_on_hopper_kernel(workload)]
    pairs.sort(key=worth)
    return {f"{row.workload.op.name} {row.workload.name} | {row.by}": row for row in pairs}


def runs_on_hopper_kernel(workload: GpuWorkload) -> bool:
    """Return whether the kernel of docs/hopper.md supports a workload."""
    return (
        workload.op is LLOYD_STEP
        and workload.dtype in (torch.bfloat16, torch.float16)
        and workload.features == "raw"
        and workload.restarts * (workload.k or 1) <= 32
    )


def worth(row: Row) -> tuple[int, int]:
    """Return a sort key for rows.

    The key timings of our backends and of eager torch come first, then the other timings of our backends. The rivals
    follow one after the other, each with its key timings first.
    """
    key = KEY_WORKLOADS.index(row.workload) if row.workload in KEY_WORKLOADS else len(KEY_WORKLOADS)
    rank = 0 if row.by in OURS else 1 + rivals.ORDER.index(row.by)
    first = key < len(KEY_WORKLOADS) and rank <= 1
    return (rank if first else 2 + rank), key


def plan(stage: str) -> Iterator[str]:
    """Yield the names of a stage's rows."""
    running = backends()
    unable = [by for by in OURS if by.split()[0] not in running]
    timed = {name: row for name, row in rows().items() if row.by not in unable}
    key = [name for name, row in timed.items() if row.workload in KEY_WORKLOADS and row.by in OURS]
    host = [f"host {workload.op.name} | {backend}" for workload in SMALL_CALLS for backend in running]
    if stage == "key":
        yield from (*key, *host)
    elif stage == "compile":
        yield from (f"compile {name}" for name in (*key, *host) if name.endswith("| triton"))
    else:
        yield from (f"beyond 2^31 | {backend}" for backend in running)
        rest = {name: row for name, row in timed.items() if name not in key}
        yield from first_of_each_kind(rest) if REHEARSAL else rest


def first_of_each_kind(timed: dict[str, Row]) -> Iterator[str]:
    """Yield one row per op and implementation, and one more for a layer larger than its labels."""
    kinds = {}
    for name, (workload, by) in timed.items():
        kinds.setdefault((workload.op.name, workload.is_pooled, by), name)
    yield from kinds.values()


def measure(name: str) -> None:
    """Measure the row of this name."""
    kind, by = name.split(" ", 1)[0], name.rsplit(" | ", 1)[1]
    if kind == "beyond":
        check_beyond(by)
        write("beyond", implementation=by)
        print(f"{name}: images beyond element 2^31 give the same results as in a separate batch", flush=True)
    elif kind == "compile":
        compile_only(name.removeprefix("compile "), by)
        print(f"{name}: done", flush=True)
    elif kind == "host":
        host_time(name.split(" ")[1], by)
    else:
        gpu_time(name, rows()[name])


def patience(name: str) -> float:
    """Return the seconds that a row may take. Rivals that are compiled take longer."""
    return 60.0 if name.endswith((rivals.COMPILED, rivals.FLASH, rivals.STEADY)) else ROW_SECONDS


def gpu_time(name: str, row: Row) -> None:
    """Measure the GPU time of a row.

    A rival that fails or gives a wrong result is recorded as refused. This does not count as a failure.
    """
    workload, ours = row.workload, row.by in OURS
    inputs, timer = workload.make(DEVICE), Timer()
    copier = Copier(timer)
    try:
        call = caller(row, inputs)
        check(row, inputs, call)
        for warm in (call, copier.rate):
            warm()
    except Exception as error:
        if ours:
            raise
        cuda.synchronize()
        write("refused", row=name, error=str(error)[:500])
        print(f"{name}: refused: {(str(error) or repr(error)).splitlines()[0]}", flush=True)
        return
    seconds, rates, late = [], [], False
    for _ in range(ROUNDS):
        rates.append(copier.rate())
        seconds.append(timer.seconds(call))
        late |= timer.late
    cost = workload.op.cost(*inputs.values())
    floor = cost.bytes / percentile(rates, 50)
    times = spread(seconds)
    write(
        "timing",
        op=workload.op.name,
        workload=workload.name,
        implementation=row.by,
        bytes=cost.bytes,
        flops=cost.flops,
        copy=percentile(rates, 50),
        floor=floor,
        to_floor=times["p50"] / floor,
        includes_host=late,
        clocks=clocks(),
        **times,
    )
    percent = 100 * floor / times["p50"]
    print(
        f"{name:<80}{1e3 * times['p50']:9.3f} ms {percent:4.0f} % of copy bandwidth{' with host time' if late else ''}",
        flush=True,
    )


def caller(row: Row, inputs: dict[str, Any]) -> Callable[[], Any]:
    """Return the call that is timed."""
    if row.by in OURS:
        os.environ["STYLEFAST_HOPPER"] = str(int(row.by == HOPPER))
        return partial(row.workload.op.cells[row.by.split()[0]], *inputs.values())
    return rivals.call(row.workload, row.by, inputs)


def check(row: Row, inputs: dict[str, Any], call: Callable[[], Any]) -> None:
    """Verify the results of a row.

    Rivals round scores and sums to the dtype of the activations, and may have a correspondingly larger error.

    Raises:
        WrongResult: If results on a few images differ from the reference or, for one of our backends, if two calls on
            all images give different bits or a result that does not agree with the results on parts of the images.
    """
    few = row.workload.make(DEVICE, FEW)
    ours = row.by in OURS
    tolerance = TOLERANCE if ours else max(TOLERANCE, 4 * torch.finfo(row.workload.dtype).eps)
    verify(row.workload.op, few, caller(row, few)(), tolerance)
    if not ours:
        return
    first, second = outputs(call()), outputs(call())
    if not all(map(torch.equal, first, second)):
        raise WrongResult(f"{row.by} gives different bits when {row.workload.op.name} {row.workload.name} is repeated")
    cell, images = row.workload.op.cells[row.by.split()[0]], row.workload.size[0] if row.workload.size else 1
    parts = min(FEW, images // 16 or images)  # at least 16 images each: with fewer, Triton compiles other kernels
    verify_whole(row.workload.op, inputs, cell, first, parts)


def check_beyond(backend: str) -> None:
    """Raise WrongResult unless the images beyond element 2^31 give the same results in a separate batch."""
    size = (BEYOND, *KEY_WORKLOADS[0].size[1:])
    x = GpuWorkload(ASSIGN, size, torch.bfloat16, 8).make(DEVICE)
    few = {**x, "activations": x["activations"][-2:]}
    labels, similarity = ASSIGN.cells[backend](*x.values())
    few_labels, few_similarity = ASSIGN.cells[backend](*few.values())
    options = (8, True, "bilinear", True)  # n_clusters, standardize, resize, per_image
    m = CONTRIBUTION.cells[backend](x["activations"], labels, *options)
    few_m = CONTRIBUTION.cells[backend](few["activations"], few_labels, *options)
    pairs = ((similarity, few_similarity), (m, few_m))  # rounding may depend on the number of images
    same = all(torch.allclose(a[-2:], b, rtol=1e-4, atol=1e-6) for a, b in pairs)
    if not torch.equal(labels[-2:], few_labels) or not same:
        raise WrongResult(f"{backend} gives different results beyond element 2^31")


def compile_only(name: str, backend: str) -> None:
    """Compile the kernels of a row."""
    if name.startswith("host "):
        workload, inputs = small(name.split(" ")[1])
    else:
        workload = rows()[name].workload
        inputs = workload.make(DEVICE, scale=1 << 20)  # the fewest images for which the same kernels run
    workload.op.cells[backend](*inputs.values())
    cuda.synchronize()


def small(op: str) -> tuple[Workload, dict[str, Any]]:
    """Return the small call of an op, and its arguments."""
    workload = next(workload for workload in SMALL_CALLS if workload.op.name == op)
    return workload, {name: x.to(DEVICE) if isinstance(x, torch.Tensor) else x for name, x in workload.make().items()}


def host_time(op: str, backend: str) -> None:
    """Measure the host time of the public function on a small input, and of one eager torch op on the same input."""
    workload, inputs = small(op)
    call = partial(workload.op.public, **inputs, backend=backend)
    verify(workload.op, inputs, call())
    peer, torch_call = one_torch_op(inputs)
    seconds, torch_seconds = [], []
    for _ in range(ROUNDS):
        seconds.append(host_seconds(call))
        torch_seconds.append(host_seconds(torch_call))
    extra = percentile(seconds, 50) - percentile(torch_seconds, 50)
    fields = {"op": op, "workload": workload.name, "implementation": backend, "peer": peer}
    write("host", **fields, **spread(seconds), peer_p50=percentile(torch_seconds, 50), over_peer=extra)
    print(
        f"{f'host time of {op} {workload.name} | {backend}':<80}{1e6 * extra:+9.1f} us compared with {peer}", flush=True
    )


def host_seconds(call: Callable[[], Any]) -> float:
    """Return the mean seconds until a call returns. The GPU is idle at the beginning of the first call."""
    cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(CALLS):
        call()
    seconds = (time.perf_counter() - begin) / CALLS
    cuda.synchronize()
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage", nargs="?", choices=("key", "rest"))
    parser.add_argument("--only", default="", help="Measure the rows whose name matches this regular expression.")
    parser.add_argument("--rows", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rows is not None:
        return serve(arguments.rows, measure, patience)
    start()
    names = [name for name in plan(arguments.stage) if re.search(arguments.only, name)]
    tally = run("gpu.timings", names, deadline())
    print("\n".join([*missing(), str(tally)]))
    if tally.failed or missing():
        return 1
    return CUT if tally.left else 0


if __name__ == "__main__":
    sys.exit(main())
