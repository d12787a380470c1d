# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments. Each error names the argument, the expected value and the actual value."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from operator import index

import numpy as np
import torch
from torch import Tensor

from .dtypes import DTYPES, Array

SEEDS = range(1 << 32)  # seeds of numpy.random.RandomState


def check_activations(activations: Tensor) -> None:
    """Raise TypeError or ValueError unless `activations` is a dense floating-point tensor [N, C, H, W].

    C, H and W must be at least 1.
    """
    check_tensor("activations", activations, "[N, C, H, W]", 4)
    if 0 in activations.shape[1:]:
        raise ValueError(f"activations [N, C, H, W] must have C, H and W >= 1, got {tuple(activations.shape)}")


def check_tensor(name: str, tensor: Tensor, letters: str = "", *ranks: int, like: Tensor | None = None) -> None:
    """Raise TypeError or ValueError unless `tensor` is a dense floating-point tensor.

    If given, the tensor must also have one of `ranks` as its number of dimensions, and be on the device of `like`.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {tensor.dtype}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense (strided) tensor, got layout {tensor.layout}")
    if ranks and tensor.dim() not in ranks:
        raise ValueError(f"{name} must have shape {letters}, got {tuple(tensor.shape)}")
    if like is not None and tensor.device != like.device:
        raise ValueError(f"{name} must be on {like.device} like the first argument, got {tensor.device}")


def check_shape(name: str, tensor: Tensor, /, **lengths: int | None) -> None:
    """Raise ValueError unless `tensor` has one dimension per letter, of the given length if that is not None."""
    if tensor.dim() == len(lengths) and all(
        expected in (None, length) for expected, length in zip(lengths.values(), tensor.shape, strict=True)
    ):
        return
    fixed = ", ".join(f"{letter} = {length}" for letter, length in lengths.items() if length is not None)
    expected = f"[{', '.join(lengths)}]" + (f" with {fixed}" if fixed else "")
    raise ValueError(f"{name} must have shape {expected}, got {tuple(tensor.shape)}")


def check_alike(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise TypeError or ValueError unless two tensors have the same dtype, shape and device."""
    if tensor.dtype != other.dtype:
        raise TypeError(f"{name} must be {other.dtype} like {other_name}, got {tensor.dtype}")
    if tensor.shape != other.shape or tensor.device != other.device:
        expected = f"have shape {tuple(other.shape)} on {other.device} like {other_name}"
        raise ValueError(f"{name} must {expected}, got {tuple(tensor.shape)} on {tensor.device}")


def check_no_nan(name: str, tensor: Tensor) -> None:
    """Raise ValueError if the tensor contains NaN. The message gives their number and the first index."""
    if (nan := tensor.isnan()).any():
        first = tuple(nan.nonzero()[0].tolist())
        raise ValueError(
            f"{name} must not hold NaN, got {int(nan.sum())} of {tensor.numel()}, the first at index {first}"
        )


def check_clusters(name: str, parts: Mapping[str, Sequence[int]], n_clusters: int) -> None:
    """Raise ValueError unless all ids of all parts are in [0, n_clusters)."""
    for part, ids in parts.items():
        if not all(0 <= k < n_clusters for k in ids):
            raise ValueError(f"{name} must hold clusters in [0, K) with K = {n_clusters}, got {part!r}: {list(ids)}")


def check_type(name: str, value: object, expected: type, example: str) -> None:
    """Raise TypeError unless `value` is an instance of `expected`; `example` shows how to create one."""
    if not isinstance(value, expected):
        raise TypeError(f"{name} must be of type {expected.__name__}, such as {example}, got {type(value).__name__}")


def check_integer(name: str, value: int, minimum: int) -> int:
    """Return the value as an int. Raise ValueError unless it is an integer >= `minimum` and not a bool."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {value!r}")
    return int(value)


def check_latent_seeds(seeds: Iterable[int]) -> Sequence[int]:
    """Return the seeds of random latents as a sequence. Raise ValueError unless all are integers in `SEEDS`."""
    sequence = seeds if isinstance(seeds, range) else list(seeds)
    for seed in (*sequence[:1], *sequence[-1:]) if isinstance(sequence, range) else sequence:
        try:
            is_valid = index(seed) in SEEDS
        except TypeError:
            is_valid = False
        if not is_valid:
            raise ValueError(f"seeds must be integers in [0, 2**32), got {seed!r}")
    return sequence


def check_seed(name: str, value: int) -> int:
    """Return the seed as an int. Raise ValueError unless it is an integer in [0, 2**64), as torch requires."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise ValueError(f"{name} must be an integer in [0, 2**64), got {value!r}")
    return int(value)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def to_tensor(name: str, value: Array) -> Tensor:
    """Return a tensor unchanged, and a NumPy array as a tensor. Raise TypeError for anything else.

    The tensor shares the memory of the array unless torch cannot represent it: an array with a negative or uneven
    stride, in the byte order of other machines, or not aligned is copied. The caller must not write to the tensor of a
    read-only array. An array with masked values raises ValueError.
    """
    if isinstance(value, np.ndarray):
        return _from_numpy(name, value)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor or a NumPy array, got {type(value).__name__}")
    return value


def _from_numpy(name: str, array: np.ndarray) -> Tensor:
    if np.ma.is_masked(array):
        raise ValueError(f"{name} must not have masked values, got {np.ma.count_masked(array)} of {array.size}")
    has_even_strides = all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides)
    if not (has_even_strides and array.dtype.isnative and array.flags.aligned):
        array = np.array(array, array.dtype.newbyteorder("="), order="C")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return torch.from_numpy(array)
    except TypeError:
        raise TypeError(f"{name} must have a dtype that torch has, got {array.dtype}") from None


def as_tensor(name: str, value: Array, letters: str, *ranks: int) -> Tensor:
    """Return a detached tensor as `to_tensor` does. Raise TypeError or ValueError as `check_tensor` does."""
    tensor = to_tensor(name, value)
    check_tensor(name, tensor, letters, *ranks)
    return tensor.detach()
