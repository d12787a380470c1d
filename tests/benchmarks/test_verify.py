# SPDX-License-Identifier: Apache-2.0
"""Tests of the verification before timing: correct results pass, planted faults do not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from small_workloads import arguments
from timing import WrongResult
from torch import Tensor
from verify import outputs, verify, verify_centroids, verify_scores

from stylefast.ops import LLOYD_STEP, OPS
from stylefast.ops.op import Op


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_right_results_pass_and_planted_faults_do_not(op: Op):
    inputs = arguments(op.name)
    results = outputs(op.public(**inputs))
    verify(op, inputs, results)
    for index, output in enumerate(results):
        for faulty in faults(output):
            with pytest.raises(WrongResult):
                verify(op, inputs, (*results[:index], faulty, *results[index + 1 :]))


def faults(output: Tensor) -> Iterator[Tensor]:
    """Yield the output with one element changed, NaN (if floating), or missing."""
    changes = (1e-3 * output.abs().max(), torch.nan) if output.is_floating_point() else (1, -9)
    for change in changes:
        faulty = output.clone()
        faulty.view(-1)[-1:] += change
        yield faulty
    yield output.flatten()[1:]


def test_centroids_in_another_order_do_not_pass():
    inputs = arguments(LLOYD_STEP.name)
    centroids = torch.nn.functional.normalize(LLOYD_STEP.public(**inputs).sums[0], dim=1)
    verify_centroids(inputs, centroids)
    with pytest.raises(WrongResult):
        verify_centroids(inputs, centroids.roll(1, 0))


def test_scores_of_other_centroids_do_not_pass():
    inputs = arguments(LLOYD_STEP.name)
    scores = torch.matmul(inputs["centroids"].flatten(0, -2), inputs["activations"].flatten(2))
    verify_scores(inputs, scores)
    with pytest.raises(WrongResult, match="scores are off"):
        verify_scores(inputs, scores.roll(1, 1))
