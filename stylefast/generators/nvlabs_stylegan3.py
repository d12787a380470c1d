# SPDX-License-Identifier: Apache-2.0
"""Conversion of the tensors and options in files of NVlabs stylegan3 and StyleGAN-XL to `StyleGAN3`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..io.unpickling import InertObject, to_array
from .stylegan3_layout import Layout, Resampling
from .weight_maps import State, equalised, fold_class

Options = Mapping[str, Any]


def from_nvlabs_stylegan3(
    state: State, options: Options, gains: Mapping[str, float], label: int | None = None
) -> tuple[dict[str, Tensor], Layout]:
    """Return the tensors and the layout of `StyleGAN3` from the generator of NVlabs stylegan3 or of StyleGAN-XL.

    Args:
        state: Tensors by name: mapping.fc0.weight, synthesis.input.freqs, synthesis.L0_36_512.weight, ...
        options: Attributes of the modules, by their full names.
        gains: The `weight_gain` and `bias_gain` of layers, by their full names.
        label: Class of a conditional network. Its contribution is added to the bias of the first layer.

    Raises:
        KeyError: If a tensor, an option or a gain is missing.
        ValueError: If the label is missing, unexpected or out of range, or an option has an unexpected value.
    """
    state = {name: tensor.float() for name, tensor in state.items()}
    names = [str(name) for name in options["synthesis.layer_names"]]
    tensors = _from_mapping(state, gains, label)
    for kind in ("freqs", "phases", "transform"):
        tensors[f"synthesis.input.{kind}"] = state[f"synthesis.input.{kind}"]
    tensors["synthesis.input.weight"] = equalised(state["synthesis.input.weight"])
    tensors |= _scaled(state, gains, "synthesis.input.affine")
    for name in names:
        layer = f"synthesis.{name}"
        tensors |= _scaled(state, gains, f"{layer}.affine")
        weight, gain = state[f"{layer}.weight"], state[f"{layer}.magnitude_ema"].rsqrt()
        if name == names[-1]:
            tensors[f"{layer}.weight"] = equalised(weight) * gain
        else:
            tensors[f"{layer}.weight"] = weight * weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
            tensors[f"{layer}.gain"] = gain
        tensors[f"{layer}.bias"] = state[f"{layer}.bias"]
        for kind in ("up_filter", "down_filter"):
            if (taps := state.get(f"{layer}.{kind}")) is not None:
                tensors[f"{layer}.{kind}"] = torch.outer(taps, taps) if taps.ndim == 1 else taps
    return tensors, _layout(options, names)


def _from_mapping(state: State, gains: Mapping[str, float], label: int | None) -> dict[str, Tensor]:
    layers = [name for name in state if re.fullmatch(r"mapping\.(fc\d+|embed_proj)\.weight", name)]
    tensors: dict[str, Tensor] = {}
    for name in layers:
        tensors |= _scaled(state, gains, name.removesuffix(".weight"))
    projection, bias = (tensors.pop(f"mapping.embed_proj.{kind}", None) for kind in ("weight", "bias"))
    if projection is not None:  # StyleGAN-XL: a table of embeddings, then a layer
        embeddings = F.leaky_relu(F.linear(state["mapping.embed.weight"], projection, bias), 0.2) * 2**0.5
        bias = embeddings.new_zeros(embeddings.shape[1])
        tensors |= {"mapping.embed.weight": embeddings.T, "mapping.embed.bias": bias}
    elif "mapping.embed.bias" in state:
        tensors |= _scaled(state, gains, "mapping.embed")
    tensors = fold_class(tensors, label)
    if (mean := state.get("mapping.w_avg")) is not None:
        tensors["w_avg"] = mean if mean.ndim == 1 or label is None else mean[label]
    return tensors


def _scaled(state: State, gains: Mapping[str, float], layer: str) -> dict[str, Tensor]:
    names = (f"{layer}.weight", f"{layer}.bias")
    return {name: state[name] * gains[f"{name}_gain"] for name in names}


def _layout(options: Options, names: list[str]) -> Layout:
    size = first_size = _whole_numbers(options["synthesis.input.size"])  # (W, H)
    rate = first_rate = _number(options["synthesis.input.sampling_rate"])
    layers: list[Resampling] = []
    for name in names:
        layer = f"synthesis.{name}"
        up, down = (int(_number(options[f"{layer}.{kind}_factor"])) for kind in ("up", "down"))
        rates = tuple(_number(options[f"{layer}.{kind}_sampling_rate"]) for kind in ("in", "out"))
        if rates != (rate, rate * up / down) or _whole_numbers(options[f"{layer}.in_size"]) != size:
            raise ValueError(f"layer {name} does not continue the layer before it: its sampling rates are {rates}")
        clamp = options[f"{layer}.conv_clamp"]
        padding = _whole_numbers(options[f"{layer}.padding"])
        layers.append(Resampling(name, up, down, padding, None if clamp is None else _number(clamp)))
        rate, size = rates[1], _whole_numbers(options[f"{layer}.out_size"])
    bandwidth, scale = (_number(options[f"synthesis.{name}"]) for name in ("input.bandwidth", "output_scale"))
    return Layout(first_size[::-1], first_rate, bandwidth, scale, tuple(layers))


def _array(value: Any) -> np.ndarray:
    return np.atleast_1d(to_array(value) if isinstance(value, InertObject) else np.asarray(value, np.float64))


def _number(value: Any) -> float:
    return float(_array(value).item())


def _whole_numbers(value: Any) -> tuple[int, ...]:
    numbers = _array(value)
    if (numbers != np.rint(numbers)).any():
        raise ValueError(f"its layers have sizes that are not whole numbers: {numbers.tolist()}")
    return tuple(int(n) for n in numbers)
