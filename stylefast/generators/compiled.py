# SPDX-License-Identifier: Apache-2.0
"""Compiled synthesis: its hooks exist before anything is compiled, and read styles from buffers that never move."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..core.private_torch import is_compiled
from .site_hooks import SiteHooks
from .sites import Site


def refuse_compiled(network: nn.Module) -> None:
    """Raises ValueError for a network with a compiled module, because compiled code ignores later hooks."""
    for name, module in network.named_modules():
        if is_compiled(module):
            raise ValueError(
                "the network must not be compiled by itself, as hooks would be ignored in silence: "
                f"give it as it was and call Generator.compile; compiled is {name or 'all of it'}"
            )


class CompiledSynthesis:
    """Synthesis of batches of one size from styles, under torch.compile.

    Styles and latents are copied into the same buffers every time, so that nothing is compiled twice and a CUDA graph
    can replay. The hooks stay in the network; they do nothing unless this object runs it.

    Args:
        site_hooks: all sites, each with its hooks.
        synthesis: w -> image.
        styles: [B, S], the buffer of styles.
        w: [B, D] or [B, rows, D], the buffer of latents.
        options: of torch.compile.
    """

    def __init__(
        self,
        site_hooks: Iterable[tuple[Site, SiteHooks]],
        synthesis: Callable[[Tensor], Tensor],
        styles: Tensor,
        w: Tensor,
        options: dict[str, Any],
    ) -> None:
        self._styles, self._w = styles, w
        self._active = False
        self._handles = [hooks.replace_scale(styles[:, site.slice], lambda: self._active) for site, hooks in site_hooks]
        self._synthesis = torch.compile(synthesis, **options)

    def __call__(self, styles: Tensor, w: Tensor) -> Iterator[Tensor]:
        """Outputs of synthesis for styles [N, S] at w [N, ...], batch by batch; each is valid until the next one."""
        size = len(self._styles)
        self._active = True
        try:
            for begin in range(0, len(styles), size):
                n = min(size, len(styles) - begin)
                for buffer, rows in ((self._styles, styles), (self._w, w)):
                    buffer[:n] = rows[begin : begin + n]
                    buffer[n:] = rows[begin]  # fills up the last batch
                yield self._synthesis(self._w)[:n]
        finally:
            self._active = False

    def remove(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()
