# SPDX-License-Identifier: Apache-2.0
"""Sites of a StyleGAN, and rules that find them in a module tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Kind = Literal["conv", "rgb"]


@dataclass(frozen=True)
class Site:
    """A style vector together with the tensor whose channel c it scales.

    Args:
        name: the site's name, unique in its generator.
        channels: C, length of the style vector and channels of the tensor.
        start: first column of the style vector in flat styles [N, S].
        kind: "conv", or "rgb" where the layer writes colours.
        tensor: key of the tensor, the name of the first site that reads it; sites with one key share their work.
        size: (H, W) of the tensor, without a margin beyond the frame (StyleGAN3).
        normalized: True where the tensor comes out of an instance normalisation (StyleGAN1).
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
        """The column after the style vector's last."""
        return self.start + self.channels

    @property
    def slice(self) -> slice:
        """The style vector's columns in flat styles [N, S]."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Scale:
    """Which part of a style module's output is the scale.

    Args:
        read: output -> scale [N, C].
        write: (inputs, output, scale [N, C]) -> the output with that scale and all else as it was.
    """

    read: Callable[[Any], Tensor]
    write: Callable[[tuple[Any, ...], Any, Tensor], Any]


WHOLE = Scale(read=lambda output: output, write=lambda inputs, output, scale: scale)


FIRST_HALF = Scale(
    read=lambda output: output.chunk(2, dim=1)[0],
    write=lambda inputs, output, scale: torch.cat((scale, output.chunk(2, dim=1)[1]), dim=1),
)


@dataclass(frozen=True)
class Rule:
    """How a family of networks names its sites.

    Args:
        style: regular expression that matches the whole name of each style module; its group "site" names the site.
        carrier: template over that match: the module that takes or gives the tensor which the style scales.
        reads: which of the two, the carrier's first "input" or its "output".
        scale: which part of the style module's output is the scale.
        kind: "conv" or "rgb", for all sites of the rule.
        last: the kind of the last style module that matches, where it is another.
        normalized: True where the tensors come out of an instance normalisation.
        margin: carrier -> pixels on each side of its tensor that lie beyond the frame (StyleGAN3).
    """

    style: str
    carrier: str
    reads: Literal["input", "output"] = "input"
    scale: Scale = WHOLE
    kind: Kind = "conv"
    last: Kind | None = None
    normalized: bool = False
    margin: Callable[[nn.Module], int] = lambda carrier: 0
