# SPDX-License-Identifier: Apache-2.0
"""Candidates and the machine's limits in turn, round after round; nothing is timed before its result is right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor
from tqdm import tqdm
from workloads import Workload

from stylefast.ops.op import Cost, Op

PAUSE = 0.005  # seconds, after which the threads of the call before have stopped spinning for more work


class WrongResult(Exception):
    """A candidate gave a wrong result: it is not timed."""


class Candidate(NamedTuple):
    """What is timed, and a function that raises WrongResult if its result is not right."""

    call: Callable[[], Any]
    verify: Callable[[Any], None]


class Times(NamedTuple):
    """Seconds of every candidate and rates of every limit, one a round."""

    seconds: dict[str, list[float]]
    rates: dict[str, list[float]]


def race(candidates: Mapping[str, Candidate], probes: Mapping[str, Callable[[], float]], rounds: int) -> Times:
    """Verifies every candidate, then times them and the limits in turn.

    Raises: WrongResult that names the candidate, before anything is timed.
    """
    for name, candidate in candidates.items():
        try:
            candidate.verify(candidate.call())
        except WrongResult as error:
            raise WrongResult(f"{name}: {error}; nothing is timed") from None
    times = Times({name: [] for name in candidates}, {name: [] for name in probes})
    for _ in tqdm(range(rounds), delay=2, leave=False, unit="round"):
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
    """Of the sorted values, that at percent / 100 of the way from the first to the last, linearly between two."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def floor(cost: Cost, bandwidth: float, peak: float) -> float:
    """Seconds below which no implementation can be: max(bytes / bandwidth, flops / peak)."""
    return max(cost.bytes / bandwidth, cost.flops / peak)


def bound(op: Op, inputs: dict[str, Any]) -> str:
    """The bandwidth that bounds an op: of reads, of a copy past the caches or of stores past them, by what it does to
    its bytes: that of the copy if between a quarter and three quarters are written."""
    result = op.fake(*inputs.values())
    written = sum(x.nbytes for x in ((result,) if isinstance(result, Tensor) else result))
    share = written / max(1, op.cost(*inputs.values()).bytes)
    return "read" if share < 0.25 else "stream" if share < 0.75 else "store"


@dataclass(frozen=True)
class Figure:
    """One op on one workload, or a whole fit, which has no floor. Ratios are of minima (`floor` is from the best limits
    of the same rounds) and, with `median_`, of medians; `to_peer` is the best peer's time by ours."""

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


def figure(
    workload: Workload, threads: int, inputs: dict[str, Any], times: Times, *, variant: str = "", ours: str = "ours"
) -> Figure:
    """Compares `ours` with the other candidates and with the floor."""
    limit, cost = bound(workload.op, inputs), workload.op.cost(*inputs.values())
    seconds, rates = times
    mine, peers = seconds[ours], {name: values for name, values in seconds.items() if name != ours}
    least = floor(cost, max(rates[limit]), max(rates["fma"]))
    typical = floor(cost, percentile(rates[limit], 50), percentile(rates["fma"], 50))
    p20, p50, p80 = (percentile(mine, percent) for percent in (20, 50, 80))
    name = (workload.op.name, workload.name + variant, workload.k, threads)
    result = (*name, min(mine), p20, p50, p80, cost.bytes, cost.flops, limit, least)
    ratios = (min(mine) / least, p50 / typical)
    if not peers:
        return Figure(*result, *ratios)
    by_peer = {name: min(peers[name]) / min(mine) for name in sorted(peers, key=lambda name: min(peers[name]))}
    peer, ratio = next(iter(by_peer.items()))
    return Figure(*result, *ratios, peer, ratio, percentile(peers[peer], 50) / p50, by_peer)
