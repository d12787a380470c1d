# SPDX-License-Identifier: Apache-2.0
"""Compiled synthesis. Hooks are registered before compilation and read the styles from buffers at fixed addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..core.private_torch import is_compiled
from .site_hooks import SiteHooks
from .sites import Site


def refuse_compiled(network: nn.Module) -> None:
    """Refuse networks with compiled modules, because compiled code ignores hooks that are registered later.

    Raises:
        ValueError: If a module of the network is compiled.
    """
    for name, module in network.named_modules():
        if is_compiled(module):
            raise ValueError(
                "the network must not be compiled, because compiled code ignores hooks: pass the original network and "
                f"call Generator.compile; the compiled module is {name or 'the network itself'}"
            )


class CompiledSynthesis:
    """Synthesis of batches of a fixed size from styles, under `torch.compile`.

    Styles and latents are copied into the same buffers on every call, so that nothing is compiled twice and a CUDA
    graph can be replayed. The hooks stay in the network; they do nothing unless this object runs it. A copy belongs to
    the copied network, whose hooks are copied too, and compiles at its first call.

    Args:
        site_hooks: All sites, each with its hooks.
        styles: Buffer of styles, [B, S].
        w: Buffer of latents, [B, D] or [B, rows, D].
        options: Arguments of `torch.compile`.
    """

    def __init__(
        self,
        site_hooks: Iterable[tuple[Site, SiteHooks]],
        styles: Tensor,
        w: Tensor,
        options: dict[str, Any],
    ) -> None:
        self._styles, self._w = styles, w
        self._options = options
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._active = False
        self._handles = [hooks.replace_scale(partial(self._scale, site)) for site, hooks in site_hooks]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_compiled": None}

    def compile(self, synthesis: Callable[[Tensor], Tensor]) -> None:
        """Compile the function from w to images, which runs the network."""
        self._compiled = torch.compile(synthesis, **self._options)

    def __call__(self, synthesis: Callable[[Tensor], Tensor], styles: Tensor, w: Tensor) -> Iterator[Tensor]:
        """Yield the output of synthesis for each batch of the styles [N, S] and w [N, ...].

        An output is valid until the next one is computed.
        """
        if self._compiled is None:
            self.compile(synthesis)
        assert self._compiled is not None
        size = len(self._styles)
        self._active = True
        try:
            for begin in range(0, len(styles), size):
                n = min(size, len(styles) - begin)
                for buffer, rows in ((self._styles, styles), (self._w, w)):
                    buffer[:n] = rows[begin : begin + n]
                    buffer[n:] = rows[begin]  # pads the last batch
                yield self._compiled(self._w)[:n]
        finally:
            self._active = False

    def _scale(self, site: Site) -> Tensor | None:
        return self._styles[:, site.slice] if self._active else None

    def remove(self) -> None:
        """Remove the hooks from the network."""
        for handle in self._handles:
            handle.remove()
