# SPDX-License-Identifier: Apache-2.0
"""Files of relatives of rosinality's StyleGAN2: the same network under other names, and other networks."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping

from torch import Tensor

from .weight_maps import from_rosinality

# Regular expressions of names in BasicSR's `StyleGAN2Generator`, and what rosinality has in their place.
_BASICSR_NAMES = (
    (r"^style_mlp\.", "style."),
    (r"^constant_input\.weight$", "input.input"),
    (r"^style_(conv1|convs\.\d+)\.weight$", r"\1.noise.weight"),
    (r"^style_(conv1|convs\.\d+)\.", r"\1."),
    (r"\.modulated_conv\.", ".conv."),
    (r"^noises\.noise(\d+)$", r"noises.noise_\1"),
)
# Networks of which the converter has no implementation, by the name of a tensor that only they have.
_UNSUPPORTED = {
    "iwt.ll": "SWAGAN",
    "generator.convs.0.conv.weight": "DualStyleGAN",
    "style_conv1.bias": "GFPGAN's StyleGAN2GeneratorClean",
    "stylegan_decoder.style_conv1.weight": "GFPGAN",
}


def refuse_relatives(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError for a state dict of a network that looks like rosinality's but computes other images."""
    for tensor, name in _UNSUPPORTED.items():
        if tensor in state:
            raise ValueError(f"it holds a network of {name}, which the converter does not support; wrap its module")


def from_basicsr(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of `StyleGAN2` from BasicSR's `StyleGAN2Generator`, with its default filter (1, 3, 3, 1).

    Raises:
        KeyError: If a tensor is missing.

    Warns:
        UserWarning: Always, because the file of `StyleGAN2GeneratorBilinear` has the same tensors, and other images.
    """
    warnings.warn(
        "the file is read as one of BasicSR's StyleGAN2Generator; one of GFPGAN's StyleGAN2GeneratorBilinear has the "
        "same tensors, but gives other images: wrap its module instead",
        stacklevel=5,
    )
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, replacement in _BASICSR_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return from_rosinality(renamed)
