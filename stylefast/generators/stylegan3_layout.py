# SPDX-License-Identifier: Apache-2.0
"""Layout of a StyleGAN3: sizes, sampling rates and resampling, which its tensors do not tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_SIDE = 1 << 14  # largest side of a tensor
MAX_FACTOR = 16  # largest factor of up-sampling and down-sampling


@dataclass(frozen=True)
class Resampling:
    """Resampling around the activation of a layer.

    Args:
        name: Name of the layer, "L<number>_<width>_<channels>".
        up: Factor of the up-sampling before the activation.
        down: Factor of the down-sampling after the activation.
        padding: Pixels that are added (negative: removed) left, right, above and below, after zeros were inserted.
        clamp: Bound of the activation, or None.

    Raises:
        ValueError: If a value has another type or is out of range.
    """

    name: str
    up: int
    down: int
    padding: tuple[int, ...]
    clamp: float | None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"L\d+_\d+_\d+", self.name):
            raise ValueError(f"the name of a layer must be L<number>_<width>_<channels>, got {self.name!r}")
        _check_numbers(f"the factors of layer {self.name}", (self.up, self.down), 2, 1, MAX_FACTOR)
        _check_numbers(f"the padding of layer {self.name}", self.padding, 4, -MAX_SIDE, MAX_SIDE)
        if self.clamp is not None:
            _check_numbers(f"the clamp of layer {self.name}", (self.clamp,), 1, 0, float("inf"), float)


@dataclass(frozen=True)
class Layout:
    """Everything about a StyleGAN3 that its tensors do not tell.

    Args:
        size: (H, W) of the input.
        sampling_rate: Sampling rate of the input, in pixels per unit of length. A square image has sides of length one.
        bandwidth: Frequency above which the waves of the input fade. They vanish at half the sampling rate.
        output_scale: Factor of the image.
        layers: Resampling of every layer, with unique names.

    Raises:
        ValueError: If a value has another type or is out of range.
    """

    size: tuple[int, ...]
    sampling_rate: float
    bandwidth: float
    output_scale: float
    layers: tuple[Resampling, ...]

    def __post_init__(self) -> None:
        _check_numbers("the size of the input", self.size, 2, 1, MAX_SIDE)
        _check_numbers("the sampling rate of the input", (self.sampling_rate,), 1, 1, MAX_SIDE, float)
        _check_numbers("the bandwidth of the input", (self.bandwidth,), 1, 0, self.sampling_rate / 2, float)
        _check_numbers("the scale of the output", (self.output_scale,), 1, -1e9, 1e9, float)
        if len({layer.name for layer in self.layers}) < max(1, len(self.layers)):
            raise ValueError("a network must have layers with unique names")

    @classmethod
    def from_json(cls, layout: Any) -> Layout:
        """Build the layout from its JSON form, the dictionary that `dataclasses.asdict` returns.

        Raises:
            ValueError: If an entry is missing or unknown, has another type, or is out of range.
        """
        try:
            layers = [Resampling(**{**layer, "padding": tuple(layer["padding"])}) for layer in layout["layers"]]
            return cls(**{**layout, "size": tuple(layout["size"]), "layers": tuple(layers)})
        except (TypeError, KeyError) as error:
            raise ValueError(f"the layout of its layers is damaged: {error}") from error


def _check_numbers(
    name: str, values: Sequence[Any], length: int, low: float, high: float, kind: type[float] = int
) -> None:
    """Raise ValueError unless there are `length` numbers of the kind (an int is also a float) in [low, high]."""
    kinds = (int, float) if kind is float else (int,)
    if len(values) != length or not all(type(n) in kinds and low <= n <= high for n in values):
        count = "a number" if length == 1 else f"{length} numbers"
        raise ValueError(f"{name} must be {count} in [{low}, {high}], got {', '.join(map(repr, values))}")
