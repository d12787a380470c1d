# SPDX-License-Identifier: Apache-2.0
"""Verify a result on all images against results on parts of them, because all images are too many for the reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timing import WrongResult
from torch import Tensor
from verify import TOLERANCE, outputs

from stylefast.ops import (
    ASSIGN,
    ASSIGN_CONTRIBUTION,
    ASSIGN_SOFT_CONTRIBUTION,
    BLEND,
    CONTRIBUTION,
    LLOYD_STEP,
    SOFT_CONTRIBUTION,
)
from stylefast.ops.op import Op

FLIPS = 1e-5  # fraction of labels that may differ, because scores can be equal up to rounding
ROWS = 64  # last rows of blend's result, which are compared with the reference


def _mean(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).mean(0)


def _sum(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).sum(0)


JOIN: dict[str, tuple[Callable[[list[Tensor]], Tensor], ...]] = {  # per output, how the outputs of parts are joined
    LLOYD_STEP.name: (partial(torch.cat, dim=1), _sum, _sum, _mean),
    ASSIGN.name: (torch.cat, torch.cat),
    CONTRIBUTION.name: (_mean,),
    ASSIGN_CONTRIBUTION.name: (torch.cat, _mean),
    SOFT_CONTRIBUTION.name: (_mean,),
    ASSIGN_SOFT_CONTRIBUTION.name: (torch.cat, _mean),
}


def verify_whole(op: Op, inputs: dict[str, Any], cell: Callable[..., Any], result: Any, parts: int) -> None:
    """Verify that `result` agrees with the joined results of the same cell on `parts` equal parts of the images.

    For `blend`, verify that the last rows agree with the reference.

    Raises:
        WrongResult: If an output does not agree.
    """
    results = outputs(result)
    if op is BLEND:
        results, expected = (results[0][-ROWS:],), (op.reference(*_last_rows(inputs).values()),)
    else:
        pieces = zip(*(outputs(cell(*part.values())) for part in split(inputs, parts)), strict=True)
        expected = tuple(join(list(of_output)) for join, of_output in zip(JOIN[op.name], pieces, strict=True))
    for index, (x, e) in enumerate(zip(results, expected, strict=True)):
        if x.dtype == torch.int32:
            agrees = (x != e).float().mean() <= FLIPS
        else:
            agrees = (x.double() - e.double()).abs().max() <= max(TOLERANCE, _eps(x)) * e.double().abs().max()
        if not agrees:
            raise WrongResult(f"output {index} of {op.name} on all images differs from the outputs on parts of them")


def split(inputs: dict[str, Any], parts: int) -> list[dict[str, Any]]:
    """Split the images, with their labels or memberships, into equal parts."""
    n = len(inputs["activations"]) // parts
    names = [name for name in ("activations", "labels", "memberships") if name in inputs]
    return [inputs | {name: inputs[name][i * n : (i + 1) * n] for name in names} for i in range(parts)]


def _last_rows(inputs: dict[str, Any]) -> dict[str, Any]:
    if inputs["edits"] is not None:
        return inputs | {"edits": inputs["edits"][-ROWS:]}
    return inputs | {name: inputs[name][-ROWS:] for name in ("target", "reference")}


def _eps(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0
