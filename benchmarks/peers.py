# SPDX-License-Identifier: Apache-2.0
"""Time the CPU ops, the fastest alternatives (peers) and the limits of the machine in interleaved rounds.

Usage::

    python benchmarks/peers.py [--rounds 15] [--seconds 3] [--threads 2] [--only K32] [--record]

Every peer is verified against the reference before anything is timed; a wrong result ends the run. Only ratios are
printed, because on a shared machine times are comparable only within the same rounds. The floor of an op is the larger
of its least bytes divided by the bandwidth and its least flops divided by the peak; the serial floor is their sum. The
product that computes only the scores is not an alternative to an op, and is printed as a ratio of its own. So is the
same op on float32 inputs, for 16-bit inputs.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import environment
import formulations
import limits
import record
import torch
from timing import MIN_ROUNDS, Candidate, Figure, figure, race
from torch import Tensor
from verify import verify, verify_centroids, verify_scores
from workloads import HALVES, WORKLOADS, Workload

import stylefast
from stylefast.ops import (
    ASSIGN,
    ASSIGN_CONTRIBUTION,
    ASSIGN_SOFT_CONTRIBUTION,
    BLEND,
    CONTRIBUTION,
    LLOYD_STEP,
    SOFT_CONTRIBUTION,
)
from stylefast.ops.op import Op

Calls = dict[str, Callable[[], Any]]


def ours(op: Op, inputs: dict[str, Any], key: str = "cpu") -> Candidate:
    """Return our candidate: the public function on the backend `key`.

    If `key` ends with `.out`, every call writes into the same tensor.
    """
    arguments = {**inputs, "backend": key.removesuffix(".out")}
    if key.endswith(".out"):
        arguments["out"] = op.fake(*inputs.values())
    return Candidate(partial(op.public, **arguments), partial(verify, op, inputs))


def compiled(function: Callable[..., Any], *inputs: Any) -> Callable[[], Any]:
    """Return the function, compiled by torch for the sizes of these inputs."""
    torch.compiler.reset()
    return partial(torch.compile(function, dynamic=False), *inputs)


def lloyd(inputs: dict[str, Any], threads: int) -> Calls:
    x, c = inputs["activations"], inputs["centroids"][0]
    calls: Calls = {
        "torch.compile, matmul on NCHW": compiled(formulations.lloyd_by_matmul, x, c),
        "torch, matmul on NCHW": partial(formulations.lloyd_by_matmul, x, c),
        "torch, one matmul per image": partial(formulations.lloyd_by_image, x, c),
        "NumPy, one matmul per image": partial(formulations.lloyd_in_numpy, x.numpy(), c.numpy()),
        "scikit-learn": partial(formulations.SklearnStep(threads), x, c),
    }
    if environment.load("faiss") is not None:
        calls["faiss"] = partial(formulations.FaissStep(threads), x, c)
    return calls


def assigning(inputs: dict[str, Any], threads: int) -> Calls:
    x, c = inputs["activations"], inputs["centroids"]
    return {
        "torch.compile, matmul on NCHW": compiled(formulations.assign_by_matmul, x, c),
        "torch, matmul on NCHW": partial(formulations.assign_by_matmul, x, c),
    }


def assigning_and_contribution(inputs: dict[str, Any], threads: int) -> Calls:
    """Return every peer of assign, each followed by the fastest peer of contribution."""
    x, c = inputs["activations"], inputs["centroids"]

    def sequence(assign: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        labels = assign()[0].view(len(x), *x.shape[2:])
        return labels, formulations.contribution_by_image(x, labels, len(c))

    return {
        f"{name}; then one matmul per image": partial(sequence, call)
        for name, call in assigning(inputs, threads).items()
    }


def contributing(inputs: dict[str, Any], threads: int) -> Calls:
    x, labels, k = inputs["activations"], inputs["labels"], inputs["n_clusters"]
    same = {
        "torch, one matmul per image": formulations.contribution_by_image,
        "torch.bmm on a one-hot": formulations.contribution_by_bmm,
        "torch.index_add": formulations.contribution_by_index_add,
    }
    pooled = {
        "torch, resized one-hot": formulations.pooled_by_one_hot,
        "torch, adjoint by matmul": formulations.pooled_by_adjoint,
    }
    peers = same if labels.shape[1:] == x.shape[2:] else pooled
    return {name: partial(peer, x, labels, k) for name, peer in peers.items()}


def sharing(inputs: dict[str, Any], threads: int) -> Calls:
    x, u = inputs["activations"], inputs["memberships"]
    calls: Calls = {"torch, instance_norm and einsum": partial(formulations.soft_by_einsum, x, u)}
    if u.shape[2:] == x.shape[2:]:
        return {**calls, "torch, one matmul per image": partial(formulations.soft_by_image, x, u)}
    return {**calls, "torch, adjoint by matmul": partial(formulations.soft_by_adjoint, x, u)}


def assigning_and_sharing(inputs: dict[str, Any], threads: int) -> Calls:
    """Return every peer of assign, each followed by the fastest peer of soft_contribution."""
    x, u = inputs["activations"], inputs["memberships"]

    def sequence(assign: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        return assign()[0].view(len(x), *x.shape[2:]), formulations.soft_by_image(x, u)

    return {
        f"{name}; then one matmul per image": partial(sequence, call)
        for name, call in assigning(inputs, threads).items()
    }


def blending(inputs: dict[str, Any], threads: int) -> Calls:
    t, r, q = inputs["target"], inputs["reference"], inputs["query"]
    out = BLEND.fake(*inputs.values())
    if inputs["edits"] is not None:  # all pairs: broadcasting needs no indices
        t, r, out = t.unsqueeze(1), r.unsqueeze(0), out.view(len(t), len(r), -1)
    return {
        "torch.lerp(out=)": lambda: torch.lerp(t, r, q, out=out),
        "torch.lerp": lambda: torch.lerp(t, r, q),
        "torch, in place": lambda: formulations.blend_in_place(t, r, q, out),
    }


def scoring(inputs: dict[str, Any]) -> Candidate:
    """Return the candidate that computes only the scores, which is a part of every op that assigns labels."""
    x, c = inputs["activations"].flatten(2), inputs["centroids"].flatten(0, -2)
    out = torch.empty(len(x), len(c), x.shape[2], dtype=x.dtype, device=x.device)  # [N, K, P]
    return Candidate(lambda: torch.matmul(c, x, out=out), partial(verify_scores, inputs))


def in_float32(op: Op, inputs: dict[str, Any]) -> Candidate:
    """Return our candidate on the same inputs in float32, whose time is compared with the time of 16-bit inputs."""
    return ours(op, {name: x.float() if is_half(x) else x for name, x in inputs.items()})


def is_half(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in HALVES


SCORES = "torch.matmul(out=), scores only"
FLOAT32 = "the same in float32"
PEERS = {
    LLOYD_STEP.name: lloyd,
    ASSIGN.name: assigning,
    ASSIGN_CONTRIBUTION.name: assigning_and_contribution,
    CONTRIBUTION.name: contributing,
    SOFT_CONTRIBUTION.name: sharing,
    ASSIGN_SOFT_CONTRIBUTION.name: assigning_and_sharing,
    BLEND.name: blending,
}


def compare(workload: Workload, rounds: int, seconds: float, threads: int) -> Iterator[Figure]:
    """Measure a workload and yield its figures.

    The first figure has the peers and the floors. For ops whose work is mostly the scores, it has the scores alone, and
    for ops with K clusters on 16-bit inputs, the same op in float32. The workload with the most arithmetic per byte has
    a second figure, on all threads, in which the peer is our kernel on one thread.
    """
    inputs = workload.make()
    op = workload.op
    candidate = ours(op, inputs, "cpu" if op.out_schema is None else "cpu.out")
    peers = PEERS[op.name](inputs, threads) if workload.peers else {}
    verifiers = {"faiss": partial(verify_centroids, inputs)}
    alternatives = {name: Candidate(call, verifiers.get(name, candidate.verify)) for name, call in peers.items()}
    parts = {SCORES: scoring(inputs)} if peers and op in (LLOYD_STEP, ASSIGN) else {}
    if workload.k is not None and any(map(is_half, inputs.values())):
        parts[FLOAT32] = in_float32(op, inputs)
    times = race({"ours": candidate, **alternatives, **parts}, limits.probes(threads), rounds, seconds)
    yield figure(workload, threads, inputs, times, parts=parts)
    if op is LLOYD_STEP and workload.k == 128 and peers and threads > 1:
        single = candidate._replace(call=partial(on_one_thread, candidate.call, threads))
        candidates = {"ours": candidate, "1 thread": single}
        times = race(candidates, limits.probes(threads), rounds, seconds)
        yield figure(workload, threads, inputs, times, variant=f" on {threads} threads, compared with 1")


def on_one_thread(call: Callable[[], Any], threads: int) -> Any:
    torch.set_num_threads(1)
    try:
        return call()
    finally:
        torch.set_num_threads(threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="Rounds per workload, at most.")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help=f"Time limit per workload. At least {MIN_ROUNDS} rounds run."
    )
    parser.add_argument("--threads", type=int, default=min(2, len(environment.CPUS) or 1))
    parser.add_argument(
        "--only", default="", type=re.compile, metavar="REGEX", help="Run only the workloads whose id matches."
    )
    parser.add_argument("--record", action="store_true", help="Append to benchmarks/results/<machine>.jsonl.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {stylefast.backends.native.instruction_set()}")
    print(
        "ours / floor, best peer / ours, ours / scores: ratios of minima (of medians) over interleaved rounds",
        flush=True,
    )
    native = (w for w in WORKLOADS if not w.name.endswith(("unaligned", "channels_last")))  # bench_ops.py times those
    for workload in (w for w in native if re.search(arguments.only, w.id)):
        for result in compare(workload, arguments.rounds, arguments.seconds, arguments.threads):
            print(record.line(result), flush=True)
            if arguments.record:
                record.append(result)


if __name__ == "__main__":
    main()
