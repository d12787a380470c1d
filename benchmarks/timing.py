# SPDX-License-Identifier: Apache-2.0
"""Verify the results of candidates, then time the candidates and the limits of the machine in interleaved rounds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor
from tqdm import tqdm
from workloads import Workload

from stylefast.ops.op import Cost, Op

MIN_ROUNDS = 5  # rounds that a limit of time leaves
PAUSE = 0.005  # seconds; by then, the threads of the previous call no longer spin while they wait for work


class WrongResult(Exception):
    """A candidate gave a wrong result, so it is not timed."""


class Candidate(NamedTuple):
    """The call that is timed, and a function that raises WrongResult if its result is wrong."""

    call: Callable[[], Any]
    verify: Callable[[Any], None]


class Times(NamedTuple):
    """Seconds of every candidate and rates of every limit, one per round."""

    seconds: dict[str, list[float]]
    rates: dict[str, list[float]]


def race(
    candidates: Mapping[str, Candidate],
    probes: Mapping[str, Callable[[], float]],
    rounds: int,
    seconds: float = math.inf,
) -> Times:
    """Verify every candidate, then time the candidates and the limits in turn.

    After MIN_ROUNDS rounds, no round begins that would probably end later than `seconds` after the first one began.

    Raises:
        WrongResult: If a candidate gives a wrong result. The message names it, and nothing is timed.
    """
    for name, candidate in candidates.items():
        try:
            candidate.verify(candidate.call())
        except WrongResult as error:
            raise WrongResult(f"{name}: {error}; nothing is timed") from None
    times = Times({name: [] for name in candidates}, {name: [] for name in probes})
    start = time.perf_counter()
    for done in tqdm(range(rounds), delay=2, leave=False, unit="round"):
        if done >= MIN_ROUNDS and (time.perf_counter() - start) * (done + 1) / done > seconds:
            break
        for name, candidate in candidates.items():
            time.sleep(PAUSE)
            begin = time.perf_counter()
            candidate.call()
            times.seconds[name].append(time.perf_counter() - begin)
        for name, probe in probes.items():
            time.sleep(PAUSE)
            times.rates[name].append(probe())
    return times


def percentile(values: Iterable[float], percent: float) -> float:
    """Return a percentile of the values, with linear interpolation between neighbouring values."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def median(values: Iterable[float]) -> float:
    return percentile(values, 50)


def floor(cost: Cost, bandwidth: float, peak: float) -> float:
    """Return the least seconds that an implementation can take: `max(bytes / bandwidth, flops / peak)`."""
    return max(cost.bytes / bandwidth, cost.flops / peak)


def serial_floor(cost: Cost, bandwidth: float, peak: float) -> float:
    """Return the least seconds if memory traffic and arithmetic do not overlap: `bytes / bandwidth + flops / peak`."""
    return cost.bytes / bandwidth + cost.flops / peak


def bound(op: Op, inputs: dict[str, Any]) -> str:
    """Return the name of the bandwidth that bounds an op.

    It depends on the fraction of the op's bytes that are written: "read" below a quarter, "stream" (a copy that
    bypasses the caches) below three quarters, otherwise "store" (which bypasses the caches).
    """
    result = op.fake(*inputs.values())
    written = sum(x.nbytes for x in ((result,) if isinstance(result, Tensor) else result))
    fraction = written / max(1, op.cost(*inputs.values()).bytes)
    return "read" if fraction < 0.25 else "stream" if fraction < 0.75 else "store"


@dataclass(frozen=True)
class Figure:
    """Measured result of one op on one workload, or of a computation without a floor, such as a whole fit.

    `best`, `p20`, `p50` and `p80` are the minimum and percentiles of our times in seconds. `bytes` and `flops` are the
    least that the op needs, `limit` names the bandwidth that bounds it, and `floor` and `serial_floor` follow from the
    best limits of the same rounds. `to_floor` and `to_serial_floor` are our time divided by a floor, and `to_peer` is
    the time of the best peer divided by ours. `to_part` maps each computation of only a part of the op to our time
    divided by its time. They are ratios of minima or, with the prefix `median_`, of medians.
    """

    op: str
    workload: str
    k: int | None
    threads: int
    best: float
    p20: float
    p50: float
    p80: float
    bytes: int | None = None
    flops: int | None = None
    limit: str | None = None
    floor: float | None = None
    to_floor: float | None = None
    median_to_floor: float | None = None
    peer: str | None = None
    to_peer: float | None = None
    median_to_peer: float | None = None
    peers: dict[str, float] = field(default_factory=dict)
    serial_floor: float | None = None
    to_serial_floor: float | None = None
    median_to_serial_floor: float | None = None
    to_part: dict[str, float] = field(default_factory=dict)


def comparison(
    op: str,
    workload: str,
    k: int | None,
    threads: int,
    seconds: Sequence[float],
    peer: str,
    peer_seconds: Sequence[float],
) -> Figure:
    """Return the figure of a candidate and one peer, without a floor."""
    p20, p50, p80 = (percentile(seconds, percent) for percent in (20, 50, 80))
    ratio = min(peer_seconds) / min(seconds)
    return Figure(
        op, workload, k, threads, min(seconds), p20, p50, p80,
        peer=peer, to_peer=ratio, median_to_peer=percentile(peer_seconds, 50) / p50, peers={peer: ratio},
    )  # fmt: skip


def figure(
    workload: Workload,
    threads: int,
    inputs: dict[str, Any],
    times: Times,
    *,
    variant: str = "",
    ours: str = "ours",
    parts: Collection[str] = (),
) -> Figure:
    """Return the figure of the candidate `ours`, with its floors, and with the other candidates as peers or parts."""
    limit, cost = bound(workload.op, inputs), workload.op.cost(*inputs.values())
    seconds = times.seconds[ours]
    p20, p50, p80 = (percentile(seconds, percent) for percent in (20, 50, 80))
    best_rates, median_rates = ([f(times.rates[name]) for name in (limit, "fma")] for f in (max, median))
    floors = floor(cost, *best_rates), serial_floor(cost, *best_rates)
    by_peer = {
        name: min(values) / min(seconds)
        for name, values in sorted(times.seconds.items(), key=lambda item: min(item[1]))
        if name != ours and name not in parts
    }
    peer = next(iter(by_peer), None)
    return Figure(
        workload.op.name, workload.name + variant, workload.k, threads, min(seconds), p20, p50, p80,
        bytes=cost.bytes, flops=cost.flops, limit=limit,
        floor=floors[0], to_floor=min(seconds) / floors[0], median_to_floor=p50 / floor(cost, *median_rates),
        serial_floor=floors[1], to_serial_floor=min(seconds) / floors[1],
        median_to_serial_floor=p50 / serial_floor(cost, *median_rates),
        peer=peer, to_peer=None if peer is None else by_peer[peer],
        median_to_peer=None if peer is None else median(times.seconds[peer]) / p50, peers=by_peer,
        to_part={name: min(seconds) / min(times.seconds[name]) for name in parts},
    )  # fmt: skip
