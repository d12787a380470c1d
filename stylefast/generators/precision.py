# SPDX-License-Identifier: Apache-2.0
"""Precision of a network: the dtype in which it computes, and settings that affect its pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core.dtypes import DTYPES

SMALLEST = 1e-6  # divisor of weights and styles that are all zero


def network_dtype(network: nn.Module) -> torch.dtype:
    """Return the dtype of all floating-point parameters of a network, or float32 if they have several or none.

    A network with a few layers in float16 converts its tensors itself and takes latents in float32.
    """
    dtypes = _dtypes(network)
    return dtypes.pop() if len(dtypes) == 1 and dtypes <= {*DTYPES} else torch.float32


def _dtypes(network: nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}


@contextmanager
def refuse_failing_precision(network: nn.Module) -> Iterator[None]:
    """Run the network for the first time.

    Raises:
        ValueError: If its code fails and not all parameters are float32.
    """
    try:
        yield
    except (RuntimeError, TypeError, AssertionError) as error:
        dtypes = _dtypes(network)
        if dtypes <= {torch.float32} or isinstance(error, torch.OutOfMemoryError):
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
        names = " and ".join(sorted(map(str, dtypes)))
        raise ValueError(
            f"network must run in the dtype of its parameters, {names}, but its code fails ({reason}); "
            "convert it with network.float()"
        ) from error


def prenormalised(weight: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
    """Scale weights [O, I, k, k] and styles [N, I] so that products and sums stay in the range of float16.

    The largest weight per output channel becomes `1 / sqrt(I k^2)`, and the largest style per image becomes 1. The
    division by the norm in a modulated convolution removes both factors.
    """
    fan_in = weight[0].numel()
    weight = weight / (fan_in**0.5 * weight.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=SMALLEST))
    return weight, style / style.abs().amax(dim=1, keepdim=True).clamp(min=SMALLEST)


def settings(network: nn.Module, device: torch.device) -> dict[str, Any]:
    """Return the settings that affect the pixels.

    These are whether cuDNN may use TF32 ("tf32"), on a GPU, and the number of the highest resolutions in float16
    ("float16_resolutions"), if there are any.
    """
    resolutions = getattr(network, "float16_resolutions", 0)
    return tf32_setting(device) | ({"float16_resolutions": resolutions} if resolutions else {})


def tf32_setting(device: torch.device) -> dict[str, bool]:
    """Return whether cuDNN may use TF32 ("tf32") if the device is a GPU."""
    if device.type != "cuda":
        return {}
    try:
        return {"tf32": torch.backends.cudnn.allow_tf32}
    except RuntimeError:  # torch refuses the older setting while the newer is in use
        conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
        return {"tf32": conv.fp32_precision == "tf32"}
