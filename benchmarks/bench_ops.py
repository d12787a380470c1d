# SPDX-License-Identifier: Apache-2.0
"""Time every op on every workload and CPU backend, interleaved with measurements of the machine's limits.

Usage::

    pytest benchmarks/bench_ops.py [-k "lloyd_step and cpu and K32"] [--rounds 15] [--threads 2]

Every result is verified before it is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import environment  # noqa: F401
import limits
import pytest
import torch
from peers import ours
from timing import PAUSE, Times, figure
from workloads import WORKLOADS, Workload

from stylefast.backends import BACKENDS, available


def cells() -> list[Any]:
    """Return one parameter per workload and backend. If a backend cannot run, its tests are skipped with the reason."""
    reasons = available()

    def marks(key: str) -> list[pytest.MarkDecorator]:
        reason = reasons[key.removesuffix(".out")]
        return [] if reason is None else [pytest.mark.skip(reason=reason)]

    return [
        pytest.param(workload, key, id=f"{key}-{workload.id}", marks=marks(key))
        for workload in WORKLOADS
        for key in workload.op.cells
        if BACKENDS[key.removesuffix(".out")].devices in (None, ("cpu",))  # the limits are those of the processor
    ]


@pytest.mark.parametrize("workload, key", cells())
def test_op(benchmark: Any, request: pytest.FixtureRequest, workload: Workload, key: str):
    rounds, threads = request.config.getoption("--rounds"), request.config.getoption("--threads")
    torch.set_num_threads(threads)
    inputs = workload.make()
    call, verify = ours(workload.op, inputs, key)
    verify(call())
    probes = limits.probes(threads)
    rates: dict[str, list[float]] = {name: [] for name in probes}
    benchmark.pedantic(call, setup=lambda: measure(probes, rates), rounds=rounds, warmup_rounds=1)
    times = Times({"ours": benchmark.stats.stats.data}, rates)
    result = figure(workload, threads, inputs, times)
    benchmark.extra_info |= {
        "p20": result.p20,
        "p50": result.p50,
        "p80": result.p80,
        "GB/s": result.bytes / result.best / 1e9,
        "GFLOP/s": result.flops / result.best / 1e9,
        "to_floor": result.to_floor,
    }


def measure(probes: dict[str, Callable[[], float]], rates: dict[str, list[float]]) -> None:
    """Measure every limit once, before the timed call of a round."""
    time.sleep(PAUSE)
    for name, probe in probes.items():
        rates[name].append(probe())
