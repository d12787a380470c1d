# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments: each raises TypeError or ValueError that names the argument, what it must be, and what came."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from .dtypes import DTYPES, Array


def check_images(name: str, images: Tensor) -> None:
    """Raise TypeError or ValueError unless images is a floating [N, 3, H, W]."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"{name} must be a floating-point tensor [N, 3, H, W] in [0, 1], got {got}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"{name} must have shape [N, 3, H, W], got {tuple(images.shape)}")


def check_activations(activations: Tensor) -> None:
    """Raises TypeError or ValueError unless `activations` is a dense floating tensor [N, C, H, W] with C, H, W >= 1."""
    check_tensor("activations", activations, "[N, C, H, W]", 4)
    if 0 in activations.shape[1:]:
        raise ValueError(f"activations [N, C, H, W] must have C, H and W >= 1, got {tuple(activations.shape)}")


def check_tensor(name: str, tensor: Tensor, letters: str = "", *ranks: int, like: Tensor | None = None) -> None:
    """Raises unless `tensor` is a dense floating tensor. If given: with one of `ranks`, on the device of `like`."""
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
    """Raises ValueError unless `tensor` has one dimension per letter, of that length where it is not None."""
    if tensor.dim() == len(lengths) and all(
        expected in (None, length) for expected, length in zip(lengths.values(), tensor.shape, strict=True)
    ):
        return
    fixed = ", ".join(f"{letter} = {length}" for letter, length in lengths.items() if length is not None)
    expected = f"[{', '.join(lengths)}]" + (f" with {fixed}" if fixed else "")
    raise ValueError(f"{name} must have shape {expected}, got {tuple(tensor.shape)}")


def check_alike(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raises TypeError or ValueError unless two tensors have the same dtype, shape and device."""
    if tensor.dtype != other.dtype:
        raise TypeError(f"{name} must be {other.dtype} like {other_name}, got {tensor.dtype}")
    if tensor.shape != other.shape or tensor.device != other.device:
        expected = f"have shape {tuple(other.shape)} on {other.device} like {other_name}"
        raise ValueError(f"{name} must {expected}, got {tuple(tensor.shape)} on {tensor.device}")


def check_no_nan(name: str, tensor: Tensor) -> None:
    """Raises ValueError with the number and the first index of NaN, if there are any."""
    if (nan := tensor.isnan()).any():
        first = tuple(nan.nonzero()[0].tolist())
        raise ValueError(
            f"{name} must not hold NaN, got {int(nan.sum())} of {tensor.numel()}, the first at index {first}"
        )


def check_clusters(name: str, parts: Mapping[str, Sequence[int]], n_clusters: int) -> None:
    """Raises ValueError unless all parts hold ids of clusters."""
    for part, ids in parts.items():
        if not all(0 <= k < n_clusters for k in ids):
            raise ValueError(f"{name} must hold clusters in [0, K) with K = {n_clusters}, got {part!r}: {list(ids)}")


def check_type(name: str, value: object, expected: type, example: str) -> None:
    """Raises TypeError unless `value` is an instance of `expected`; `example` says how to make one."""
    if not isinstance(value, expected):
        raise TypeError(f"{name} must be of type {expected.__name__}, such as {example}, got {type(value).__name__}")


def check_integer(name: str, value: int, minimum: int) -> int:
    """The value as an int. Raises ValueError unless it is an integer >= `minimum`; bool is none."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {value!r}")
    return int(value)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def to_tensor(name: str, value: Array) -> Tensor:
    """A tensor unchanged; a NumPy array as a tensor that shares its memory, unless a negative stride requires a copy.

    The result of a read-only array must not be written to. Raises TypeError for anything else.
    """
    if isinstance(value, np.ndarray):
        value = value if min(value.strides, default=0) >= 0 else value.copy()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            value = torch.from_numpy(value)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor or a NumPy array, got {type(value).__name__}")
    return value


def as_tensor(name: str, value: Array, letters: str, *ranks: int) -> Tensor:
    """A tensor or an array as a tensor without gradient, where it is. Raises TypeError or ValueError for any other."""
    tensor = to_tensor(name, value)
    check_tensor(name, tensor, letters, *ranks)
    return tensor.detach()
