# SPDX-License-Identifier: Apache-2.0
"""Comparison of results with the truth, within a budget of errors per element."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


class Check:
    """Notes about one case, and its comparisons.

    Attributes:
        notes: Description of the case, which is printed if it fails.
        worst: Largest error of each result, as a fraction of its budget.
    """

    def __init__(self) -> None:
        self.notes: dict[str, Any] = {}
        self.worst: dict[str, float] = {}

    def note(self, **notes: Any) -> None:
        """Describe the case. Tensors are described by dtype, shape and strides."""
        self.notes |= {name: _describe(value) for name, value in notes.items()}

    def form(self, name: str, got: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Raise AssertionError unless a result is a tensor of this shape and dtype."""
        assert isinstance(got, Tensor), f"{name} must be a tensor, got {type(got).__name__}"
        form = tuple(got.shape), got.dtype
        assert form == (tuple(shape), dtype), f"{name} must be {dtype} {tuple(shape)}, got {_describe(got)}"

    def equal(self, name: str, got: Tensor, want: np.ndarray) -> None:
        """Raise AssertionError unless all elements are equal. NaN equals NaN."""
        self.within(name, got, want, 0.0)

    def within(self, name: str, got: Tensor, want: np.ndarray, budget: np.ndarray | float) -> None:
        """Raise AssertionError unless `|got - want| <= budget` everywhere. Values that are not finite must be equal.

        An infinite budget allows every value.
        """
        values = _numpy(got)
        assert values.shape == want.shape, f"{name} must have shape {want.shape}, got {values.shape}"
        with np.errstate(all="ignore"):
            budget = np.broadcast_to(budget, want.shape)
            same = (values == want) | (np.isnan(values) & np.isnan(want)) | np.isinf(budget)
            error = np.where(same, 0.0, np.abs(values - want))
            ratio = np.where(same, 0.0, error / budget)
        ratio = np.where(np.isnan(ratio), np.inf, ratio)
        if ratio.size == 0:
            return
        where = np.unravel_index(int(ratio.argmax()), ratio.shape)
        self.worst[name] = max(self.worst.get(name, 0.0), float(ratio[where]))
        assert ratio[where] <= 1, (
            f"{name}{[int(i) for i in where]} must be {want[where]!r} within {budget[where]:.3g}, "
            f"got {values[where]!r}; {int((ratio > 1).sum())} of {ratio.size} elements are wrong"
        )


def _numpy(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()


def _describe(value: Any) -> Any:
    if isinstance(value, Tensor):
        return f"{str(value.dtype)[6:]} {tuple(value.shape)} strides {value.stride()}"
    return value
