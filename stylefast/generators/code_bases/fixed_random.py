# SPDX-License-Identifier: Apache-2.0
"""Random numbers that are the same in every run and for every image of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class FixedRandom(TorchFunctionMode):
    """Context in which `torch.rand` and `torch.rand_like` return the same numbers for every image and in every run.

    The first dimension of the requested tensors must run over the images, or over the images and anything within them.
    For one image, the numbers are those that `torch.manual_seed(0)` gives.

    Args:
        n_images: Number of images in the batch.
        device: Device of the images.
    """

    def __init__(self, n_images: int, device: torch.device) -> None:
        super().__init__()
        self._n_images = n_images
        self._generator = torch.Generator(device).manual_seed(0)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.rand_like:  # it draws in the order of the memory
            one = torch.empty_like(args[0][: len(args[0]) // self._n_images], **kwargs)
            return self._repeat(one.uniform_(generator=self._generator))
        if func is torch.rand:
            first, *rest = args[0] if isinstance(args[0], Sequence) else args
            return self._repeat(torch.rand(first // self._n_images, *rest, generator=self._generator, **kwargs))
        return func(*args, **kwargs)

    def _repeat(self, one: Tensor) -> Tensor:
        return one.repeat(self._n_images, *[1] * (one.ndim - 1))
