# SPDX-License-Identifier: Apache-2.0
"""Every GPU backend on every GPU workload, in turn with copies of memory and with what torch users write.

    python benchmarks/gpu.py [--only "lloyd_step.*bfloat16"] [--rounds 20] [--scale 1] [--record]

Before a result is timed, it must be right on a few images, and twice the same bits on all of them;
and images beyond 2^31 elements must give what they give alone. Times are the GPU's own (events).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime, timezone
from functools import partial
from typing import Any

import environment  # noqa: F401
import formulations
import torch
from gpu_workloads import GPU_WORKLOADS, GpuWorkload
from record import RESULTS, context
from timing import Figure, Times, WrongResult, figure
from torch import Tensor
from torch.nn import functional as F
from verify import outputs, verify

from stylefast.backends import BACKENDS, available
from stylefast.ops import ASSIGN, BLEND, CONTRIBUTION, LLOYD_STEP

FEW = 64  # a workload divided by this is checked against the reference
COPY = 1 << 30  # bytes


def backends() -> list[str]:
    """The GPU's backends that can run here."""
    reasons = available()
    return [name for name, backend in BACKENDS.items() if "cuda" in (backend.devices or ()) and reasons[name] is None]


def peers(workload: GpuWorkload, inputs: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """The same work as torch users write it, eager and compiled, and flash-kmeans if it is installed."""
    op, call = workload.op, None
    if op is BLEND:
        t, r, q = (inputs[name] for name in ("target", "reference", "query"))
        e = inputs["edits"].t()
        call = partial(_gathered_lerp, t, r, q.to(t.dtype), e)
    elif op is CONTRIBUTION and inputs["labels"].shape[1:] == inputs["activations"].shape[2:]:
        call = partial(formulations.contribution_by_bmm, inputs["activations"], inputs["labels"], workload.k)
    elif "centroids" in inputs and workload.restarts == 1 and workload.features == "raw":
        x, centroids = inputs["activations"], inputs["centroids"].reshape(workload.k, -1)
        centroids = centroids.to(x.dtype)
        steps = {ASSIGN: formulations.assign_by_matmul, LLOYD_STEP: formulations.lloyd_by_matmul}
        call = partial(steps.get(op, _assign_then_bmm), x, centroids)
    if call is None:
        return {}
    found = {"torch, eager": call, "torch.compile": partial(torch.compile(call.func), *call.args)}
    if op is LLOYD_STEP and "centroids" in inputs and (flash := environment.load("flash_kmeans")) is not None:
        found["flash-kmeans"] = partial(_flash_step, flash.batch_kmeans_Cosine, *call.args)
    return found


def _gathered_lerp(t: Tensor, r: Tensor, q: Tensor, edits: Tensor) -> Tensor:
    return torch.lerp(t[edits[0]], r[edits[1]], q[edits[2]])


def _assign_then_bmm(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    labels, _ = formulations.assign_by_matmul(x, centroids)
    labels = labels.view(len(x), *x.shape[2:])
    return labels, formulations.contribution_by_bmm(x, labels, len(centroids))


def _flash_step(kmeans: Callable[..., Any], x: Tensor, centroids: Tensor) -> Any:
    rows = F.normalize(x.permute(0, 2, 3, 1).reshape(1, -1, x.shape[1]), dim=2)
    return kmeans(rows, len(centroids), max_iters=1, tol=0.0, init_centroids=centroids[None])


def check(workload: GpuWorkload, backend: str, inputs: dict[str, Any], call: Callable[[], Any]) -> None:
    """Raises WrongResult unless a few images agree with the reference and all of them twice with themselves."""
    few = workload.make("cuda", FEW)
    verify(workload.op, few, workload.op.cells[backend](*few.values()))
    if not all(map(torch.equal, outputs(call()), outputs(call()))):
        raise WrongResult(f"{backend} gives other bits when {workload.op.name} {workload.name} is repeated")


def check_beyond(backend: str, images: int = 2**31 // (512 * 32 * 32) + 2) -> None:
    """Raises WrongResult unless images that lie beyond 2^31 elements give what they give alone."""
    x = GpuWorkload(ASSIGN, (images, 512, 32), torch.bfloat16, 8).make("cuda")
    few = {**x, "activations": x["activations"][-2:]}
    labels, similarity = ASSIGN.cells[backend](*x.values())
    alone, cosines = ASSIGN.cells[backend](*few.values())
    given = (8, True, "bilinear", True)  # n_clusters, standardize, resize, per_image
    m = CONTRIBUTION.cells[backend](x["activations"], labels, *given)
    m_alone = CONTRIBUTION.cells[backend](few["activations"], alone, *given)
    pairs = ((labels, alone), (similarity, cosines), (m, m_alone))
    if not all(torch.equal(all_[-2:], alone_) for all_, alone_ in pairs):
        raise WrongResult(f"{backend} gives other results beyond 2^31 elements")


def seconds(call: Callable[[], Any]) -> float:
    """The GPU's time for a call."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def copier() -> Callable[[], float]:
    """Measures the bandwidth of a copy, bytes read and written a second."""
    source, target = (torch.empty(COPY, dtype=torch.uint8, device="cuda") for _ in range(2))
    return lambda: 2 * COPY / seconds(lambda: target.copy_(source))


def compare(workload: GpuWorkload, rounds: int, scale: int) -> list[Figure]:
    """One figure for each backend: p50 of interleaved rounds over the least traffic at the copy's bandwidth."""
    inputs = workload.make("cuda", scale)
    ours = {name: partial(workload.op.cells[name], *inputs.values()) for name in backends()}
    for name, call in ours.items():
        check(workload, name, inputs, call)
    calls = {**ours, **peers(workload, inputs)}
    copy = copier()
    for call in (*calls.values(), copy):
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    rates: list[float] = []
    for _ in range(rounds):
        rates.append(copy())
        for name, call in calls.items():
            times[name].append(seconds(call))
    return [summary(workload, name, inputs, times, rates) for name in ours]


def summary(
    workload: GpuWorkload, backend: str, inputs: dict[str, Any], times: dict[str, list[float]], rates: list[float]
) -> Figure:
    limits = {"read": rates, "stream": rates, "store": rates, "fma": [float("inf")]}
    found = figure(workload, 0, inputs, Times(times, limits), ours=backend)  # type: ignore[arg-type]
    return replace(found, limit="copy", workload=f"{found.workload} ({backend})")


def machine() -> dict[str, Any]:
    """The device, its driver and the versions that a record needs beside those of `record.context`."""
    import triton

    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    return {
        "device": torch.cuda.get_device_name(),
        "driver": subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip(),
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
    }


def append(found: Figure, where: dict[str, Any]) -> None:
    """Appends a figure to the device's file: results/gpu/<device>.jsonl."""
    folder = RESULTS / "gpu"
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", where["device"].lower()).strip("-")
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with (folder / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(context() | where | {"date": now} | asdict(found)) + "\n")


def line(found: Figure) -> str:
    """A figure for people: its share of the copy's bandwidth, and its peers' times by its own."""
    name = f"{found.op} {found.workload}"
    others = "".join(f"  {ratio:.1f}x {peer}" for peer, ratio in found.peers.items())
    return f"{name:<72}{found.p50 * 1e3:9.3f} ms {100 / found.median_to_floor:5.0f} % of copy{others}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="a regular expression on `op workload`")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--scale", type=int, default=1, help="divides the number of images")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results/gpu")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a GPU that torch can use", file=sys.stderr)
        return 2
    where = machine() if chosen.record else {}
    if chosen.scale == 1:
        for backend in backends():
            check_beyond(backend)
    for workload in GPU_WORKLOADS:
        if re.search(chosen.only, f"{workload.op.name} {workload.name}"):
            for found in compare(workload, chosen.rounds, chosen.scale):
                print(line(found), flush=True)
                if chosen.record:
                    append(found, where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
