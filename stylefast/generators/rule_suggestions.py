# SPDX-License-Identifier: Apache-2.0
"""Description of an unknown network: modules that look like style modules, and rules for them to start from."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor, nn

from .code_bases import FAMILIES

GUIDE = 'the section "Describe another network" of docs/guides/your_generator.md'
MAX_RULES = 12
RGB_CHANNELS = 4  # layers with at most this number of output channels write colours


@dataclass
class Suggestion:
    """A rule for modules that look like style modules.

    Args:
        style: Regular expression of their names.
        carrier: Template of the name of the module that reads the tensor.
        is_double: Whether the outputs are twice the channels: probably scales, then biases.
        names: Names of the modules.
        write_colours: Whether the convolution of each module writes colours.
    """

    style: str
    carrier: str
    is_double: bool
    names: list[str] = field(default_factory=list)
    write_colours: list[bool] = field(default_factory=list)

    def __str__(self) -> str:
        *others, last = self.write_colours
        kind = "" if not last else ', kind="rgb"' if all(others) else "" if any(others) else ', last="rgb"'
        scale = ', scale=FIRST_HALF, reads="output"' if self.is_double else ""
        more = " ..." if len(self.names) > 1 else ""
        return f'Rule(r"{self.style}", r"{self.carrier}"{scale}{kind}),  # {len(self.names)}: {self.names[0]}{more}'


def describe_unknown(module: nn.Module) -> str:
    """Return an error message: the known code bases, the style-like modules of a network, and rules for them."""
    children = ", ".join(name for name, _ in module.named_children()) or "none"
    known = [family for family in FAMILIES if not family.refusal]
    families = "".join(f"\n  {family.name}: {', '.join(family.modules)}" for family in known)
    message = (
        f"module must be a generator of a known code base, got {type(module).__name__} (children: {children}); "
        f"searched it and its submodules for the modules of{families}\n"
    )
    suggestions = suggest_rules(module)
    if not suggestions:
        return f"{message}It has no modules that look like style modules. To describe a network, see {GUIDE}."
    helpers = "FIRST_HALF, " if any(suggestion.is_double for suggestion in suggestions) else ""
    rules = "".join(f"\n    {suggestion}" for suggestion in suggestions[:MAX_RULES])
    return (
        f"{message}The following rules match its modules that look like style modules, which are linear and as wide as "
        f"the input of a convolution beside them. Correct the rules, and see {GUIDE}:\n"
        f"from stylefast.generators import {helpers}Generator, Rule\nrules = [{rules}\n]\n"
        "generator = Generator(module, rules, name=..., z_dim=..., mapping=..., synthesis=...)"
    )


def suggest_rules(network: nn.Module) -> list[Suggestion]:
    """Return rules for the linear modules whose outputs fit a convolution beside them.

    Only modules with the most common number of inputs count, because style modules all read rows of w.
    """
    suggestions: dict[tuple[int, str], Suggestion] = {}
    modules = dict(network.named_modules())
    for name, module in modules.items():
        weight = _linear_weight(module)
        if weight is None or not name:
            continue
        parts = name.split(".")
        siblings = [child for child in modules[".".join(parts[:-1])].children() if _linear_weight(child) is not None]
        n_levels = 2 if len(siblings) == 1 else 1  # several linear modules without a convolution are a mapping
        for n in range(len(parts) - 1, max(-1, len(parts) - 1 - n_levels), -1):  # the parent, then its parent
            parent = ".".join(parts[:n])
            found = _carrier(modules[parent], ".".join(parts[n:]), len(weight))
            if found is not None:
                carrier, inputs, outputs = found
                style, template = _patterns(parent, ".".join(parts[n:]), carrier)
                suggestion = Suggestion(style, template, len(weight) != inputs)
                suggestion = suggestions.setdefault((weight.shape[1], style), suggestion)
                suggestion.names.append(name)
                suggestion.write_colours.append(outputs <= RGB_CHANNELS)
                break
    counts = Counter[int]()
    for (n_inputs, _), suggestion in suggestions.items():
        counts[n_inputs] += len(suggestion.names)
    (n_inputs, _), *_ = counts.most_common(1) or [(0, 0)]
    return [suggestion for (n, _), suggestion in suggestions.items() if n == n_inputs]


def _linear_weight(module: nn.Module) -> Tensor | None:
    """Return the weight of a linear module, [outputs, inputs], or None for another module."""
    weight = getattr(module, "weight", None)
    is_linear = isinstance(weight, Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding)
    return weight if is_linear else None


def _carrier(parent: nn.Module, leaf: str, width: int) -> tuple[str, int, int] | None:
    """Return name, input and output channels of the convolution in a module that a style of this width may scale.

    The name is empty if the module itself is the convolution.
    """
    fitting: list[tuple[str, int, int]] = []
    for name, module in (("", parent), *parent.named_children()):
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim >= 4 and weight.shape[-1] % 2:  # an even size is a constant input
            outputs, inputs = weight.shape[-4:-2]
            if width in (inputs, 2 * inputs, 2 * outputs):
                fitting.append((name, int(inputs), int(outputs)))
    number = re.search(r"\d+", leaf)
    same = [found for found in fitting if number and re.search(r"\d+", found[0]) and number[0] in found[0]]
    exact = [found for found in same or fitting if found[1] == width]
    return next(iter(exact or same or fitting), None)


def _patterns(parent: str, leaf: str, carrier: str) -> tuple[str, str]:
    """Return the regular expression of a style module, and the template of the convolution, which is in `parent`.

    Numbers in the name of the parent become patterns.
    """
    pattern = re.sub(r"\d+", r"\\d+", parent.replace(".", r"\."))
    leaf = leaf.replace(".", r"\.")
    if not parent:
        return f"(?P<site>{leaf})", carrier
    if not carrier:
        return rf"(?P<site>{pattern})\.{leaf}", r"\g<site>"
    return rf"(?P<site>(?P<block>{pattern})\.{leaf})", rf"\g<block>.{carrier}"
