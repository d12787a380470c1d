# SPDX-License-Identifier: Apache-2.0
"""Forward hooks on the modules behind a site, and how rules and one probing forward pass find them."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .sites import Kind, Rule, Site


@dataclass
class SiteHooks:
    """The modules behind a site, its kind, and the row of w that is all its style takes (None: it takes more)."""

    rule: Rule
    style: nn.Module
    carrier: nn.Module
    kind: Kind
    row: int | None = None

    def on_tensor(self, call: Callable[[Tensor], None]) -> RemovableHandle:
        """Hook ``call`` on the tensor that the style scales, or on what of it lies in the frame."""
        margin = self.rule.margin(self.carrier)

        def read(module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> None:
            tensor = inputs[0] if self.rule.reads == "input" else output
            call(tensor[:, :, margin:-margin, margin:-margin] if margin else tensor)

        if self.rule.reads == "input":
            return self.carrier.register_forward_pre_hook(read)
        return self.carrier.register_forward_hook(read)

    def on_scale(self, call: Callable[[Tensor], None]) -> RemovableHandle:
        """Hook ``call`` on the scale that the style module gives."""

        def read(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            call(self.rule.scale.read(output))

        return self.style.register_forward_hook(read)

    def replace_scale(self, scale: Tensor, active: Callable[[], bool] = lambda: True) -> RemovableHandle:
        """Let the style module give what is in ``scale`` [N, C] instead of its own, whenever ``active``."""

        def replace(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
            if not active():
                return None
            # The module's own layout and alignment, because a matrix product may round differently in another.
            own = torch.empty_like(self.rule.scale.read(output))
            return self.rule.scale.write(inputs, output, own.copy_(scale))

        return self.style.register_forward_hook(replace)


def match(network: nn.Module, rules: tuple[Rule, ...]) -> dict[str, SiteHooks]:
    """Find style modules and carriers by name.

    Returns:
        Site name -> modules, in the network's order of definition.

    Raises:
        ValueError: no style module matches, a carrier does not exist, or two style modules claim one site.
    """
    modules = dict(network.named_modules())
    found: dict[str, SiteHooks] = {}
    for rule in rules:
        matches = [style for name in modules if (style := re.fullmatch(rule.style, name))]
        for style in matches:
            site, carrier = style["site"], style.expand(rule.carrier)
            if carrier not in modules or site in found:
                raise ValueError(f"rule {rule.style!r} gives {style[0]} no site of its own or no carrier: {carrier}")
            kind = rule.last if rule.last and style is matches[-1] else rule.kind
            found[site] = SiteHooks(rule, modules[style[0]], modules[carrier], kind)
    if not found:
        raise ValueError(f"rules must match style modules, got none for {[rule.style for rule in rules]}")
    return found


def probe(wires: dict[str, SiteHooks], synthesis: Callable[[Tensor], Tensor], w: Tensor) -> tuple[list[Site], Tensor]:
    """Run synthesis once and note for each site its width, its tensor and its row of w (into ``wires``).

    Args:
        wires: modules by site name, as ``match`` gives them.
        synthesis: w -> image.
        w: contiguous [1, D] or [1, rows, D].

    Returns:
        Sites in forward order, and the image.

    Raises:
        ValueError: a site did not take part, or its style and its tensor differ in channels.
    """
    widths: dict[str, int] = {}
    tensors: dict[str, tuple[str, torch.Size]] = {}
    latest: tuple[str, Tensor] | None = None

    def see_style(name: str, module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        widths[name] = wires[name].rule.scale.read(output).shape[1]
        # Called outside of autocast the module would round otherwise than within.
        wires[name].row = None if options or torch.is_autocast_enabled(w.device.type) else _row(w, inputs)

    def see_tensor(name: str, tensor: Tensor) -> None:
        nonlocal latest  # one tensor is enough to hold: sites that read the same follow one another
        if latest is None or latest[1] is not tensor:
            latest = name, tensor
        tensors[name] = latest[0], tensor.shape

    with ExitStack() as hooks:
        for name, wire in wires.items():
            see = partial(see_style, name)
            hooks.callback(wire.style.register_forward_hook(see, with_kwargs=True).remove)
            hooks.callback(wire.on_tensor(partial(see_tensor, name)).remove)
        image = synthesis(w)
    sites: list[Site] = []
    for name in tensors | dict.fromkeys(wires):
        key, shape = tensors.get(name, (name, torch.Size()))
        if len(shape) != 4 or widths.get(name) != shape[1]:
            raise ValueError(f"site {name}: a style of {widths.get(name)} channels cannot scale {tuple(shape)}")
        start = sites[-1].stop if sites else 0
        wire = wires[name]
        sites.append(Site(name, shape[1], start, wire.kind, key, (shape[2], shape[3]), wire.rule.normalized))
    return sites, image


def _row(w: Tensor, inputs: tuple[Any, ...]) -> int | None:
    rows = w if w.ndim == 3 else w[:, None]  # [1, rows, D]
    if len(inputs) == 1 and isinstance(inputs[0], Tensor):
        for i in range(rows.shape[1]):
            if inputs[0].data_ptr() == rows[:, i].data_ptr() and inputs[0].shape == rows[:, i].shape:
                return i
    return None
