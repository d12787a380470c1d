# SPDX-License-Identifier: Apache-2.0
"""Conversion of variables of NVlabs' TensorFlow networks to the tensors of `StyleGAN1` and `StyleGAN2`.

TensorFlow stores weights [in, out] and [k, k, in, out], with the input of a layer first. All layers multiply them by
gains. The gains are folded into the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .weight_maps import LEARNING_RATE, State, equalised, fold_class

STYLEGAN1 = "NVlabs stylegan (TensorFlow)"
STYLEGAN2 = "NVlabs stylegan2, stylegan2-ada (TensorFlow)"
FUSED_SIZE = 128  # side from which StyleGAN1 fuses up-sampling and convolution


def from_stylegan2(state: State, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Convert the variables of a StyleGAN2.

    Args:
        state: Variables by name: dlatent_avg, mapping/Dense0/weight, synthesis/4x4/Const/const, ...
        options: Options of the network.

    Returns:
        Tensors of `StyleGAN2`, for `select_class`.

    Raises:
        KeyError: If a variable is missing.
        ValueError: If a variable is unknown.
    """
    rest, kernel = dict(state), options.get("resample_kernel", [1, 3, 3, 1])
    tensors = _mapping(rest, options, gain=1.0) | {"synthesis.filter": _filter(kernel or [1, 1])}
    tensors["synthesis.const"] = rest.pop("synthesis/4x4/Const/const")[0]
    if (last := _last_output(rest)) is not None:
        rest |= {f"synthesis/{last}/ToRGB/{name}": x for name, x in _take(rest, "synthesis/ToRGB_lod0/").items()}
        for name in [name for name in rest if re.match(r"synthesis/ToRGB_lod\d+/", name)]:
            del rest[name]  # of lower resolutions, which are used only while the network grows
    names = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb", "Skip": "skip"}
    for size, kind in _layers(rest, tuple(names)):
        target = f"synthesis.b{size}.{names[kind]}."
        layer = _take(rest, f"synthesis/{size}x{size}/{kind}/")
        weight = equalised(_transposed(layer.pop("weight")))
        tensors[f"{target}weight"] = weight.flip(2, 3) if kind == "Conv0_up" else weight
        if kind != "Skip":
            tensors[f"{target}affine.weight"] = equalised(_transposed(layer.pop("mod_weight")))
            tensors[f"{target}affine.bias"] = layer.pop("mod_bias") + 1
            tensors[f"{target}bias"] = layer.pop("bias")
        if (strength := layer.pop("noise_strength", None)) is not None:
            number = 2 * size.bit_length() - 6 - (kind == "Conv0_up")
            tensors[f"{target}noise"] = rest.pop(f"synthesis/noise{number}")[0, 0] * strength
        rest |= {f"synthesis/{size}x{size}/{kind}/{name}": x for name, x in layer.items()}
    _check_all_used(rest)
    return tensors


