# SPDX-License-Identifier: Apache-2.0
"""Choice of the number of edits per batch by a measurement."""

from __future__ import annotations

import math
import time
from numbers import Integral
from typing import Literal

import torch
from torch import Tensor

from ..generators import Generator
from ..generators.engines import default_batch_size
from .plan import Plan

LARGEST = 64
SHARE = 0.05  # largest part of the images of a plan that the measurement may synthesise
SECONDS = 5.0  # after which no further size is measured
CALLS = 2  # per size, of which the faster one counts: the first one may allocate memory or compile
GAIN = 1.03  # speed-up that a larger size must have

BatchSize = int | Literal["auto"]


def check_batch_size(value: BatchSize) -> None:
    """Raise ValueError unless the value is "auto" or an integer >= 1."""
    if value == "auto":
        return
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"batch_size must be an integer >= 1 or 'auto', got {value!r}")


def unmeasured(generator: Generator) -> int:
    """Return the batch size that is used without a measurement."""
    return default_batch_size(generator.device)


def candidates(smallest: int, n_edits: int) -> list[int]:
    """Return the sizes that are worth measuring for a number of edits: `smallest` and its doubles."""
    sizes = [smallest]
    while 2 * sizes[-1] <= LARGEST and CALLS * (sum(sizes) + 2 * sizes[-1]) <= SHARE * n_edits:
        sizes.append(2 * sizes[-1])
    return sizes


def fastest(generator: Generator, plan: Plan) -> int:
    """Measure batches of the first target and return the batch size that takes the least time per image.

    The sizes are doubled as long as this saves time, fits into memory, and the measurement takes at most 5 % of the
    images of the plan and about five seconds. A short plan is not measured.

    Args:
        generator: Generator of the images.
        plan: Plan of the edits.

    Returns:
        The batch size, at least `unmeasured(generator)`.
    """
    best = unmeasured(generator)
    sizes = candidates(best, len(plan))
    if len(sizes) == 1:
        return best
    styles, w = plan.targets.styles(0), plan.targets.w(0)
    least, begin = math.inf, time.perf_counter()
    for size in sizes:
        rows = [x.repeat_interleave(size, 0) for x in (styles, w)]
        try:
            seconds = min(_seconds(generator, *rows) for _ in range(CALLS)) / size
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if seconds * GAIN > least:
            break
        best, least = size, seconds
        if time.perf_counter() - begin > SECONDS:
            break
    return best


def _seconds(generator: Generator, styles: Tensor, w: Tensor) -> float:
    begin = time.perf_counter()
    float(generator.synthesize(styles, w)[0, 0, 0, 0])  # waits for a GPU
    return time.perf_counter() - begin
