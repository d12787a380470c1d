# SPDX-License-Identifier: Apache-2.0
"""The report of `stylefast info`: versions, and which backend can run which op."""

import platform

import numpy
import torch

from .. import __version__
from ..backends import BACKENDS, available
from ..backends.native import instruction_set
from ..core.private_torch import has_kernel
from ..ops import LAYERS, OPS, SOFT, STEPS
from ..ops.op import Op


def report() -> str:
    """Return the report: versions, a table of ops and backends, and the reason of each backend that cannot run."""
    reasons = available()
    versions = {"stylefast": __version__, "Python": platform.python_version(), "torch": torch.__version__}
    versions |= {"numpy": numpy.__version__, "CPU kernels": instruction_set() or "none"}
    lines = [f"{name:<12} {version}" for name, version in versions.items()]
    ops = (*OPS, *SOFT, *STEPS, *LAYERS)
    width = max(len(op.name) for op in ops)
    lines += ["", " ".join([" " * width, *BACKENDS])]
    for op in ops:
        marks = [f"{_mark(op, name, reasons):^{len(name)}}" for name in BACKENDS]
        lines.append(" ".join([f"{op.name:<{width}}", *marks]))
    refusals = [reason for reason in reasons.values() if reason is not None]
    return "\n".join([*lines, *([""] if refusals else []), *refusals])


def _mark(op: Op, backend: str, reasons: dict[str, str | None]) -> str:
    """Return "x" if the backend can run the op, "-" if it cannot, and nothing if it has no kernel of the op."""
    if backend not in op.backends:
        return ""
    runs = reasons[backend] is None and has_kernel(f"stylefast::{op.name}_{backend}", BACKENDS[backend].key)
    return "x" if runs else "-"
