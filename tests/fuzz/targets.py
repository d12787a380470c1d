# SPDX-License-Identifier: Apache-2.0
"""Targets of the fuzz job: what a child process tests, in which environment, and for which part of the time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path

import drawing
import torch
from check import Check
from numpy.random import Generator

import stylefast
from stylefast.ops import LAYERS, OPS, SOFT, STEPS

ROWS = (*OPS, *SOFT, *STEPS, *LAYERS)
Case = Callable[[Generator, Check], None]


@dataclass(frozen=True)
class Target:
    """One kind of child process.

    Attributes:
        weight: Share of the time.
        case: Function that runs one case.
        environment: Variables that are set before the package is imported.
        absence: Function that returns the reason why this machine cannot run the target, or None.
    """

    weight: int
    case: Case
    environment: dict[str, str] = field(default_factory=dict)
    absence: Callable[[], str | None] = lambda: None


def _ops(backends: tuple[str, ...], sizes: drawing.Sizes = drawing.LARGE) -> Case:
    def case(rng: Generator, check: Check) -> None:
        backend = drawing.choose(rng, backends)
        name = drawing.choose(rng, [op.name for op in ROWS if backend in op.backends])
        torch.set_num_threads(drawing.choose(rng, (1, 1, 2, 3)))
        check.note(op=name, backend=backend)
        import_module(f"fuzz_{name}").run(rng, sizes, backend, check)

    return case


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzz")


def _files(rng: Generator, check: Check) -> None:
    import_module("fuzz_files").run(rng, Path(_folder().name), check)


def _lacks_instructions() -> str | None:
    try:
        stylefast.assign(torch.ones(1, 1, 1, 1), torch.ones(1, 1), backend="cpu")
    except RuntimeError as error:
        if "which this processor lacks" in str(error):
            return str(error)
        raise
    return None


def _cpu(isa: str) -> Target:
    return Target(2, _ops(("cpu",)), {"STYLEFAST_ISA": isa}, _lacks_instructions)


TARGETS = {
    "cpu-avx512": _cpu("avx512"),
    "cpu-avx2": _cpu("avx2"),
    "cpu-portable": _cpu("portable"),
    "reference": Target(1, _ops(("reference",))),
    "triton": Target(2, _ops(("triton",), drawing.SMALL), {"TRITON_INTERPRET": "1"}),
    "files": Target(5, _files, {"STYLEFAST_MAX_BYTES": "64M"}),
}


def environment(name: str) -> dict[str, str]:
    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **TARGETS[name].environment}
