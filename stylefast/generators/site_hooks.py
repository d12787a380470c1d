# SPDX-License-Identifier: Apache-2.0
"""Forward hooks on the modules of a site. Rules and one probing forward pass find these modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..core.images import CHANNELS, MODES
from .sites import Kind, Rule, Scale, Site


@dataclass
class SiteHooks:
    """Modules of a site, and hooks on them.

    Args:
        rule: Rule that found the site.
        style: Module that computes the style.
        carrier: Module whose input or output is the tensor that the style scales.
        kind: Kind of the site.
        row: Row of w that is the only input of the style module, or None if the module takes anything else.
        margin: Pixels of the tensor beyond the frame on each side, (vertical, horizontal).
    """

    rule: Rule
    style: nn.Module
    carrier: nn.Module
    kind: Kind
    row: int | None = None
    margin: tuple[int, int] = (0, 0)

    def on_tensor(self, callback: Callable[[Tensor], None]) -> RemovableHandle:
        """Register a hook that passes the tensor that the style scales to `callback`, without its margin."""
        y, x = self.margin

        def read(module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> None:
            tensor = inputs[0] if self.rule.reads == "input" else output
            callback(tensor[:, :, y : tensor.shape[2] - y, x : tensor.shape[3] - x] if y or x else tensor)

        if self.rule.reads == "input":
            return self.carrier.register_forward_pre_hook(read)
        return self.carrier.register_forward_hook(read)

    def on_scale(self, callback: Callable[[Tensor], None]) -> RemovableHandle:
        """Register a hook that passes the scale from the style module to `callback`."""

        def read(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            callback(self.rule.scale.read(output))

        return self.style.register_forward_hook(read)

    def replace_scale(self, scale: Callable[[], Tensor | None]) -> RemovableHandle:
        """Register a hook that replaces the scale by the contents of `scale()` [N, C], unless it is None."""
        return self.style.register_forward_hook(partial(_replace_scale, self.rule.scale, scale))


def _replace_scale(
    part: Scale, scale: Callable[[], Tensor | None], module: nn.Module, inputs: tuple[Any, ...], output: Any
) -> Any:
    values = scale()
    if values is None:
        return None
    # Keep the module's layout and alignment: with another layout, a matrix product may round differently.
    return part.write(inputs, output, torch.empty_like(part.read(output)).copy_(values))


def replace_scales(site_hooks: Iterable[tuple[Site, SiteHooks]], styles: Tensor, stack: ExitStack) -> set[str]:
    """Register hooks that replace the scales of all sites by styles [N, S], until the stack is closed.

    Returns:
        Names of the sites whose scale has not been replaced yet. The set shrinks while the network runs.
    """
    unused = set[str]()

    def scale(site: Site) -> Tensor:
        unused.discard(site.name)
        return styles[:, site.slice]

    for site, hooks in site_hooks:
        unused.add(site.name)
        stack.callback(hooks.replace_scale(partial(scale, site)).remove)
    return unused


def match(network: nn.Module, rules: tuple[Rule, ...]) -> dict[str, SiteHooks]:
    """Find style modules and carriers by name.

    Returns:
        Hooks by site name, in the order of the rules and, per rule, in the order of the style modules in the network.

    Raises:
        ValueError: If no style module matches, a carrier does not exist, or two style modules have the same site name.
    """
    modules = dict(network.named_modules())
    site_hooks: dict[str, SiteHooks] = {}
    for rule in rules:
        matches = [matched for name in modules if (matched := re.fullmatch(rule.style, name))]
        for matched in matches:
            site, carrier = matched["site"], matched.expand(rule.carrier)
            if carrier not in modules or site in site_hooks:
                raise ValueError(
                    f"rule {rule.style!r} must give {matched[0]} a unique site and an existing carrier, got {carrier}"
                )
            kind = rule.last if rule.last and matched is matches[-1] else rule.kind
            site_hooks[site] = SiteHooks(rule, modules[matched[0]], modules[carrier], kind)
    if not site_hooks:
        raise ValueError(f"rules must match style modules, got none for {[rule.style for rule in rules]}")
    return site_hooks


def probe(
    site_hooks: dict[str, SiteHooks], synthesis: Callable[[Tensor], Tensor], w: Tensor
) -> tuple[list[Site], Tensor]:
    """Run synthesis once to find the sites, and set `SiteHooks.row` and `SiteHooks.margin`.

    Args:
        site_hooks: Hooks by site name, as `match` returns them.
        synthesis: Function from w to images.
        w: Latent, contiguous, [1, D] or [1, rows, D].

    Returns:
        Sites in forward order, and the image.

    Raises:
        ValueError: If synthesis does not give images with 1, 3 or 4 channels or does not use a site, the style and the
            tensor of a site differ in channels, a tensor or the image is empty, or a tensor is smaller than its margin.
    """
    widths: dict[str, int] = {}
    tensors: dict[str, tuple[str, torch.Size]] = {}
    latest: tuple[str, Tensor] | None = None

    def see_style(name: str, module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        hooks = site_hooks[name]
        widths[name] = hooks.rule.scale.read(output).shape[1]
        # Under autocast the module rounds differently than in a direct call outside of it.
        hooks.row = None if options or torch.is_autocast_enabled(w.device.type) else _find_row(w, inputs)

    def see_tensor(name: str, tensor: Tensor) -> None:
        nonlocal latest  # one tensor is enough, because sites that read the same tensor are consecutive
        if latest is None or latest[1] is not tensor:
            latest = name, tensor
        tensors[name] = latest[0], tensor.shape

    with ExitStack() as stack:
        for name, hooks in site_hooks.items():
            handle = hooks.style.register_forward_hook(partial(see_style, name), with_kwargs=True)
            stack.callback(handle.remove)
            stack.callback(hooks.on_tensor(partial(see_tensor, name)).remove)
        image = synthesis(w)
    if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[1] not in MODES or 0 in image.shape:
        got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"synthesis must give images [N, C, H, W] with {CHANNELS}, got {got}")
    sizes: dict[str, tuple[int, int]] = {}
    for name in tensors | dict.fromkeys(site_hooks):
        _, shape = tensors.get(name, (name, torch.Size()))
        if len(shape) != 4 or widths.get(name) != shape[1] or 0 in shape:
            raise ValueError(
                f"site {name}: a style of {widths.get(name)} channels cannot scale a tensor {tuple(shape)}"
            )
        sizes[name] = (shape[2], shape[3])
    _set_margins(site_hooks, sizes, (image.shape[2], image.shape[3]))
    sites: list[Site] = []
    for name, (height, width) in sizes.items():
        hooks, start = site_hooks[name], sites[-1].stop if sites else 0
        size = (height - 2 * hooks.margin[0], width - 2 * hooks.margin[1])
        sites.append(Site(name, widths[name], start, hooks.kind, tensors[name][0], size, hooks.rule.normalized))
    return sites, image


def _set_margins(
    site_hooks: dict[str, SiteHooks], sizes: dict[str, tuple[int, int]], image_size: tuple[int, int]
) -> None:
    """Set the margin of each site from the size of its tensor.

    Raises:
        ValueError: If a tensor is smaller than its margins, or than the image at its sampling rate.
    """
    rates = {name: rule.rate(hooks.carrier) for name, hooks in site_hooks.items() if (rule := hooks.rule).rate}
    for name, size in sizes.items():
        hooks = site_hooks[name]
        margin: int | tuple[int, int] | list[int] = hooks.rule.margin(hooks.carrier) if hooks.rule.margin else 0
        if name in rates:
            frame = [round(side * rates[name] / max(rates.values())) for side in image_size]
            margin = [(side - visible) // 2 for side, visible in zip(size, frame, strict=True)]
        y, x = map(int, np.broadcast_to(margin, 2))
        if not (0 <= 2 * y < size[0] and 0 <= 2 * x < size[1]):
            raise ValueError(
                f"site {name}: a tensor of {size[0]} x {size[1]} pixels cannot have margins of {y} and {x} pixels"
            )
        hooks.margin = (y, x)


def _find_row(w: Tensor, inputs: tuple[Any, ...]) -> int | None:
    """Return the index of the row of w that is the only input, or None if there is none."""
    rows = w if w.ndim == 3 else w[:, None]  # [1, rows, D]
    if len(inputs) == 1 and isinstance(inputs[0], Tensor):
        for i in range(rows.shape[1]):
            if inputs[0].data_ptr() == rows[:, i].data_ptr() and inputs[0].shape == rows[:, i].shape:
                return i
    return None
