# SPDX-License-Identifier: Apache-2.0
"""Rehearsal of the GPU stages on a CPU.

Triton interprets its kernels, the CUDA kernels are compiled for the processor, and this module stands in for
`torch.cuda`. The times of a rehearsal mean nothing.
"""

from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import Any

import torch

REHEARSAL = os.environ.get("STYLEFAST_REHEARSAL") == "1"
DEVICE = "cpu" if REHEARSAL else "cuda"


class _Event:
    """Stand-in for `torch.cuda.Event` that reads the host's clock."""

    def __init__(self, enable_timing: bool) -> None:
        self.time = 0.0

    def record(self) -> None:
        self.time = time.perf_counter()

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: _Event) -> float:
        return 1e3 * max(end.time - self.time, 1e-9)


def _nothing(*_: Any) -> None:
    pass


cuda: Any = torch.cuda
if REHEARSAL:
    cuda = SimpleNamespace(
        Event=_Event,
        _sleep=_nothing,
        synchronize=_nothing,
        is_available=lambda: True,
        get_device_name=lambda: "no GPU (rehearsal)",
        get_device_capability=lambda: (9, 0),
        get_device_properties=lambda _: SimpleNamespace(
            uuid="none", multi_processor_count=1, total_memory=0, L2_cache_size=1 << 20
        ),
        profiler=SimpleNamespace(start=_nothing, stop=_nothing),
    )


def fill_cuda_column() -> None:
    """In a rehearsal, register the CUDA kernels for CPU tensors, once they are compiled for the processor."""
    if REHEARSAL:
        import cuda_emulation  # from tests/kernels, which is on the import path of a rehearsal

        if cuda_emulation.LIBRARY.exists():
            cuda_emulation.load(str(cuda_emulation.LIBRARY))
