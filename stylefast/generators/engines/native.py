# SPDX-License-Identifier: Apache-2.0
"""Engine "native": the layers of the network as fused ops of the op table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...core.dtypes import without_autocast


def refusal(network: nn.Module, dtype: torch.dtype) -> str | None:
    """Return the reason why the fused ops cannot run a network, or None."""
    if not hasattr(network, "native_synthesis"):
        return "its layers have no fused ops, which exist for random-face and converted StyleGAN2 only"
    if dtype != torch.float32:
        return f"it computes in float32, and the network is in {str(dtype).removeprefix('torch.')}"
    return None


class NativeSynthesis:
    """Synthesis by fused ops, whatever autocast. Weights are arranged at the first call; a copy arranges its own.

    Args:
        network: Network with a method `native_synthesis`, which returns a function from styles and w to images.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self._run: Callable[[Tensor, Tensor], Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_run": None}

    def __call__(self, synthesis: Callable[[Tensor], Tensor], styles: Tensor, w: Tensor) -> Iterator[Tensor]:
        """Yield the images of the styles [N, S]."""
        yield self._images(styles, w)

    def remove(self) -> None:
        """Free the arranged weights. The network has no hooks of this engine."""
        self._run = None

    @without_autocast
    def _images(self, styles: Tensor, w: Tensor) -> Tensor:
        if self._run is None:
            self._run = self._network.native_synthesis()
        assert self._run is not None
        return self._run(styles, w)
