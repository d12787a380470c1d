# SPDX-License-Identifier: Apache-2.0
"""The report of `stylefast info`: versions, and which backend can run which op."""

import platform

import numpy
import torch

from .. import __version__
from ..backends import BACKENDS, available
from ..backends.native import instruction_set
from ..core.private_torch import has_kernel
from ..ops import OPS


def report() -> str:
    """Return the report: versions, a table of ops and backends, and the reason of each backend that cannot run."""
    reasons = available()
    versions = {"stylefast": __version__, "Python": platform.python_version(), "torch": torch.__version__}
    versions |= {"numpy": numpy.__version__, "CPU kernels": instruction_set() or "none"}
    lines = [f"{name:<12} {version}" for name, version in versions.items()]
    width = max(len(op.name) for op in OPS)
    lines += ["", " ".join([" " * width, *BACKENDS])]
    for op in OPS:
        marks = [f"{'x' if _runs(op.name, name, reasons) else '-':^{len(name)}}" for name in BACKENDS]
        lines.append(" ".join([f"{op.name:<{width}}", *marks]))
    refusals = [reason for reason in reasons.values() if reason is not None]
    return "\n".join([*lines, *([""] if refusals else []), *refusals])


def _runs(op: str, backend: str, reasons: dict[str, str | None]) -> bool:
    kernel = has_kernel(f"stylefast::{op}_{backend}", BACKENDS[backend].key)
    return reasons[backend] is None and kernel
