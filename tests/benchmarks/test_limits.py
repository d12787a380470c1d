# SPDX-License-Identifier: Apache-2.0
"""Tests of the measured limits of the machine."""

from __future__ import annotations

import limits
import numpy as np
import pytest


@pytest.mark.parametrize("kind, name", list(enumerate(limits.Limits._fields)))
def test_copies_copy_and_other_limits_do_not_write(kind: int, name: str):
    def row(value: float) -> np.ndarray:
        memory = np.full(4096 + 32, value, np.float32)
        return memory[-memory.ctypes.data % 64 // 4 :][:4096]

    source, target = row(1.0), row(2.0)
    source[:] = np.arange(4096)
    seconds = limits.library().run_limit(kind, 2, None, source.ctypes.data, target.ctypes.data, 4096)
    assert seconds > 0 and np.array_equal(source, np.arange(4096))
    written = {"copy": source, "stream": source, "store": row(1.0)}
    assert np.array_equal(target, written.get(name, row(2.0)))


def test_limits_are_plausible_for_a_processor(monkeypatch: pytest.MonkeyPatch):
    assert limits.vector_bits() in (128, 256, 512)
    assert limits.library().turn_flops() == 2 * 12 * limits.vector_bits() / 32
    monkeypatch.setattr(limits, "TURNS", 20_000)
    measured = limits.measure(1, rounds=2)
    assert all(1e8 < bandwidth < 1e12 for bandwidth in measured[:4])
    assert 1e9 < measured.fma < 1e12
    with pytest.raises(ValueError, match="threads must be at most .*, the number of processors, got 10000"):
        limits.probes(10_000)
