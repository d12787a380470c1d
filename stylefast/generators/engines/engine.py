# SPDX-License-Identifier: Apache-2.0
"""What an engine is, and the table of all engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..compiled import CompiledSynthesis
from ..precision import settings
from ..site_hooks import SiteHooks
from ..sites import Site
from . import native, openvino


class Engine(Protocol):
    """Synthesis of images from styles. The session of the network is open during every call, without gradients.

    A copy belongs to the copied network, and builds what cannot be copied at its first call.
    """

    def __call__(self, synthesis: Callable[[Tensor], Tensor], styles: Tensor, w: Tensor) -> Iterator[Tensor]:
        """Yield the network's output for consecutive rows of the styles [N, S] and w [N, ...].

        An output is valid until the next one is computed.
        """
        ...

    def remove(self) -> None:
        """Remove everything that the engine has added to the network."""
        ...


def default_batch_size(device: torch.device) -> int:
    """Return the batch size that is used without a measurement: 1 on a CPU, 4 on a GPU, whose launches take time."""
    return 1 if device.type == "cpu" else 4


@dataclass(frozen=True)
class Target:
    """What an engine is made for.

    Args:
        network: Module that holds mapping and synthesis.
        site_hooks: All sites, each with its hooks.
        w_shape: Shape of one latent.
        dtype: Dtype in which the network computes.
        device: Device of the network.
        batch_size: Images per batch of an engine that needs a fixed number. None is `default_batch_size`.
    """

    network: nn.Module
    site_hooks: list[tuple[Site, SiteHooks]]
    w_shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    batch_size: int | None = None

    @property
    def fixed_batch_size(self) -> int:
        """The batch size with the default filled in."""
        return self.batch_size or default_batch_size(self.device)

    @property
    def style_width(self) -> int:
        """Number of channels S of the styles."""
        return self.site_hooks[-1][0].stop


@dataclass(frozen=True)
class EngineKind:
    """Row of the table of engines.

    Args:
        make: Function that makes an engine.
        refusal: Function that returns the reason why the engine cannot run a network, or None.
        is_candidate: Function that returns whether "auto" tries the engine on a device.
    """

    make: Callable[[Target], Engine]
    refusal: Callable[[Target], str | None]
    is_candidate: Callable[[torch.device], bool]


@dataclass(frozen=True)
class EngineUse:
    """Engine that a generator uses.

    Args:
        name: Name of the engine.
        difference: Largest difference from the images of "eager" in a check, in image ranges. None if it was not
            measured.
        speedup: Time of "eager" divided by the time of the engine. None if it was not measured.
    """

    name: str = "eager"
    difference: float | None = 0.0
    speedup: float | None = 1.0

    def __str__(self) -> str:
        facts = []
        if self.name != "eager" and self.speedup is not None:
            facts.append(f"{self.speedup:.2f} times as fast as eager")
        if self.name != "eager" and self.difference is not None:
            facts.append(f"largest difference {self.difference:.1e} of the image range")
        return f"engine {self.name}: {', '.join(facts)}" if facts else f"engine {self.name}"


def make_compiled(target: Target, **options: Any) -> CompiledSynthesis:
    """Make the engine "compile" for batches of a fixed size, with options of `torch.compile`."""
    n = target.fixed_batch_size
    styles = torch.empty(n, target.style_width, dtype=target.dtype, device=target.device)
    w = torch.empty(n, *target.w_shape, dtype=target.dtype, device=target.device)
    return CompiledSynthesis(target.site_hooks, styles, w, options)


def _make_native(target: Target) -> Engine:
    return native.NativeSynthesis(target.network)


def _refuse_native(target: Target) -> str | None:
    return native.refusal(target.network, target.dtype)


def _make_openvino(target: Target) -> Engine:
    return openvino.OpenVINOSynthesis(target.network, target.site_hooks, target.w_shape)


def _refuse_openvino(target: Target) -> str | None:
    if "float16_resolutions" in settings(target.network, target.device):
        return "it computes in float32, and the network has layers in float16"
    return openvino.refusal(target.device, target.dtype)


ENGINES: dict[str, EngineKind] = {
    "native": EngineKind(_make_native, _refuse_native, lambda device: device.type == "cpu"),
    "compile": EngineKind(make_compiled, lambda target: None, lambda device: device.type != "cpu"),
    "openvino": EngineKind(_make_openvino, _refuse_openvino, lambda device: device.type == "cpu"),
}
NAMES: tuple[str, ...] = ("eager", *ENGINES, "auto")
