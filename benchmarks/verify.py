# SPDX-License-Identifier: Apache-2.0
"""Whether a result is that of the reference. The tests judge to the last bits; here gross errors must not be timed."""

from __future__ import annotations

from typing import Any

import torch
from timing import WrongResult
from torch import Tensor

from stylefast.ops import LLOYD_STEP
from stylefast.ops import assign as assignment
from stylefast.ops.op import Op

TOLERANCE = 1e-4  # of the largest value of an output; of |x| |c| for the score that a label may lose


def verify(op: Op, inputs: dict[str, Any], result: Any, tolerance: float = TOLERANCE) -> None:
    """Raises WrongResult unless `result` is the op's first outputs, or one, up to `tolerance` and rounding.

    Labels may differ from the reference's if their scores are as good; the other outputs must be those of the labels.
    """
    got, like = outputs(result), outputs(op.fake(*inputs.values()))
    for index, (g, form) in enumerate(zip(got, like, strict=False)):
        if g.numel() != form.numel():
            raise WrongResult(f"output {index} of {op.name} must have shape {tuple(form.shape)}, got {tuple(g.shape)}")
    if op.given_labels is None:
        truth = outputs(op.reference(*inputs.values()))
    else:
        labels = got[0].reshape(like[0].shape).int()
        verify_labels(labels, inputs, tolerance)
        truth = (labels, *op.given_labels(labels, *inputs.values()))
    for index, (g, t) in enumerate(zip(got, truth, strict=False)):
        error, largest = _error(g.reshape(t.shape), t)
        rounding = torch.finfo(g.dtype).eps if g.is_floating_point() else 0.0
        if not error <= max(tolerance, rounding) * largest:
            raise WrongResult(f"output {index} of {op.name} is off by {error:.1e} where the largest is {largest:.1e}")


def outputs(result: Any) -> tuple[Tensor, ...]:
    """One tensor or several, as a tuple."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def verify_labels(labels: Tensor, inputs: dict[str, Any], tolerance: float) -> None:
    """Raises WrongResult unless the score of every label is the best, up to rounding."""
    x, features = inputs["activations"], inputs["features"]
    centroids = inputs["centroids"].reshape(-1, *inputs["centroids"].shape[-2:])  # [B, K, C]
    norm = torch.linalg.vector_norm(assignment.points(x, features), dim=1)  # [N, H, W]
    for chosen, c in zip(labels.reshape(len(centroids), *norm.shape).long(), centroids, strict=True):
        if int(chosen.min()) < 0 or int(chosen.max()) >= len(c):
            raise WrongResult(f"labels must lie in [0, {len(c)}), got {int(chosen.min())} to {int(chosen.max())}")
        score = assignment.scores(x, c, features)  # [N, K, H, W]
        lost = score.amax(1) - score.gather(1, chosen.unsqueeze(1)).squeeze(1)
        worse = lost > tolerance * norm * c.norm(dim=1).max()
        if worse.any():
            raise WrongResult(f"{int(worse.sum())} of {worse.numel()} labels are not of the nearest centroid")


def verify_centroids(inputs: dict[str, Any], result: Tensor) -> None:
    """Raises WrongResult unless these are the normalised sums of one Lloyd step, up to rounding."""
    sums = LLOYD_STEP.reference(*inputs.values())[1].reshape(result.shape)
    error, _ = _error(result, torch.nn.functional.normalize(sums, dim=1))
    if not error <= TOLERANCE:
        raise WrongResult(f"centroids are off by {error:.1e}")


def _error(got: Tensor, truth: Tensor) -> tuple[float, float]:
    """The largest |got - truth| (NaN if there is one), and the largest |truth|."""
    pairs = zip(got.flatten().split(1 << 24), truth.flatten().split(1 << 24), strict=True)
    errors = [(g.double() - t.double()).abs().max() for g, t in pairs]
    return float(torch.stack(errors).max()), float(truth.abs().max())
