# SPDX-License-Identifier: Apache-2.0
"""Precision of a network: the dtype in which it computes, and settings that affect its pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..core.dtypes import DTYPES


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


def tf32_setting(device: torch.device) -> dict[str, bool]:
    """Return whether cuDNN may use TF32 ("tf32") if the device is a GPU."""
    if device.type != "cuda":
        return {}
    try:
        return {"tf32": torch.backends.cudnn.allow_tf32}
    except RuntimeError:  # torch refuses the older setting while the newer is in use
        conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
        return {"tf32": conv.fp32_precision == "tf32"}
