# SPDX-License-Identifier: Apache-2.0
"""Verify results against the reference before calls are timed. This finds gross errors; the tests are stricter."""

from __future__ import annotations

from typing import Any

import torch
from timing import WrongResult
from torch import Tensor

from stylefast.ops import LLOYD_STEP
from stylefast.ops import assign as assignment
from stylefast.ops.op import Op

# Allowed error relative to the largest value of an output. For labels, allowed loss of score relative to |x| |c|.
TOLERANCE = 1e-4


def verify(op: Op, inputs: dict[str, Any], result: Any, tolerance: float = TOLERANCE) -> None:
    """Verify that `result` holds the first outputs of the op, or its only output, up to `tolerance`.

    Labels may differ from the labels of the reference if their scores are as good up to `tolerance`. The other outputs
    must follow from the labels.

    Raises:
        WrongResult: If an output is wrong.
    """
    results, shaped = outputs(result), outputs(op.fake(*inputs.values()))
    for index, (x, like) in enumerate(zip(results, shaped, strict=False)):
        if x.numel() != like.numel():
            raise WrongResult(f"output {index} of {op.name} must have shape {tuple(like.shape)}, got {tuple(x.shape)}")
    if op.from_labels is None:
        expected = outputs(op.reference(*inputs.values()))
    else:
        labels = results[0].reshape(shaped[0].shape).int()
        verify_labels(labels, inputs, tolerance)
        expected = (labels, *op.from_labels(labels, *inputs.values()))
    for index, (x, e) in enumerate(zip(results, expected, strict=False)):
        error, largest = _error(x.reshape(e.shape), e)
        rounding = torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0
        if not error <= max(tolerance, rounding) * largest:
            raise WrongResult(f"output {index} of {op.name} is off by {error:.1e}; its largest value is {largest:.1e}")


def outputs(result: Any) -> tuple[Tensor, ...]:
    """Return one tensor or several tensors as a tuple."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def verify_labels(labels: Tensor, inputs: dict[str, Any], tolerance: float) -> None:
    """Raise WrongResult unless every label has the best score at its position, up to `tolerance`."""
    x, features = inputs["activations"], inputs["features"]
    centroids = inputs["centroids"].reshape(-1, *inputs["centroids"].shape[-2:])  # [B, K, C]
    norm = torch.linalg.vector_norm(assignment.points(x, features), dim=1)  # [N, H, W]
    for assigned, c in zip(labels.reshape(len(centroids), *norm.shape).long(), centroids, strict=True):
        if int(assigned.min()) < 0 or int(assigned.max()) >= len(c):
            raise WrongResult(f"labels must lie in [0, {len(c)}), got {int(assigned.min())} to {int(assigned.max())}")
        score = assignment.scores(x, c, features)  # [N, K, H, W]
        regret = score.amax(1) - score.gather(1, assigned.unsqueeze(1)).squeeze(1)
        worse = regret > tolerance * norm * c.norm(dim=1).max()
        if worse.any():
            raise WrongResult(f"{int(worse.sum())} of {worse.numel()} labels are not of the nearest centroid")


def verify_centroids(inputs: dict[str, Any], result: Tensor) -> None:
    """Raise WrongResult unless `result` holds the normalised sums of one Lloyd step, up to rounding."""
    sums = LLOYD_STEP.reference(*inputs.values())[1].reshape(result.shape)
    error, _ = _error(result, torch.nn.functional.normalize(sums, dim=1))
    if not error <= TOLERANCE:
        raise WrongResult(f"centroids are off by {error:.1e}")


def verify_scores(inputs: dict[str, Any], result: Tensor) -> None:
    """Raise WrongResult unless `result` holds the scores of all positions and centroids, up to rounding."""
    centroids = inputs["centroids"].flatten(0, -2)  # [B K, C]
    scores = assignment.scores(inputs["activations"], centroids, inputs["features"]).reshape(result.shape)
    error, largest = _error(result, scores)
    if not error <= TOLERANCE * largest:
        raise WrongResult(f"scores are off by {error:.1e}; the largest is {largest:.1e}")


def _error(x: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return the largest `|x - expected|` (NaN if there is one) and the largest `|expected|`."""
    pairs = zip(x.flatten().split(1 << 24), expected.flatten().split(1 << 24), strict=True)
    errors = [(piece.double() - e.double()).abs().max() for piece, e in pairs]
    return float(torch.stack(errors).max()), float(expected.abs().max())
