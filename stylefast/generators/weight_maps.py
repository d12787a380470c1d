# SPDX-License-Identifier: Apache-2.0
"""Conversion of StyleGAN2 weights of five code bases to the names and scales of the networks in this package.

The code bases scale weights differently, which matters where 1e-8 is added to a norm. The normalised convolutions of
NVlabs and Hammer use the stored weights. The convolutions of rosinality and genforce divide them by sqrt(fan-in) first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor

from .stylegan2 import first_block

State: TypeAlias = Mapping[str, Tensor]
LEARNING_RATE = 0.01  # learning rate of the mapping, by which its weights and biases are multiplied


def from_rosinality(state: State, mean: Tensor | None = None) -> dict[str, Tensor]:
    """Return the tensors of `StyleGAN2` from rosinality's `Generator`, the decoder of pSp, e4e and HyperStyle.

    Args:
        state: State dict of the network: style.1.weight, input.input, conv1.conv.weight, ..., noises.noise_0, ...
            Without the noises, the result has no noise.
        mean: `latent_avg` of the checkpoint, [D] or [rows, D].

    Raises:
        KeyError: If a tensor is missing.
        ValueError: If two up-sampling filters differ.
    """
    tensors = {"synthesis.const": state["input.input"][0]}
    for i in range(_count(state, r"style\.(\d+)\.weight") - 1):
        tensors |= _linear(state, f"style.{i + 1}.", f"mapping.fc{i}.", LEARNING_RATE)
    base = max(tensors["synthesis.const"].shape[1:])
    sites = [("conv1.", f"b{base}.conv1"), ("to_rgb1.", f"b{base}.torgb")]
    for i in range(_count(state, r"to_rgbs\.(\d+)\.bias")):
        block = f"b{2 * base << i}"
        sites += [(f"convs.{2 * i}.", f"{block}.conv0"), (f"convs.{2 * i + 1}.", f"{block}.conv1")]
        sites += [(f"to_rgbs.{i}.", f"{block}.torgb")]
    n_convs = 0
    for source, site in sites:
        target = f"synthesis.{site}."
        tensors |= _linear(state, f"{source}conv.modulation.", f"{target}affine.")
        tensors[f"{target}weight"] = equalised(state[f"{source}conv.weight"][0])
        if "rgb" in source:
            tensors[f"{target}bias"] = state[f"{source}bias"].flatten()
            continue
        tensors[f"{target}bias"] = state[f"{source}activate.bias"]
        if (noise := state.get(f"noises.noise_{n_convs}")) is not None:
            tensors[f"{target}noise"] = noise[0, 0] * state[f"{source}noise.weight"]
        n_convs += 1
    kernels = (tensor for name, tensor in state.items() if re.search(r"(blur|upsample)\.kernel$", name))
    return _with_filter_and_mean(tensors, (kernel / 4 for kernel in kernels), mean)


def from_genforce(state: State) -> dict[str, Tensor]:
    """Return the tensors of `StyleGAN2` from genforce's `StyleGAN2Generator`.

    It stores the weights of up-sampling convolutions mirrored.

    Raises:
        KeyError: If a tensor is missing.
        ValueError: If two up-sampling filters differ, or the network is conditional.
    """
    if "mapping.label_weight" in state:
        raise ValueError("it is conditional on a label, which the converter does not support for genforce's files")
    tensors = _from_numbered_layers(state)
    for name, weight in tensors.items():
        if re.fullmatch(r"synthesis\.b\d+\.(conv\d)\.weight", name):
            tensors[name] = equalised(weight.flip(2, 3) if "conv0" in name else weight)
        elif name.endswith("affine.bias"):
            tensors[name] = weight + 1
    filters = (tensor[0, 0] / 4 for name, tensor in state.items() if name.endswith(".kernel"))
    return _with_filter_and_mean(tensors, filters, state.get("truncation.w_avg"))


def from_hammer(state: State) -> dict[str, Tensor]:
    """Return the tensors of `StyleGAN2` from Hammer's `StyleGAN2Generator`.

    Raises:
        KeyError: If a tensor is missing.
        ValueError: If two up-sampling filters differ, or the network is conditional.
    """
    if "mapping.embedding.weight" in state:
        raise ValueError("it is conditional on a label, which the converter does not support for Hammer's files")
    filters = (tensor for name, tensor in state.items() if name.endswith("filter"))
    return _with_filter_and_mean(_from_numbered_layers(state), filters, state.get("w_avg"))


def from_lucidrains(state: State, rate: float) -> dict[str, Tensor]:
    """Return the tensors of `Lucidrains` from the averaged networks SE and GE of lucidrains' `StyleGAN2`.

    Args:
        state: State dict of the network: SE.net.0.weight, GE.initial_block, ...
        rate: Option `lr_mlp`, by which the mapping multiplies its weights and biases.

    Raises:
        ValueError: If the network has attention layers, or starts from w instead of a constant.
    """
    if "GE.initial_block" not in state or any(name.startswith("GE.attns.") for name in state):
        raise ValueError(
            "it has attention or no constant input, which the converter does not support; wrap its module instead"
        )
    tensors = {name: tensor for name, tensor in state.items() if name.startswith(("SE.", "GE."))}
    for name, tensor in [*tensors.items()]:
        if name.startswith("SE."):
            tensors[name] = tensor * rate
        elif name.endswith(".upsample.1.f") and tensor.tolist() == [1, 2, 1]:
            del tensors[name]
    return tensors


def from_nvlabs(state: State, gains: Mapping[str, float], label: int | None = None) -> dict[str, Tensor]:
    """Return the tensors of `StyleGAN2` from NVlabs' `Generator` (stylegan2-ada-pytorch).

    Args:
        state: Tensors by name: mapping.fc0.weight, synthesis.b4.const, ...
        gains: The `weight_gain` and `bias_gain` of layers, by their full names.
        label: Class of a conditional network. Its contribution is added to the bias of the first layer.

    Raises:
        KeyError: If a tensor or a gain is missing.
        ValueError: If two up-sampling filters differ, or the label is missing, unexpected or out of range.
    """
    first = f"synthesis.b{first_block(state)}"
    tensors = {"synthesis.const": state[f"{first}.const"]}
    filters: list[Tensor] = []
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        if kind == "resample_filter":
            filters += [] if name.startswith(f"{first}.") or "conv1" in name else [tensor]
        elif kind == "noise_const":
            tensors[f"{layer}.noise"] = tensor * state[f"{layer}.noise_strength"]
        elif kind in ("weight", "bias"):
            is_scaled = re.search(r"(affine|fc\d+|embed)$" if kind == "bias" else r"(?<!conv\d)$", layer)
            tensors[name] = tensor * gains[f"{name}_gain"] if is_scaled else tensor
    outer = torch.outer(filters[0], filters[0]) if filters and filters[0].ndim == 1 else None
    tensors = _with_filter_and_mean(tensors, filters if outer is None else [outer], state.get("mapping.w_avg"))
    return fold_class(tensors, label)


def fold_class(tensors: dict[str, Tensor], label: int | None) -> dict[str, Tensor]:
    """Fold the class embedding y, of mean square one, into a bias: `W [z, y] + b = W_z z + (W_y y + b)`."""
    weight, bias = (tensors.pop(f"mapping.embed.{name}", None) for name in ("weight", "bias"))
    if weight is None or bias is None:
        if label is not None:
            raise ValueError(f"class must be omitted, because the network has no classes, got {label}")
        return tensors
    if label is None or not 0 <= label < weight.shape[1]:
        raise ValueError(f"class must be in [0, {weight.shape[1]}), because the network is conditional, got {label}")
    embedding = weight[:, label] + bias
    embedding = embedding * (embedding.square().mean() + 1e-8).rsqrt()
    first_weight = tensors["mapping.fc0.weight"]
    tensors["mapping.fc0.weight"] = first_weight[:, : -len(embedding)]
    tensors["mapping.fc0.bias"] = tensors["mapping.fc0.bias"] + first_weight[:, -len(embedding) :] @ embedding
    return tensors


def _from_numbered_layers(state: State) -> dict[str, Tensor]:
    """Convert the tensors that have the same names in genforce and Hammer.

    layer{i} is convolution i, and output{b} is the toRGB of block b.
    """
    tensors = {"synthesis.const": state["synthesis.early_layer.const"][0]}
    base = max(tensors["synthesis.const"].shape[1:])
    for i in range(_count(state, r"mapping\.dense(\d+)\.weight")):
        tensors |= _linear(state, f"mapping.dense{i}.", f"mapping.fc{i}.", LEARNING_RATE)
    for name in (name for name in state if re.fullmatch(r"synthesis\.(layer|output)\d+\.weight", name)):
        source = name.removesuffix("weight")
        kind, i = re.sub(r"\d", "", source.split(".")[1]), int(re.sub(r"\D", "", source))
        block = base << (i if kind == "output" else (i + 1) // 2)
        target = f"synthesis.b{block}.{'torgb' if kind == 'output' else f'conv{1 - i % 2}'}."
        tensors |= _linear(state, f"{source}style.", f"{target}affine.")
        tensors[f"{target}weight"] = equalised(state[name]) if kind == "output" else state[name]
        tensors[f"{target}bias"] = state[f"{source}bias"]
        if f"{source}noise" in state:
            tensors[f"{target}noise"] = state[f"{source}noise"][0, 0] * state[f"{source}noise_strength"]
    for name in (name for name in state if re.fullmatch(r"synthesis\.residual\d+\.weight", name)):
        tensors[f"synthesis.b{base << int(re.sub(r'[^0-9]', '', name))}.skip.weight"] = equalised(state[name])
    return tensors


def _with_filter_and_mean(
    tensors: dict[str, Tensor], filters: Iterable[Tensor], mean: Tensor | None
) -> dict[str, Tensor]:
    """Add the filter of all up-sampling layers, and the mean of w if it is known."""
    first, *rest = list(filters) or [
        torch.outer(*[torch.tensor([1.0, 3, 3, 1], dtype=torch.float32, device="cpu") / 8] * 2)
    ]
    if any(taps.shape != first.shape or not torch.allclose(taps, first) for taps in rest):
        raise ValueError("it has up-sampling filters that differ")
    tensors["synthesis.filter"] = first
    return tensors if mean is None else {**tensors, "w_avg": mean}


def _linear(state: State, source: str, target: str, rate: float = 1.0) -> dict[str, Tensor]:
    return {
        f"{target}weight": equalised(state[f"{source}weight"]) * rate,
        f"{target}bias": state[f"{source}bias"] * rate,
    }


def equalised(weight: Tensor) -> Tensor:
    """Divide weights [O, I, ...] by sqrt(fan-in)."""
    return weight * prod(weight.shape[1:]) ** -0.5


def _count(state: State, pattern: str) -> int:
    """Return one more than the highest number in the names that match."""
    matches = (match for name in state if (match := re.fullmatch(pattern, name)))
    return 1 + max((int(match[1]) for match in matches), default=-1)
