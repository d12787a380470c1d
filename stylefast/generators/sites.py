# SPDX-License-Identifier: Apache-2.0
"""Sites of a StyleGAN, and rules that find them in a module tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Kind = Literal["conv", "rgb"]


@dataclass(frozen=True)
class Site:
    """A style together with the tensor whose channels it scales.

    Args:
        name: Name of the site, unique in its generator.
        channels: Number of channels C, which is the length of the style.
        start: First column of the style in the styles [N, S].
        kind: "conv", or "rgb" if the layer writes colours.
        tensor: Key of the tensor: the name of the first site that reads it. Sites with the same key share the work on
            their tensor.
        size: (H, W) of the tensor, without a margin beyond the frame (StyleGAN3).
        normalized: Whether the tensor is the output of an instance normalisation (StyleGAN1).
    """

    name: str
    channels: int
    start: int
    kind: Kind
    tensor: str
    size: tuple[int, int]
    normalized: bool

    @property
    def stop(self) -> int:
        """Column after the last column of the style."""
        return self.start + self.channels

    @property
    def slice(self) -> slice:
        """Columns of the style in the styles [N, S]."""
        return slice(self.start, self.stop)


def select_sites(sites: Iterable[Site], names: Iterable[str] | None) -> list[Site]:
    """Return the sites with the given names, in the order of the names. None selects all sites.

    Raises:
        ValueError: If a name is unknown.
    """
    by_name = {site.name: site for site in sites}
    names = by_name if names is None else list(names)
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise ValueError(f"sites must be among {', '.join(by_name)}, got {', '.join(map(str, unknown))}")
    return [by_name[name] for name in names]


@dataclass(frozen=True)
class Scale:
    """Part of a style module's output that is the scale.

    Args:
        read: Function from the output to the scale [N, C].
        write: Function from (inputs, output, scale [N, C]) to the output with that scale. Everything else in the output
            stays unchanged.
    """

    read: Callable[[Any], Tensor]
    write: Callable[[tuple[Any, ...], Any, Tensor], Any]


def _read_whole(output: Tensor) -> Tensor:
    return output


def _write_whole(inputs: tuple[Any, ...], output: Tensor, scale: Tensor) -> Tensor:
    return scale


def _read_first_half(output: Tensor) -> Tensor:
    return output.chunk(2, dim=1)[0]


def _write_first_half(inputs: tuple[Any, ...], output: Tensor, scale: Tensor) -> Tensor:
    return torch.cat((scale, output.chunk(2, dim=1)[1]), dim=1)


WHOLE = Scale(_read_whole, _write_whole)
FIRST_HALF = Scale(_read_first_half, _write_first_half)


@dataclass(frozen=True)
class Rule:
    """Rule that finds the sites of a family of networks by the names of their modules.

    Args:
        style: Regular expression that matches the full name of each style module. Its group "site" names the site.
        carrier: Name of the module whose input or output is the tensor that the style scales. It is a template that is
            expanded with the match of `style`.
        reads: Whether this tensor is the first "input" or the "output" of the carrier.
        scale: Part of the style module's output that is the scale.
        kind: Kind of all sites of the rule, "conv" or "rgb".
        last: Kind of the last style module that matches, if it is different.
        normalized: Whether the tensors are outputs of an instance normalisation.
        margin: Function from the carrier to the pixels of its tensor that lie beyond the frame: above and below, and at
            the left and at the right, (vertical, horizontal); or one number for all four sides.
        rate: Function from the carrier to the sampling rate of its tensor, in pixels per unit of length, if the margin
            follows from it (StyleGAN3). The image has the largest rate of all sites, so a tensor shows the image in
            `image size * rate / largest rate` pixels per axis, and the rest is margin.
    """

    style: str
    carrier: str
    reads: Literal["input", "output"] = "input"
    scale: Scale = WHOLE
    kind: Kind = "conv"
    last: Kind | None = None
    normalized: bool = False
    margin: Callable[[nn.Module], int | tuple[int, int]] | None = None
    rate: Callable[[nn.Module], float] | None = None