def from_stylegan1(state: State, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Convert the variables of a StyleGAN1. Arguments and errors are those of `from_stylegan2`."""
    rest = dict(state)
    tensors = _mapping(rest, options, gain=0.5**0.5)
    if blur := options.get("blur_filter", [1, 2, 1]):
        tensors["synthesis.blur"] = _filter(blur)
    tensors["synthesis.const"] = rest.pop("synthesis/4x4/Const/const")[0]
    names = {"Const": "conv0", "Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1"}
    for size, kind in _layers(rest, tuple(names)):
        target = f"synthesis.b{size}.{names[kind]}."
        layer = _take(rest, f"synthesis/{size}x{size}/{kind}/")
        if kind != "Const":
            weight = equalised(_transposed(layer.pop("weight"))) * 2**0.5
            is_up, fused = kind == "Conv0_up", options.get("fused_scale", "auto")
            is_fused = size >= FUSED_SIZE if fused == "auto" else bool(fused)
            tensors[f"{target}weight"] = _up_weight(weight, is_fused) if is_up else weight
        tensors[f"{target}affine.weight"] = equalised(_transposed(layer.pop("StyleMod/weight")))
        tensors[f"{target}affine.bias"] = layer.pop("StyleMod/bias")
        tensors[f"{target}bias"] = layer.pop("bias")
        if (strength := layer.pop("Noise/weight", None)) is not None:
            number = 2 * size.bit_length() - 6 + (names[kind] == "conv1")
            tensors[f"{target}noise"] = rest.pop(f"synthesis/noise{number}")[0, 0]
            tensors[f"{target}noise_strength"] = strength
        rest |= {f"synthesis/{size}x{size}/{kind}/{name}": x for name, x in layer.items()}
    tensors["synthesis.torgb.weight"] = equalised(_transposed(rest.pop("synthesis/ToRGB_lod0/weight")))
    tensors["synthesis.torgb.bias"] = rest.pop("synthesis/ToRGB_lod0/bias")
    _check_all_used({name: x for name, x in rest.items() if not re.match(r"synthesis/ToRGB_lod\d+/", name)})
    return tensors


def _up_weight(weight: Tensor, is_fused: bool) -> Tensor:
    """Return the weights [O, I, k + 1, k + 1] of the transposed convolution with stride 2 that up-samples by 2.

    The original code convolves the pixels, each repeated 2 x 2 times, with the weights [O, I, k, k]. Its fused variant
    is a transposed convolution with the sum of four shifted copies of the weights, which corresponds to mirrored
    weights in the first variant.
    """
    weight = weight if is_fused else weight.flip(2, 3)
    ones = torch.ones(weight.shape[1], 1, 2, 2, dtype=weight.dtype, device="cpu")
    return F.conv2d(weight, ones, padding=1, groups=weight.shape[1])


def select_class(tensors: dict[str, Tensor], label: int | None) -> dict[str, Tensor]:
    """Select the class of a conditional network.

    Raises:
        ValueError: If the label is missing, unexpected or out of range.
    """
    labels = tensors.pop("mapping.labels", None)
    if labels is None:
        return fold_class(tensors, label)
    if label is None or not 0 <= label < len(labels):
        raise ValueError(f"class must be in [0, {len(labels)}), because the network is conditional, got {label}")
    return tensors | {"mapping.label": labels[label]}


def _mapping(rest: dict[str, Tensor], options: Mapping[str, Any], gain: float) -> dict[str, Tensor]:
    """Take the variables of the mapping and return its tensors.

    `MappingNetwork` computes `sqrt(2) leaky_relu(W x + b)`. StyleGAN1 computes `leaky_relu(sqrt(2) W x + b)`, so that
    its biases have the gain `1 / sqrt(2)`.
    """
    rate, tensors, depth = options.get("mapping_lrmul", LEARNING_RATE), {"w_avg": rest.pop("dlatent_avg")}, 0
    while f"mapping/Dense{depth}/weight" in rest:
        layer = _take(rest, f"mapping/Dense{depth}/")
        tensors[f"mapping.fc{depth}.weight"] = equalised(_transposed(layer["weight"])) * rate
        tensors[f"mapping.fc{depth}.bias"] = layer["bias"] * rate * gain
        depth += 1
    if embedding := _take(rest, "mapping/LabelEmbed/"):
        tensors["mapping.embed.weight"] = equalised(_transposed(embedding["weight"]))
        tensors["mapping.embed.bias"] = embedding["bias"]
    if table := _take(rest, "mapping/LabelConcat/"):
        tensors["mapping.labels"] = table["weight"]
    return tensors


def _take(rest: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove the variables with a prefix, and return them without it."""
    return {name.removeprefix(prefix): rest.pop(name) for name in list(rest) if name.startswith(prefix)}


def _layers(rest: Mapping[str, Tensor], kinds: tuple[str, ...]) -> list[tuple[int, str]]:
    """Return the side and the kind of every layer, such as (8, "Conv1") for synthesis/8x8/Conv1/..., in order."""
    pattern = rf"synthesis/(\d{{1,5}})x\1/({'|'.join(kinds)})/.+"
    found = {(int(match[1]), match[2]) for name in rest if (match := re.fullmatch(pattern, name))}
    return sorted(found)


def _last_output(rest: Mapping[str, Tensor]) -> str | None:
    """Return the last resolution, such as "8x8", of a network whose outputs are numbered from the last (ToRGB_lod0)."""
    if not any(name.startswith("synthesis/ToRGB_lod0/") for name in rest):
        return None
    sides = [int(match[1]) for name in rest if (match := re.match(r"synthesis/(\d{1,5})x\1/", name))]
    return f"{max(sides)}x{max(sides)}"


def _check_all_used(rest: Mapping[str, Tensor]) -> None:
    if rest:
        first = ", ".join(name[:80] for name in sorted(rest)[:3])
        raise ValueError(f"it has unknown variables, such as {first}")


def _transposed(weight: Tensor) -> Tensor:
    """Return weights [in, out] as [out, in], and [k, k, in, out] as [out, in, k, k]."""
    return weight.T if weight.ndim == 2 else weight.permute(3, 2, 0, 1)


def _filter(kernel: list[Any]) -> Tensor:
    """Return a filter [f] or [f, f] as [f, f], with the sum one."""
    taps = torch.tensor(kernel, dtype=torch.float32, device="cpu")
    taps = taps if taps.ndim == 2 else torch.outer(taps, taps)
    return taps / taps.sum()
