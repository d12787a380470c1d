# SPDX-License-Identifier: Apache-2.0
"""Description of the networks of a code base, and the interface to which `wrap` reduces them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..sites import Rule


class Calls(NamedTuple):
    """Uniform interface to a network.

    Attributes:
        z_dim: Length of z.
        mapping: Function from z [N, z_dim] to w [N, rows, D].
        synthesis: Function from w to images.
        w_mean: Mean of w, or None if it is unknown.
    """

    z_dim: int
    mapping: Callable[[Tensor], Tensor]
    synthesis: Callable[[Tensor], Tensor]
    w_mean: Tensor | None = None


def always(network: Any) -> bool:
    """Return True."""
    return True


@dataclass(frozen=True)
class Family:
    """Networks of one architecture in one code base.

    Args:
        name: Name of the code base and, if it has several architectures, of the architecture.
        modules: Module names that identify the family. A module tree belongs to the first family for which it contains
            all names and `fits` is true.
        rules: Rules that find the sites.
        calls: Function from (network, label [1, classes], further arguments of the synthesis) to the interface of the
            network.
        classes: Attribute of the network that holds the number of classes; empty if there is none.
        label: Function from (network, label) to the label [1, classes], for networks that are not conditional on
            classes. None if they are.
        children: Child modules that produce the images, if the network also holds other modules.
        image_range: As in `Generator`.
        transform_row: As in `Generator`.
        fits: Condition on the network, for families that have the same module names as others.
        refusal: Reason why `wrap` refuses the network, with what to pass instead; empty if it is supported.
    """

    name: str
    modules: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    calls: Callable[[Any, Tensor, dict[str, Any]], Calls] | None = None
    classes: str = ""
    label: Callable[[Any, Any], Tensor] | None = None
    children: tuple[str, ...] = ()
    image_range: tuple[float, float] = (-1.0, 1.0)
    transform_row: int | None = None
    fits: Callable[[Any], bool] = always
    refusal: str = ""


def repeat_rows(function: Callable[[Tensor], Tensor], n_rows: int, z: Tensor) -> Tensor:
    """Return `function(z)` [N, D] for each of the rows, [N, rows, D]."""
    return function(z)[:, None].repeat(1, n_rows, 1)


def batch(label: Tensor, z: Tensor) -> Tensor | None:
    """Return the label for each row of z, or None for a network without classes."""
    return label.expand(len(z), -1) if label.shape[1] else None


def takes(network: nn.Module, argument: str) -> bool:
    """Return whether `network.forward` names this argument."""
    return argument in inspect.signature(network.forward).parameters


def passes_on_arguments(network: nn.Module) -> bool:
    """Return whether `network.forward` takes arguments of any name."""
    return any(x.kind is x.VAR_KEYWORD for x in inspect.signature(network.forward).parameters.values())


def sampling_rate(layer: Any) -> float:
    """Return the sampling rate of the input of a StyleGAN3 layer."""
    return float(layer.in_sampling_rate)


@contextmanager
def temporary_attributes(name: str, values: list[tuple[Any, Any]]) -> Iterator[None]:
    """Set an attribute of modules within a `with` block and restore it afterwards."""
    saved = [(module, getattr(module, name)) for module, _ in values]
    try:
        for module, value in values:
            setattr(module, name, value)
        yield
    finally:
        for module, value in saved:
            setattr(module, name, value)
