# SPDX-License-Identifier: Apache-2.0
"""Tests that the alternatives to the ops compute the results of the ops."""

from __future__ import annotations

import sys

import peers
import pytest
import torch
from small_workloads import arguments
from verify import verify

from stylefast.ops import BLEND, CONTRIBUTION, OPS


@pytest.mark.parametrize("name", [*(op.name for op in OPS), "pooled", "pairs"])
def test_alternatives_agree_with_the_reference(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setitem(sys.modules, "faiss", None)
    op = {"pooled": CONTRIBUTION, "pairs": BLEND}.get(name) or next(op for op in OPS if op.name == name)
    inputs = arguments(name)
    calls = peers.PEERS[op.name](inputs, 2)
    assert len(calls) >= 2
    for call in calls.values():
        verify(op, inputs, call())
