# SPDX-License-Identifier: Apache-2.0
"""A build reports its steps to a function, which can end it."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
import torch
from catalogs import N, build
from networks import shared


def test_every_batch_and_every_step_is_reported():
    steps: list[tuple[str, int, int]] = []
    build(shared("sg2"), progress=lambda *step: steps.append(step), contribution_images=3)
    stages = [(name, list(group)) for name, group in groupby(steps, key=lambda step: step[0])]
    assert [name for name, _ in stages] == ["catalog", "k-means", "catalog"]
    assert [step[1] for step in stages[0][1] + stages[2][1]] == [2, 4, N, N + 2, N + 3]
    assert {step[2] for step in stages[0][1]} == {N + 3}


def test_a_build_that_was_ended_can_be_resumed(tmp_path: Path):
    def end(stage: str, done: int, total: int) -> None:
        if done > N:
            raise InterruptedError("ended")

    generator = shared("sg2")
    with pytest.raises(InterruptedError, match="ended"):
        build(generator, progress=end, workdir=tmp_path)
    resumed, whole = build(generator, workdir=tmp_path), build(generator)
    assert torch.equal(resumed.contributions, whole.contributions)
