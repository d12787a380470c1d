# SPDX-License-Identifier: Apache-2.0
"""Modulated inverse Haar transform, the upsampling layer of MobileStyleGAN."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..core.checks import check_shape
from .layers import check_layer, random
from .op import BadCall, Cost, Op


def inverse_haar(x: Tensor, style: Tensor, *, backend: str | None = None) -> Tensor:
    """Multiply by a style, then do one inverse step of the two-dimensional Haar (db1) wavelet transform.

    The channels of x are C averages a, C vertical details v, C horizontal details h and C diagonal details d. With all
    of them multiplied by the style, a square of 2 x 2 output positions is::

        a + v + h + d    a + v - h - d
        a - v + h - d    a - v - h + d    (all divided by 2)

    Args:
        x: Input of shape [N, H, W, 4C], float32 or float64.
        style: Styles of shape [N, 4C].
        backend: Name of a backend, as in `stylefast.assign`. There is no "cuda" kernel.

    Returns:
        Contiguous output of shape [N, 2H, 2W, C].

    Raises:
        TypeError: If an argument is not a tensor, or has another dtype.
        ValueError: If a shape or a device is invalid.
        RuntimeError: If `backend` cannot run on this machine, on the device of the tensors, or has no such kernel.
    """
    check_layer(x, style=style)
    if x.shape[3] % 4:
        raise ValueError(f"x must have 4C channels, got {tuple(x.shape)}")
    check_shape("style", style, N=len(x), C=x.shape[3])
    return INVERSE_HAAR(backend, x, style)


def reference(x: Tensor, style: Tensor) -> Tensor:
    n, height, width, channels = x.shape
    scaled = (x * style[:, None, None]).reshape(n, height, width, 4, channels // 4)
    average, vertical, horizontal, diagonal = scaled.unbind(3)
    top = average + vertical + horizontal + diagonal, average + vertical - horizontal - diagonal
    bottom = average - vertical + horizontal - diagonal, average - vertical - horizontal + diagonal
    squares = torch.stack((torch.stack(top, 3), torch.stack(bottom, 3)), 2) / 2  # [N, H, 2, W, 2, C]
    return squares.reshape(n, 2 * height, 2 * width, channels // 4)


def fake(x: Tensor, style: Tensor) -> Tensor:
    n, height, width, channels = x.shape
    return x.new_empty((n, 2 * height, 2 * width, channels // 4))


def cost(x: Tensor, style: Tensor) -> Cost:
    """Count one read of x and of the style, and one write of the output, which is as large as x."""
    return Cost(2 * x.nbytes + style.nbytes, 4 * x.numel())


def samples() -> Iterator[tuple[str, dict[str, Any]]]:
    for n, h, w, c in ((3, 4, 5, 16), (1, 1, 1, 1), (2, 3, 7, 33), (2, 9, 4, 3), (0, 3, 3, 4), (2, 0, 3, 4)):
        yield f"{n}x{h}x{w}x{c}", _sample(n, h, w, c)
    yield "float64", _sample(2, 3, 5, 18, torch.float64)
    yield "threads", _sample(2, 40, 41, 20)
    wide = random(2, 6, 9, 48)
    yield "slice", {"x": wide[:, 1:5, ::2, 4:44], "style": random(2, 80)[:, ::2]}
    yield "planes", {"x": random(2, 24, 4, 6).permute(0, 2, 3, 1), "style": random(24, 2).t()}


def _sample(n: int, h: int, w: int, c: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    return {"x": random(n, h, w, 4 * c, dtype=dtype), "style": random(n, 4 * c, dtype=dtype)}


def errors() -> Iterator[BadCall]:
    x, style = torch.ones(2, 3, 3, 8), torch.ones(2, 8)
    yield BadCall((x[0], style), {}, ValueError, r"x must have shape \[N, H, W, C\]")
    yield BadCall((x.half(), style.half()), {}, TypeError, "x must be float32 or float64, got torch.float16")
    yield BadCall((x, style.double()), {}, TypeError, "style must be torch.float32 like x, got torch.float64")
    yield BadCall((x, style.to("meta")), {}, ValueError, "style must be on cpu")
    yield BadCall((x, style[:1]), {}, ValueError, r"style must have shape \[N, C\] with N = 2, C = 8, got \(1, 8\)")
    yield BadCall((x[..., :6], style[:, :6]), {}, ValueError, r"x must have 4C channels, got \(2, 3, 3, 6\)")


INVERSE_HAAR = Op(
    name="inverse_haar",
    schema="(Tensor x, Tensor style) -> Tensor",
    public=inverse_haar,
    reference=reference,
    fake=fake,
    cost=cost,
    samples=samples,
    errors=errors,
    backends=("cpu", "triton", "reference"),
)
