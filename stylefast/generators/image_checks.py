# SPDX-License-Identifier: Apache-2.0
"""Checks of a network's images when a generator is made: their range, and whether they can be reproduced."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor

SEEDS = (2, 1, 0)  # seeds of the batch; its last image is compared with the same image alone
RANGE = (-1.0, 1.0)  # image range of most code bases
VISIBLE = 0.5 / 255  # smallest difference, in image ranges, that certainly changes a pixel of 8 bits
ROUNDING = 1e-5  # in image ranges; bound of the differences by rounding in float32
BATCH_TOLERANCE = 5e-4  # in image ranges; TensorFloat32 stays below and float16 exceeds it
MAX_VALUES = 1_000_000  # number of values that estimate the quantiles of the images


class ImageRangeWarning(UserWarning):
    """Images contradict the image range."""


class ReproducibilityWarning(UserWarning):
    """Images cannot be reproduced exactly."""


def black_and_white(image_range: tuple[float, float] | None) -> tuple[float, float]:
    """Return the values of an image range. None is `RANGE`.

    Raises:
        ValueError: If the range is not two different finite numbers.
    """
    try:
        black, white = RANGE if image_range is None else map(float, image_range)
    except (TypeError, ValueError):
        black = white = math.nan
    if black == white or not math.isfinite(black - white):
        raise ValueError(f"image_range must be two different finite numbers, (black, white), got {image_range!r}")
    return black, white


def check_range(images: Tensor) -> None:
    """Warn if the raw images of several latents contradict the range [-1, 1].

    The evidence is the quantiles 0.1 % and 99.9 % of all values, low and high::

        [0, 1]    -0.05 <= low <= 0.25, 0.5 <= high <= 1.25
        [0, 255]  -13 <= low, 30 <= high <= 320
        unknown   low < -30 or high > 30

    Images in [-1, 1] have values below -0.05 unless no pixel is darker than medium grey. Networks with random weights
    have values of both signs, of up to about 15.

    Args:
        images: Output of the network of shape [N, C, H, W], any dtype.
    """
    values = images.flatten()
    values = values[:: -(-len(values) // MAX_VALUES)].float()
    low, high = torch.quantile(values, values.new_tensor((0.001, 0.999))).tolist()
    if -0.05 <= low <= 0.25 and 0.5 <= high <= 1.25:
        better = "image_range=(0, 1)"
    elif low >= -13 and 30 <= high <= 320:
        better = "image_range=(0, 255)"
    elif low < -30 or high > 30:
        better = "image_range=(black, white) with the network's values for black and white"
    else:
        return
    warnings.warn(
        f"the network's images have values from {low:.3g} to {high:.3g}, which contradicts the image range [-1, 1]: "
        f"pass {better}, or image_range=(-1, 1) if the range is right",
        ImageRangeWarning,
        stacklevel=5,
    )


class Checked(Protocol):
    """Part of a generator that the checks use."""

    name: str

    def latents(self, seeds: Iterable[int]) -> Tensor: ...

    def styles(self, w: Tensor) -> Tensor: ...

    def synthesize(self, styles: Tensor, w: Tensor) -> Tensor: ...


def check_images(
    generator: Checked,
    run: Callable[[Tensor], Tensor],
    to_images: Callable[[Tensor], Tensor],
    first: Tensor,
    *,
    assume_range: bool,
) -> None:
    """Check that styles which are read and put back give the network's own images, and that images do not vary.

    One image and a batch are made twice: by the network alone, and from their styles. A further run tells noise from
    styles that do not determine the image; it is made only after a difference.

    Args:
        generator: The generator.
        run: Function from w to the network's own output.
        to_images: Function from the output to images [N, C, H, W] in [0, 1].
        first: Output for the last of `SEEDS` alone.
        assume_range: Whether the image range is assumed, and must be checked.

    Raises:
        ValueError: If a value is not finite, the number of images is wrong, or two runs, or a run and its replay,
            differ by more than half a step of 8 bits.
    """

    def own(w: Tensor) -> Tensor:
        with torch.no_grad():
            return run(w)

    _check_outputs(first, 1, first)
    w_alone, alone = generator.latents(SEEDS[-1:]), to_images(first)
    _check_replay(generator, lambda: to_images(own(w_alone)), w_alone, alone)
    w = generator.latents(SEEDS)
    outputs = own(w)
    _check_outputs(outputs, len(w), first)
    if assume_range:
        check_range(outputs)
    images = to_images(outputs)
    _check_replay(generator, lambda: to_images(own(w)), w, images)
    difference = _difference(images[-1:], alone)
    if difference > BATCH_TOLERANCE:
        _warn(
            f"the images of {generator.name} depend on the batch size: an image alone and the same image in a batch of "
            f"{len(w)} differ by up to {difference:.2g} of the image range; keep the batch size constant to reproduce "
            "images, or avoid layers in float16 (force_fp32=True for networks of NVlabs) and noise drawn per batch"
        )


def _check_replay(generator: Checked, own: Callable[[], Tensor], w: Tensor, images: Tensor) -> None:
    """Compare the network's own images of w, which `own` makes again, with those from their styles."""
    replayed = generator.synthesize(generator.styles(w), w)
    if torch.equal(replayed, images):
        return
    difference, noise = _difference(replayed, images), _difference(own(), images)
    batch = "one image" if len(w) == 1 else f"a batch of {len(w)} images"
    if noise > VISIBLE:
        raise ValueError(
            f"synthesis must give the same images in every run, with fixed noise, got {batch} of {generator.name} with "
            f"differences of up to {noise:.2g} of the image range between two runs"
        )
    if difference > VISIBLE:
        raise ValueError(
            f"the styles of {generator.name}, read and put back, must give the network's own images, got {batch} with "
            f"differences of up to {difference:.2g} of the image range; every style module of the rules must run "
            "exactly once per forward pass"
        )
    if max(noise, difference) <= ROUNDING:
        return
    reason = "between two runs" if noise else "between the network's own images and those from their styles"
    _warn(
        f"the images of {generator.name} are not reproduced exactly: {batch} has differences of up to "
        f"{max(noise, difference):.2g} of the image range {reason}"
    )


def _check_outputs(outputs: Tensor, n: int, first: Tensor) -> None:
    if outputs.shape != (n, *first.shape[1:]):
        expected = (n, *first.shape[1:])
        raise ValueError(f"synthesis must give images of shape {expected} for {n} latents, got {tuple(outputs.shape)}")
    n_bad = int((~torch.isfinite(outputs)).sum())
    if n_bad:
        raise ValueError(f"synthesis must give finite images, got {n_bad:,} of {outputs.numel():,} values NaN or Inf")


def _difference(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference."""
    return float((a - b).abs().max())


def _warn(message: str) -> None:
    warnings.warn(message, ReproducibilityWarning, stacklevel=6)
