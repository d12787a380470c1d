# SPDX-License-Identifier: Apache-2.0
"""Modulated separable convolution with noise, bias and activation: one layer of MobileStyleGAN."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.checks import check_shape
from .layers import check_layer, random
from .op import BadCall, Cost, Op


def separable_conv(
    x: Tensor,
    style: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    bias: Tensor,
    noise: Tensor,
    *,
    above: int = 1,
    below: int = 1,
    slope: float = 0.2,
    backend: str | None = None,
) -> Tensor:
    """Compute a depthwise 3x3 and a pointwise convolution of the modulated input, then noise, bias and leaky ReLU.

    With `*` for the convolution of each channel with its 3x3 kernel (cross-correlation, as in torch), per image::

        out = leaky_relu(((style x) * depthwise) pointwise + bias + noise)

    A column of zeros is added on the left and on the right of x, and `above` and `below` rows of zeros above and below
    it. A horizontal strip of an image, which includes the rows of its neighbours, has 0 at its inner edges.

    Args:
        x: Input of shape [N, H, W, C], float32 or float64.
        style: Styles of shape [N, C].
        depthwise: Kernels of shape [C, 3, 3].
        pointwise: Weights of shape [C, D].
        bias: Biases of shape [D].
        noise: Noise of shape [H', W], the same for all images and channels, with `H' = H + above + below - 2`.
        above: Rows of zeros above x, 0 or 1.
        below: Rows of zeros below x, 0 or 1.
        slope: Slope of the leaky ReLU for negative values, in [0, 1].
        backend: Name of a backend, as in `stylefast.assign`. There is no "cuda" kernel.

    Returns:
        Contiguous output of shape [N, H', W, D].

    Raises:
        TypeError: If an argument is not a tensor, or has another dtype.
        ValueError: If a shape or a device is invalid, `above` or `below` is neither 0 nor 1, or `slope` is out
            of range.
        RuntimeError: If `backend` cannot run on this machine, on the device of the tensors, or has no such kernel.
    """
    check_layer(x, style=style, depthwise=depthwise, pointwise=pointwise, bias=bias, noise=noise)
    n, height, width, c = x.shape
    if 0 in x.shape[1:] or 0 in pointwise.shape:
        raise ValueError(f"x [N, H, W, C] must have H, W, C and D >= 1, got {tuple(x.shape)}")
    for name, rows in (("above", above), ("below", below)):
        if rows not in (0, 1):
            raise ValueError(f"{name} must be 0 or 1, got {rows}")
    if height + above + below < 3:
        raise ValueError(f"x must have at least {3 - above - below} rows for one row of output, got {height}")
    if not 0 <= slope <= 1:
        raise ValueError(f"slope must be in [0, 1], got {slope}")
    check_shape("style", style, N=n, C=c)
    if tuple(depthwise.shape) != (c, 3, 3):
        raise ValueError(f"depthwise must have shape [C, 3, 3] with C = {c}, got {tuple(depthwise.shape)}")
    check_shape("pointwise", pointwise, C=c, D=None)
    check_shape("bias", bias, D=pointwise.shape[1])
    check_shape("noise", noise, H=height + above + below - 2, W=width)
    return SEPARABLE_CONV(backend, x, style, depthwise, pointwise, bias, noise, above, below, slope)


def reference(*arguments: Any) -> Tensor:
    x, style, depthwise, pointwise, bias, noise, above, below, slope = arguments
    scaled = F.pad((x * style[:, None, None]).permute(0, 3, 1, 2), (1, 1, above, below))
    filtered = F.conv2d(scaled, depthwise.unsqueeze(1), groups=x.shape[3])  # [N, C, H', W]
    y = torch.einsum("nchw,cd->nhwd", filtered, pointwise) + bias + noise.unsqueeze(2)
    return F.leaky_relu(y, slope).contiguous()


def fake(
    x: Tensor, style: Tensor, depthwise: Tensor, pointwise: Tensor, bias: Tensor, noise: Tensor, *_: Any
) -> Tensor:
    return x.new_empty((x.shape[0], *noise.shape, pointwise.shape[1]))


def cost(x: Tensor, style: Tensor, depthwise: Tensor, pointwise: Tensor, bias: Tensor, noise: Tensor, *_: Any) -> Cost:
    """Count one read of all arguments and one write of the output; 9 C + C D multiplications and additions each."""
    c, d = pointwise.shape
    positions = len(x) * noise.numel()
    read = sum(tensor.nbytes for tensor in (x, style, depthwise, pointwise, bias, noise))
    return Cost(read + positions * d * x.itemsize, 2 * positions * c * (9 + d))


def samples() -> Iterator[tuple[str, dict[str, Any]]]:
    for n, h, w, c, d in (
        (2, 5, 7, 16, 20),
        (1, 1, 1, 1, 1),
        (2, 4, 4, 33, 12),
        (2, 13, 9, 8, 49),
        (0, 3, 3, 4, 4),
        (1, 5, 19, 70, 64),  # 95 positions, one less than a tile
        (1, 1, 97, 5, 3),
    ):
        yield f"{n}x{h}x{w}x{c}-{d}", _sample(n, h, w, c, d)
    for above, below in ((0, 0), (0, 1), (1, 0)):
        yield f"strip-{above}-{below}", _sample(2, 6, 11, 12, 17, above=above, below=below)
    yield "float64", _sample(2, 5, 6, 18, 10, dtype=torch.float64)
    yield "deep", _sample(2, 4, 4, 512, 40)
    relu = {**_sample(1, 5, 6, 9, 40), "slope": 0.0}
    relu["x"][0, 2, 3, 4] = torch.inf
    yield "infinite", relu
    yield "threads", _sample(2, 20, 21, 24, 40)
    base = _sample(2, 6, 9, 24, 16)
    yield "slice", {**base, "x": random(2, 8, 18, 40)[:, 1:7, ::2, 4:28], "noise": random(12, 9)[::2]}
    transposed = {name: base[name].mT.contiguous().mT for name in ("style", "depthwise", "pointwise", "noise")}
    yield "transposed", {**base, **transposed, "x": random(2, 24, 6, 9).permute(0, 2, 3, 1), "slope": 0.1}


def _sample(
    n: int,
    h: int,
    w: int,
    c: int,
    d: int,
    *,
    above: int = 1,
    below: int = 1,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    tensors = {
        "x": random(n, h, w, c, dtype=dtype),
        "style": random(n, c, dtype=dtype),
        "depthwise": random(c, 3, 3, dtype=dtype),
        "pointwise": random(c, d, dtype=dtype),
        "bias": random(d, dtype=dtype),
        "noise": random(h + above + below - 2, w, dtype=dtype),
    }
    return {**tensors, "above": above, "below": below, "slope": 0.2}


def errors() -> Iterator[BadCall]:
    args = tuple(_sample(2, 3, 4, 6, 5).values())[:6]
    x, style, depthwise, pointwise, bias, noise = args
    yield BadCall((x[0], *args[1:]), {}, ValueError, r"x must have shape \[N, H, W, C\]")
    yield BadCall((x.bfloat16(), *args[1:]), {}, TypeError, "x must be float32 or float64, got torch.bfloat16")
    yield BadCall((*args[:5], noise.double()), {}, TypeError, "noise must be torch.float32 like x, got torch.float64")
    yield BadCall((*args[:4], bias.to("meta"), noise), {}, ValueError, "bias must be on cpu")
    yield BadCall((x, style[:1], *args[2:]), {}, ValueError, r"style must have shape \[N, C\] with N = 2, C = 6")
    yield BadCall((x, style, depthwise[:, :2], *args[3:]), {}, ValueError, r"depthwise must have .* got \(6, 2, 3\)")
    yield BadCall((*args[:3], pointwise.t(), bias, noise), {}, ValueError, r"pointwise must have shape \[C, D\]")
    yield BadCall((*args[:4], bias[:4], noise), {}, ValueError, r"bias must have shape \[D\] with D = 5, got \(4,\)")
    yield BadCall((*args[:5], noise[:2]), {}, ValueError, r"noise must have shape \[H, W\] with H = 3, W = 4")
    yield BadCall(args, {"above": 2}, ValueError, "above must be 0 or 1, got 2")
    yield BadCall(args, {"below": -1}, ValueError, "below must be 0 or 1, got -1")
    yield BadCall((x[:, :2], *args[1:]), {"above": 0, "below": 0}, ValueError, "x must have at least 3 rows .* got 2")
    yield BadCall(args, {"slope": 1.5}, ValueError, r"slope must be in \[0, 1\], got 1.5")
    yield BadCall((x[:, :0], *args[1:]), {}, ValueError, r"must have H, W, C and D >= 1, got \(2, 0, 4, 6\)")


SEPARABLE_CONV = Op(
    name="separable_conv",
    schema=(
        "(Tensor x, Tensor style, Tensor depthwise, Tensor pointwise, Tensor bias, Tensor noise, "
        "int above, int below, float slope) -> Tensor"
    ),
    public=separable_conv,
    reference=reference,
    fake=fake,
    cost=cost,
    samples=samples,
    errors=errors,
    backends=("cpu", "triton", "reference"),
)
