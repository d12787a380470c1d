# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 weights as five code bases name and scale them -> as our networks take them, gains included.

Which code bases scale what differs, and matters where 1e-8 is added to a norm: NVlabs' and Hammer's normalised
convolutions take their weights as stored, rosinality's and genforce's divide them by sqrt(fan-in) first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import prod

import torch
from torch import Tensor

State = Mapping[str, Tensor]
LEARNING_RATE = 0.01  # of the mapping, by which its weights and biases are multiplied


def rosinality(state: State, mean: Tensor | None = None) -> dict[str, Tensor]:
    """Tensors of `StyleGAN2` from rosinality's `Generator`, which pSp, e4e and HyperStyle have as decoder.

    Args:
        state: its state_dict: style.1.weight, input.input, conv1.conv.weight, ..., noises.noise_0 (without them there
            is no noise).
        mean: the checkpoint's latent_avg, [D] or [rows, D].

    Raises:
        KeyError: a tensor is missing.
        ValueError: two up-sampling filters differ.
    """
    found = {"synthesis.const": state["input.input"][0]}
    for i in range(_count(state, r"style\.(\d+)\.weight") - 1):
        found |= _linear(state, f"style.{i + 1}.", f"mapping.fc{i}.", LEARNING_RATE)
    sites = [("conv1.", "b4.conv1"), ("to_rgb1.", "b4.torgb")]
    for i in range(_count(state, r"to_rgbs\.(\d+)\.bias")):
        block = f"b{8 << i}"
        sites += [(f"convs.{2 * i}.", f"{block}.conv0"), (f"convs.{2 * i + 1}.", f"{block}.conv1")]
        sites += [(f"to_rgbs.{i}.", f"{block}.torgb")]
    convs = 0
    for theirs, ours in sites:
        ours = f"synthesis.{ours}."
        found |= _linear(state, f"{theirs}conv.modulation.", f"{ours}affine.")
        found[f"{ours}weight"] = _equalised(state[f"{theirs}conv.weight"][0])
        if "rgb" in theirs:
            found[f"{ours}bias"] = state[f"{theirs}bias"].flatten()
            continue
        found[f"{ours}bias"] = state[f"{theirs}activate.bias"]
        if (noise := state.get(f"noises.noise_{convs}")) is not None:
            found[f"{ours}noise"] = noise[0, 0] * state[f"{theirs}noise.weight"]
        convs += 1
    kernels = (tensor for name, tensor in state.items() if re.search(r"(blur|upsample)\.kernel$", name))
    return _finish(found, (kernel / 4 for kernel in kernels), mean)


def genforce(state: State) -> dict[str, Tensor]:
    """Tensors of `StyleGAN2` from genforce's `StyleGAN2Generator`; its up-sampling weights are stored mirrored."""
    if "mapping.label_weight" in state:
        raise ValueError("it is conditional on a label, which the converter does not take from genforce's files")
    found = _by_layer(state)
    for name, weight in found.items():
        if re.fullmatch(r"synthesis\.b\d+\.(conv\d)\.weight", name):
            found[name] = _equalised(weight.flip(2, 3) if "conv0" in name else weight)
        elif name.endswith("affine.bias"):
            found[name] = weight + 1
    kernels = (tensor[0, 0] / 4 for name, tensor in state.items() if name.endswith(".kernel"))
    return _finish(found, kernels, state.get("truncation.w_avg"))


def hammer(state: State) -> dict[str, Tensor]:
    """Tensors of `StyleGAN2` from Hammer's `StyleGAN2Generator`."""
    if "mapping.embedding.weight" in state:
        raise ValueError("it is conditional on a label, which the converter does not take from Hammer's files")
    filters = (tensor for name, tensor in state.items() if name.endswith("filter"))
    return _finish(_by_layer(state), filters, state.get("w_avg"))


def lucidrains(state: State, rate: float) -> dict[str, Tensor]:
    """Tensors of `Lucidrains` from the averaged networks, SE and GE, of lucidrains' `StyleGAN2`.

    Args:
        state: its state_dict: SE.net.0.weight, GE.initial_block, ...
        rate: what its mapping multiplies weights and biases by, `lr_mlp` of its settings.

    Raises:
        ValueError: a network with attention, or that begins with w and not with a constant.
    """
    if "GE.initial_block" not in state or any(name.startswith("GE.attns.") for name in state):
        raise ValueError("it has attention or no constant, which the converter does not take: wrap its own module")
    found = {name: x for name, x in state.items() if name.startswith(("SE.", "GE."))}
    for name, x in [*found.items()]:
        if name.startswith("SE."):
            found[name] = x * rate
        elif name.endswith(".upsample.1.f") and x.tolist() == [1, 2, 1]:
            del found[name]
    return found


