# SPDX-License-Identifier: Apache-2.0
"""Random inputs of the ops: sizes around tile edges, values of many scales, and every layout of memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LAYER_DTYPES = (torch.float32, torch.float64)
FEATURES = ("raw", "standardized", "squared")
_T = TypeVar("_T")


class Sizes(NamedTuple):
    """Sizes that dimensions are drawn from."""

    images: tuple[int, ...] = (0, 1, 1, 2, 3, 5)
    channels: tuple[int, ...] = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 100, 130)
    height: tuple[int, ...] = (1, 2, 3, 4, 5, 7, 8, 11, 16, 17, 33)
    width: tuple[int, ...] = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 31, 32, 33, 65, 129)
    clusters: tuple[int, ...] = (1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 16, 17, 31, 32, 33, 64, 100)
    styles: tuple[int, ...] = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 257, 1000)
    edits: tuple[int, ...] = (0, 1, 2, 3, 7, 16, 30)


LARGE = Sizes()
SMALL = Sizes((0, 1, 2), (1, 3, 8, 17), (1, 3, 5), (1, 4, 9), (1, 2, 5, 17), (1, 3, 16, 33), (0, 1, 3, 7))


def choose(rng: Generator, options: Sequence[_T]) -> _T:
    return options[int(rng.integers(len(options)))]


def chance(rng: Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that the ops document to compute in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def activations(rng: Generator, sizes: Sizes, *, finite: bool = False) -> Tensor:
    """Draw activations [N, C, H, W]: of any scale, some with offsets per channel, zero points, NaN or Inf."""
    shape = tuple(choose(rng, options) for options in sizes[:4])
    dtype = choose(rng, DTYPES)
    exponent = 2 if dtype == torch.float16 else 5
    x = rng.standard_normal(shape) * 10 ** rng.uniform(-exponent, exponent / 2)
    if chance(rng, 0.3):
        x = x + np.abs(x).max(initial=0) * rng.standard_normal((1, shape[1], 1, 1)) * 10 ** rng.uniform(-1, 0.7)
    if chance(rng, 0.2):
        x = x * (rng.random((shape[0], 1, *shape[2:])) > 0.2)
    if chance(rng, 0.1):
        x[:, rng.integers(shape[1])] = rng.standard_normal()  # a constant channel
    if not finite and x.size and chance(rng, 0.15):
        x.flat[rng.integers(x.size, size=2)] = choose(rng, (np.nan, np.inf, -np.inf))
    return any_layout(rng, torch.from_numpy(x).to(dtype))


def centroids(rng: Generator, *shape: int) -> Tensor:
    """Draw centroids [..., K, C], mostly of unit norm, some with equal rows."""
    c = rng.standard_normal(shape)
    if chance(rng, 0.8):
        c /= np.linalg.norm(c, axis=-1, keepdims=True)
    if shape[-2] > 1 and chance(rng, 0.2):
        c[..., 1, :] = c[..., 0, :]
    return any_layout(rng, torch.from_numpy(c).to(choose(rng, DTYPES)))


def layer_tensor(rng: Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    """Draw an argument of a generator layer, of any scale."""
    x = rng.standard_normal(shape) * 10 ** rng.uniform(-5, 2.5)
    return any_layout(rng, torch.from_numpy(x).to(dtype))


def any_layout(rng: Generator, x: Tensor) -> Tensor:
    """Return the same values in another layout: a permuted one, or a slice of a larger tensor of NaN."""
    if x.numel() == 0 or chance(rng, 0.2):
        return x
    order = rng.permutation(x.dim())
    if x.dim() == 4 and chance(rng, 0.3):
        order = np.array([0, 2, 3, 1])  # channels_last
    x = x.permute(*order)
    starts, steps = rng.integers(0, 3, x.dim()), rng.choice([1, 1, 1, 2, 3], x.dim())
    if chance(rng, 0.4):
        starts, steps = starts * 0, steps * 0 + 1
    ends = [int(a + s * n + b) for a, s, n, b in zip(starts, steps, x.shape, starts[::-1], strict=True)]
    missing = torch.nan if x.is_floating_point() else torch.iinfo(x.dtype).max
    buffer = torch.full(ends, missing, dtype=x.dtype)
    view = buffer[tuple(slice(int(a), int(a + s * n), int(s)) for a, s, n in zip(starts, steps, x.shape, strict=True))]
    view.copy_(x)
    return view.permute(*np.argsort(order).tolist())
