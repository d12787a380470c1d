# SPDX-License-Identifier: Apache-2.0
"""Tests that the alternatives to the ops compute the results of the ops."""

from __future__ import annotations

import sys
from dataclasses import replace

import peers
import pytest
import torch
from small_workloads import arguments
from verify import verify
from workloads import WORKLOADS, clustered

from stylefast.ops import BLEND, CONTRIBUTION, LLOYD_STEP, OPS, SOFT, SOFT_CONTRIBUTION


@pytest.mark.parametrize("name", [*(op.name for op in (*OPS, *SOFT)), "pooled", "soft-pooled", "pairs"])
def test_alternatives_agree_with_the_reference(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setitem(sys.modules, "faiss", None)
    named = {"pooled": CONTRIBUTION, "soft-pooled": SOFT_CONTRIBUTION, "pairs": BLEND}
    op = named.get(name) or next(op for op in (*OPS, *SOFT) if op.name == name)
    inputs = arguments(name)
    calls = peers.PEERS[op.name](inputs, 2)
    assert len(calls) >= 2
    for call in calls.values():
        verify(op, inputs, call())


def test_halves_are_compared_with_the_same_op_in_float32():
    half = next(w for w in WORKLOADS if w.id == "lloyd_step-64x512x32x32-bfloat16-K8")
    inputs = clustered(LLOYD_STEP, (1, 16, 4), 8, torch.bfloat16, "nchw")
    (figure,) = peers.compare(replace(half, make=lambda: inputs), 1, 0.0, 1)
    assert figure.peer is None and list(figure.to_part) == ["the same in float32"]
    candidate = peers.in_float32(LLOYD_STEP, inputs)
    candidate.verify(candidate.call())
    assert {x.dtype for x in candidate.call.keywords.values() if isinstance(x, torch.Tensor)} == {torch.float32}
