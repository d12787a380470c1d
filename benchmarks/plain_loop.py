# SPDX-License-Identifier: Apache-2.0
"""Peer of the edits: a loop as scripts have it, which calls the module of the network once per edit."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from stylefast import StyleEditor
from stylefast.editing import Plan
from stylefast.generators import Generator

Styles = dict[nn.Module, Tensor]


class PlainLoop:
    """Loop over the edits of a plan without the package's synthesis, blending and output.

    Hooks on the style modules replace every style s by `s + q (r - s)`, with the style r of the reference. Pillow
    writes the images. The styles of the references and the queries are computed once, when the loop is created.
    """

    def __init__(self, generator: Generator, editor: StyleEditor, plan: Plan, folder: Path) -> None:
        network: Any = generator.network
        folder.mkdir()
        self._synthesis = network.synthesis
        self._plan, self._folder = plan, folder
        modules = {site: style_module(network, site.name) for site in editor.sites}
        self._references = [self._styles(list(modules.values()), plan.references.w(i)) for i in plan_references(plan)]
        queries = {edit.part: editor.query(edit.part, edit.query) for edit in plan}
        self._queries = {
            part: {module: query[site.slice] for site, module in modules.items()} for part, query in queries.items()
        }

    @torch.no_grad()
    def __call__(self) -> Path:
        """Write the images of all edits and return their folder."""
        for edit in self._plan:
            references, query = self._references[edit.reference], self._queries[edit.part]
            hooks = [m.register_forward_hook(partial(blended, query[m], style)) for m, style in references.items()]
            image = self._synthesis(self._plan.targets.w(edit.target))
            for hook in hooks:
                hook.remove()
            pixels = (image[0].permute(1, 2, 0) * 127.5 + 128).clamp(0, 255).to(torch.uint8)
            Image.fromarray(pixels.numpy()).save(self._folder / f"{self._plan.name(edit)}.png")
        return self._folder

    @torch.no_grad()
    def _styles(self, modules: list[nn.Module], w: Tensor) -> Styles:
        styles: Styles = {}
        hooks = [m.register_forward_hook(lambda m, inputs, style: styles.update({m: style})) for m in modules]
        self._synthesis(w)
        for hook in hooks:
            hook.remove()
        return styles


def blended(query: Tensor, reference: Tensor, module: nn.Module, inputs: tuple[Tensor, ...], style: Tensor) -> Tensor:
    """Return the style that the hook of a style module puts in the place of its output."""
    return style + query * (reference - style)


def style_module(network: nn.Module, site: str) -> nn.Module:
    """Return the module that computes the style of a site."""
    pattern = re.compile(rf"synthesis\.{re.escape(site)}\.(affine|modulation)")
    (module,) = (module for name, module in network.named_modules() if pattern.fullmatch(name))
    return module


def plan_references(plan: Plan) -> range:
    """Return the rows of the references of a plan."""
    return range(1 + max(edit.reference for edit in plan))