def nvlabs(state: State, gains: Mapping[str, float], label: int | None = None) -> dict[str, Tensor]:
    """Tensors of `StyleGAN2` from NVlabs' `Generator` (stylegan2-ada-pytorch).

    Args:
        state: mapping.fc0.weight, synthesis.b4.const, ...
        gains: the weight_gain and bias_gain of layers, by their full names.
        label: the class of a conditional network, which then adds to the first layer's bias.

    Raises:
        KeyError: a tensor or gain is missing.
        ValueError: two up-sampling filters differ; a label is missing, superfluous or out of range.
    """
    found = {"synthesis.const": state["synthesis.b4.const"]}
    filters: list[Tensor] = []
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        if kind == "resample_filter":
            filters += [] if re.search(r"b4\b|conv1", name) else [tensor]
        elif kind == "noise_const":
            found[f"{layer}.noise"] = tensor * state[f"{layer}.noise_strength"]
        elif kind in ("weight", "bias"):
            scaled = re.search(r"(affine|fc\d+|embed)$" if kind == "bias" else r"(?<!conv\d)$", layer)
            found[name] = tensor * gains[f"{name}_gain"] if scaled else tensor
    outer = torch.outer(filters[0], filters[0]) if filters and filters[0].ndim == 1 else None
    found = _finish(found, filters if outer is None else [outer], state.get("mapping.w_avg"))
    return _of_class(found, label)


def _of_class(tensors: dict[str, Tensor], label: int | None) -> dict[str, Tensor]:
    """W [z, y] + b = W_z z + (W_y y + b), where y is the class' embedding, of mean square one."""
    weight, bias = (tensors.pop(f"mapping.embed.{name}", None) for name in ("weight", "bias"))
    if weight is None or bias is None:
        if label is not None:
            raise ValueError(f"class must be left out: the network has none, got {label}")
        return tensors
    if label is None or not 0 <= label < weight.shape[1]:
        raise ValueError(f"class must be in [0, {weight.shape[1]}), because the network is conditional, got {label}")
    embedding = weight[:, label] + bias
    embedding = embedding * (embedding.square().mean() + 1e-8).rsqrt()
    first = tensors["mapping.fc0.weight"]
    tensors["mapping.fc0.weight"] = first[:, : -len(embedding)]
    tensors["mapping.fc0.bias"] = tensors["mapping.fc0.bias"] + first[:, -len(embedding) :] @ embedding
    return tensors


def _by_layer(state: State) -> dict[str, Tensor]:
    """What genforce and Hammer have in common: layer{i} are the convolutions in turn, output{b} the blocks' outputs."""
    found = {"synthesis.const": state["synthesis.early_layer.const"][0]}
    for i in range(_count(state, r"mapping\.dense(\d+)\.weight")):
        found |= _linear(state, f"mapping.dense{i}.", f"mapping.fc{i}.", LEARNING_RATE)
    for name in (name for name in state if re.fullmatch(r"synthesis\.(layer|output)\d+\.weight", name)):
        theirs = name.removesuffix("weight")
        kind, i = re.sub(r"\d", "", theirs.split(".")[1]), int(re.sub(r"\D", "", theirs))
        block = 4 << (i if kind == "output" else (i + 1) // 2)
        ours = f"synthesis.b{block}.{'torgb' if kind == 'output' else f'conv{1 - i % 2}'}."
        found |= _linear(state, f"{theirs}style.", f"{ours}affine.")
        found[f"{ours}weight"] = _equalised(state[name]) if kind == "output" else state[name]
        found[f"{ours}bias"] = state[f"{theirs}bias"]
        if f"{theirs}noise" in state:
            found[f"{ours}noise"] = state[f"{theirs}noise"][0, 0] * state[f"{theirs}noise_strength"]
    for name in (name for name in state if re.fullmatch(r"synthesis\.residual\d+\.weight", name)):
        found[f"synthesis.b{4 << int(re.sub(r'[^0-9]', '', name))}.skip.weight"] = _equalised(state[name])
    return found


def _finish(found: dict[str, Tensor], filters: Iterable[Tensor], mean: Tensor | None) -> dict[str, Tensor]:
    """The one filter that all up-sampling has, and the mean of w."""
    first, *others = list(filters) or [torch.outer(*[torch.tensor([1.0, 3, 3, 1]) / 8] * 2)]
    if any(other.shape != first.shape or not torch.allclose(other, first) for other in others):
        raise ValueError("it has up-sampling filters that differ")
    found["synthesis.filter"] = first
    return found if mean is None else {**found, "w_avg": mean}


def _linear(state: State, theirs: str, ours: str, rate: float = 1.0) -> dict[str, Tensor]:
    return {
        f"{ours}weight": _equalised(state[f"{theirs}weight"]) * rate,
        f"{ours}bias": state[f"{theirs}bias"] * rate,
    }


def _equalised(weight: Tensor) -> Tensor:
    """Weights [O, I, ...] divided by sqrt(fan-in)."""
    return weight * prod(weight.shape[1:]) ** -0.5


def _count(state: State, pattern: str) -> int:
    """One more than the highest number in a name."""
    numbers = (match for name in state if (match := re.fullmatch(pattern, name)))
    return 1 + max((int(match[1]) for match in numbers), default=-1)
