# SPDX-License-Identifier: Apache-2.0
"""Checks of the contents of files against declared types: JSON against annotations, tensors against a table."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import torch
from torch import Tensor

MAX_DEPTH = 32  # of JSON without a declared type


@dataclass(frozen=True)
class TensorSpec:
    """Declared tensor.

    Args:
        letters: Letters of its dimensions, separated by blanks. Equal letters have equal lengths in all tensors.
        dtypes: Allowed dtypes.
        finite: Whether it must not contain NaN or Inf.
    """

    letters: str
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    finite: bool = True


def decode(hint: Any, value: Any, name: str) -> Any:
    """Return a JSON value as the type that an annotation declares.

    Args:
        hint: str, int, float, bool, None, Any, a `Literal`, a union with None, or a list, tuple, dict, `TypedDict` or
            dataclass of them. Keys of a `TypedDict` that is not total may be missing.
        value: Value as `json.loads` returns it.
        name: Name of the value in error messages.

    Returns:
        The value, with tuples and dataclasses where they are declared.

    Raises:
        ValueError: If the value has another type, or a key is missing or unknown.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        _check_depth(value, name, MAX_DEPTH)
        return value
    if is_typeddict(hint) or is_dataclass(hint):
        return _decode_fields(hint, value, name)
    if origin is Literal and isinstance(value, str) and value in arguments:
        return value
    if origin in (Union, UnionType):
        for argument in arguments:
            if argument in (None, NoneType) and value is None:
                return None
        (hint,) = (argument for argument in arguments if argument is not NoneType)
        return decode(hint, value, name)
    if origin is list and isinstance(value, list):
        return [decode(arguments[0], item, f"{name}[{i}]") for i, item in enumerate(value)]
    if origin is tuple and isinstance(value, list) and len(value) == len(arguments):
        items = enumerate(zip(arguments, value, strict=True))
        return tuple(decode(argument, item, f"{name}[{i}]") for i, (argument, item) in items)
    if origin is dict and isinstance(value, dict):
        return {key: decode(arguments[1], item, f"{name}[{reprlib.repr(key)}]") for key, item in value.items()}
    if (hint is float and type(value) in (int, float)) or (hint in (str, int, bool) and type(value) is hint):
        return value
    expected = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    raise ValueError(f"{name} must be {expected}, got {reprlib.repr(value)}")


def check_tensor_table(
    specs: Mapping[str, TensorSpec], tensors: Mapping[str, Tensor], **lengths: int
) -> dict[str, int]:
    """Check tensors against their declarations.

    Args:
        specs: Declaration of each tensor, by name.
        tensors: The tensors, by name.
        **lengths: Known lengths of dimensions, by letter.

    Returns:
        Lengths of all dimensions, by letter.

    Raises:
        ValueError: If a tensor is missing or unknown, has another dtype or shape, or is not finite.
    """
    if missing := specs.keys() - tensors.keys():
        raise ValueError(f"tensor {min(missing)} is missing")
    if unknown := tensors.keys() - specs.keys():
        raise ValueError(f"tensor {reprlib.repr(min(unknown))} is unknown")
    for name, spec in specs.items():
        tensor, letters = tensors[name], spec.letters.split()
        if tensor.dtype not in spec.dtypes:
            expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in spec.dtypes)
            raise ValueError(f"{name} must be {expected}, got {tensor.dtype}")
        known = [lengths.get(letter) for letter in letters]
        if tensor.ndim != len(letters) or any(n not in (None, m) for n, m in zip(known, tensor.shape, strict=True)):
            fixed = ", ".join(f"{letter} = {lengths[letter]}" for letter in letters if letter in lengths)
            expected = f"[{', '.join(letters)}]" + (f" with {fixed}" if fixed else "")
            raise ValueError(f"{name} must have shape {expected}, got {tuple(tensor.shape)}")
        lengths |= dict(zip(letters, tensor.shape, strict=True))
        if spec.finite and not bool(tensor.isfinite().all()):
            first = tuple((~tensor.isfinite()).nonzero()[0].tolist())
            raise ValueError(f"{name} must be finite, got {tensor[first].item()} at index {first}")
    return lengths


def _decode_fields(hint: Any, value: Any, name: str) -> Any:
    hints = get_type_hints(hint)
    if is_dataclass(hint):
        hints = {field.name: hints[field.name] for field in fields(hint)}
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a JSON object, got {reprlib.repr(value)}")
    optional = getattr(hint, "__optional_keys__", frozenset())
    if missing := [key for key in hints if key not in value and key not in optional]:
        raise ValueError(f"{name} lacks {missing[0]}")
    if unknown := [key for key in value if key not in hints]:
        raise ValueError(f"{name} has the unknown entry {reprlib.repr(unknown[0])}")
    decoded = {key: decode(hints[key], item, f"{name}.{key}") for key, item in value.items()}
    create: Any = hint
    return create(**decoded)


def _check_depth(value: Any, name: str, depth: int) -> None:
    if isinstance(value, dict | list):
        if depth == 0:
            raise ValueError(f"{name} must be nested at most {MAX_DEPTH} levels deep, got more")
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, name, depth - 1)
