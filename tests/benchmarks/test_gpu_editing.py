# SPDX-License-Identifier: Apache-2.0
"""Tests of the stage `editing`: the loops give the same pixels, and wrong pixels are not timed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gpu import editing, rehearsal
from timing import WrongResult

Record = dict[str, Any]


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """Records of tiny rows on a CPU."""
    written: list[Record] = []
    cuda = SimpleNamespace(Event=rehearsal._Event, synchronize=lambda: None)
    replaced = {"DEVICE": "cpu", "WIDEST": 8, "EDITS": 5, "BATCH": 2, "ROUNDS": 1, "cuda": cuda, "clocks": dict}
    replaced |= {"COMPILE": {"backend": "eager"}, "write": lambda kind, **fields: written.append(fields)}
    rows = (editing.Row(16, precision, way) for precision in editing.LEVELS for way in ("eager", "compiled"))
    for name, value in (replaced | {"ROWS": {str(row): row for row in rows}}).items():
        monkeypatch.setattr(editing, name, value)
    return written


@pytest.mark.parametrize("name", ["16 float32 eager", "16 float16 eager", "16 float32 compiled"])
def test_equal_pixels_are_timed(name: str, records: list[Record]):
    torch._dynamo.reset()
    editing.measure(name)
    (record,) = records
    plain = {"plain", "plain, bytes on the GPU"}
    assert set(record["ratios"]) == plain and set(record["per_second"]) == plain | {record["implementation"]}
    assert record["network"] == "stylegan2-f 16" and record["precision"] == name.split()[1]
    assert record["ratios"]["plain"] > 0 and record["best"] > 0


def test_other_pixels_are_not_timed(records: list[Record], monkeypatch: pytest.MonkeyPatch):
    blend = editing.blend
    monkeypatch.setattr(editing, "blend", lambda *styles, edits: blend(*styles, edits=edits[:, [1, 0, 2]]))
    with pytest.raises(WrongResult, match="^eager: a fraction .* of the bytes differs by more than 1"):
        editing.measure("16 float32 eager")
    assert not records


def test_a_few_bytes_may_differ_and_constant_images_are_refused():
    expected = np.random.default_rng(0).integers(0, 250, (1, 50, 50, 3)).astype(np.uint8)
    editing.verify("a", expected, expected + 1, levels=1)
    pixels = expected.copy()
    pixels[0, 0, :2] += 5
    editing.verify("a", expected, pixels, levels=1)
    with pytest.raises(WrongResult, match="differs by more than 1"):
        editing.verify("a", expected, expected + 2, levels=1)
    with pytest.raises(WrongResult, match="almost constant"):
        editing.verify("a", expected // 50, expected // 50, levels=1)


def test_the_random_network_is_configuration_f():
    shapes = {name: list(x.shape) for name, x in editing.random_network(8).state_dict().items()}
    assert shapes["synthesis.b8.conv0.weight"] == [512, 512, 3, 3] and shapes["synthesis.b8.torgb.bias"] == [3]
