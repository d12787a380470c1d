# SPDX-License-Identifier: Apache-2.0
"""Command-line options of the benchmarks, and the table that is printed at the end."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, default=15, help="Timed calls per op, backend and workload.")
    parser.addoption("--threads", type=int, default=2, help="Threads of the kernels and of the measured limits.")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    measured = [bench for bench in session.benchmarks if "to_floor" in bench.extra_info] if session else []
    if not measured:
        return
    names = [bench.name[len("test_op[") : -1] for bench in measured]
    width = max(map(len, names))
    terminalreporter.section("percentiles of the time in ms; least bytes and flops per second; time / floor")
    columns = ("p20", "p50", "p80", "GB/s", "GFLOP/s", "floor")
    terminalreporter.write_line(" " * width + "".join(f"{name:>9}" for name in columns))
    for name, bench in zip(names, measured, strict=True):
        info = bench.extra_info
        numbers = "".join(f"{info[p] * 1e3:9.2f}" for p in ("p20", "p50", "p80"))
        rates = "".join(f"{info[rate]:9.1f}" for rate in ("GB/s", "GFLOP/s"))
        terminalreporter.write_line(f"{name:<{width}}{numbers}{rates}{info['to_floor']:8.1f}x")
