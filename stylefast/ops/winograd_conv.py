# SPDX-License-Identifier: Apache-2.0
"""Modulated 3x3 convolution by Winograd's algorithm, with noise, bias and activation: the layer of StyleGAN2."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.checks import check_shape
from .layers import check_layer, random
from .op import BadCall, Cost, Op

COLUMNS = 32  # output channels per block of `winograd_weight`; `kColumns` in C++
NODES = (0.0, 0.75, -0.75, 1.5, -1.5)  # and infinity


def winograd_conv(
    x: Tensor,
    style: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    noise: Tensor,
    *,
    slope: float = 0.2,
    gain: float = 1.0,
    clamp: float = math.inf,
    backend: str | None = None,
) -> Tensor:
    """Compute a 3x3 convolution of the modulated input, then demodulation, noise, bias and leaky ReLU.

    With `*` for the convolution with a border of zeros (cross-correlation, as in torch), per image::

        out = clip(gain leaky_relu(scale ((style x) * w) + noise + bias), -clamp, clamp)

    With P = 4 phases, the convolution has 4 D output channels (row phase, column phase, channel), which are interleaved
    to an output of twice the size: an up-sampling convolution.

    The convolution is computed in tiles of 4 x 4 positions with 36 products each (Winograd's F(4x4, 3x3)) instead of
    144. In float32, rounding errors are about twice those of a direct convolution. NaN or Inf in the input makes all
    outputs of its tile NaN or, before the clipping, infinite. It can do the same in the tiles around it.

    Args:
        x: Input of shape [N, H, W, C], float32 or float64.
        style: Styles of shape [N, C].
        weight: Transformed weights of shape [P, B, 36, C, 32], from `winograd_weight`.
        scale: Demodulation of shape [N, D].
        bias: Biases of shape [D].
        noise: Noise of shape [sqrt(P) H, sqrt(P) W], the same for all images and channels.
        slope: Slope of the leaky ReLU for negative values, in [0, 1].
        gain: Factor of the activation, positive.
        clamp: Largest magnitude of the output, positive.
        backend: Name of a backend, as in `stylefast.assign`. There is no GPU kernel.

    Returns:
        Contiguous output of shape [N, sqrt(P) H, sqrt(P) W, D].

    Raises:
        TypeError: If an argument is not a tensor, or has another dtype.
        ValueError: If a shape, a device or a number is invalid.
        RuntimeError: If `backend` cannot run on this machine, on the device of the tensors, or has no such kernel.
    """
    check_layer(x, style=style, weight=weight, scale=scale, bias=bias, noise=noise)
    n, height, width, c = x.shape
    if 0 in x.shape[1:] or 0 in bias.shape:
        raise ValueError(f"x [N, H, W, C] must have H, W, C and D >= 1, got {tuple(x.shape)}")
    check_shape("style", style, N=n, C=c)
    check_shape("bias", bias, D=None)
    d = bias.shape[0]
    if weight.dim() != 5 or weight.shape[0] not in (1, 4) or weight.shape[1:] != _weight_shape(c, d):
        expected = f"[P, B, 36, C, 32] with P = 1 or 4, B = {-(-d // COLUMNS)}, C = {c}"
        raise ValueError(f"weight must have shape {expected}, got {tuple(weight.shape)}")
    check_shape("scale", scale, N=n, D=d)
    p = math.isqrt(weight.shape[0])
    check_shape("noise", noise, H=p * height, W=p * width)
    if not 0 <= slope <= 1:
        raise ValueError(f"slope must be in [0, 1], got {slope}")
    for name, number in (("gain", gain), ("clamp", clamp)):
        if not number > 0:
            raise ValueError(f"{name} must be > 0, got {number}")
    return WINOGRAD_CONV(backend, x, style, weight, scale, bias, noise, slope, gain, clamp)


def winograd_weight(w: Tensor, phases: int = 1) -> Tensor:
    """Transform the weights of a 3x3 convolution for `winograd_conv`.

    The transform is `G w G^T`, computed in float64. Output channels are divided into blocks of 32, padded with zeros.

    Args:
        w: Weights of shape [P D, C, 3, 3], float32 or float64, whose rows are (row phase, column phase, channel).
        phases: P, 1 or 4.

    Returns:
        Transformed weights of shape [P, B, 36, C, 32] with B = D / 32, rounded up. They take 4 times the memory of w.

    Raises:
        ValueError: If the shape of w or `phases` is invalid.
    """
    if w.dim() != 4 or w.shape[2:] != (3, 3) or phases not in (1, 4) or w.shape[0] % phases:
        raise ValueError(f"w must have shape [P D, C, 3, 3] with P = {phases}, got {tuple(w.shape)}")
    g = transforms()[2].to(w.device)
    u = torch.einsum("ri,dcij,sj->drsc", g, w.double(), g).to(w.dtype)
    c, d = w.shape[1], w.shape[0] // phases
    u = F.pad(u.reshape(phases, d, 36, c), (0, 0, 0, 0, 0, -d % COLUMNS))
    return u.reshape(phases, -1, COLUMNS, 36, c).permute(0, 1, 3, 4, 2).contiguous()


def _weight_shape(c: int, d: int) -> tuple[int, ...]:
    return -(-d // COLUMNS), 36, c, COLUMNS


@cache
def transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Return B^T [6, 6], A^T [4, 6] and G [6, 3] in float64: `conv(x, w) = A^T ((G w) (B^T x))` in one dimension.

    With nodes t, G evaluates w at t, divided by the product of the differences to the other nodes, and A^T multiplies
    by powers of t. Row t of B^T has the coefficients of the polynomial with the other nodes as zeros. The nodes 3/4 and
    3/2 cause half of the rounding errors of the usual nodes 1 and 2. Source: S. Winograd, "Arithmetic Complexity of
    Computations", 1980.
    """
    nodes = torch.tensor(NODES, dtype=torch.float64, device="cpu")
    powers = nodes[:, None] ** torch.arange(4, dtype=torch.float64, device="cpu")
    at = F.pad(powers.T, (0, 1))
    at[3, 5] = 1
    bt, g = at.new_zeros(6, 6), at.new_zeros(6, 3)
    for i in range(5):
        others = NODES[:i] + NODES[i + 1 :]
        bt[i, :5] = _polynomial(others)
        g[i] = powers[i, :3] / math.prod(NODES[i] - other for other in others)
    bt[5] = _polynomial(NODES)
    g[5, 2] = 1
    return bt, at, g


def _polynomial(zeros: tuple[float, ...]) -> Tensor:
    """Return the coefficients of the polynomial with leading coefficient 1 and these zeros, lowest power first."""
    result = torch.ones(1, dtype=torch.float64, device="cpu")
    for zero in zeros:
        result = F.pad(result, (1, 0)) - zero * F.pad(result, (0, 1))
    return result


def reference(*arguments: Any) -> Tensor:
    x, style, weight, scale, bias, noise, slope, gain, clamp = arguments
    (n, height, width, c), d, p = x.shape, bias.shape[0], math.isqrt(weight.shape[0])
    bt, at, _ = (matrix.to(x) for matrix in transforms())
    scaled = F.pad(x * style[:, None, None], (0, 0, 1, -width % 4 + 1, 1, -height % 4 + 1))
    tiles = scaled.unfold(1, 6, 4).unfold(2, 6, 4)  # [N, rows, columns, C, 6, 6]
    rows, columns = tiles.shape[1:3]
    v = torch.einsum("ri,nyxcij,sj->rsnyxc", bt, tiles, bt).reshape(36, -1, c)
    u = weight.permute(2, 3, 0, 1, 4).reshape(36, c, p * p, -1)[..., :d]
    m = (v @ u.reshape(36, c, -1)).reshape(6, 6, n, rows, columns, p, p, d)
    y = torch.einsum("ir,rsnyxpqd,js->nyipxjqd", at, m, at).reshape(n, 4 * p * rows, 4 * p * columns, d)
    y = y[:, : p * height, : p * width] * scale[:, None, None] + noise.unsqueeze(2) + bias
    return (gain * F.leaky_relu(y, slope)).clamp(-clamp, clamp).contiguous()


def fake(x: Tensor, style: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, noise: Tensor, *_: Any) -> Tensor:
    return x.new_empty((x.shape[0], *noise.shape, bias.shape[0]))


def cost(x: Tensor, style: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, noise: Tensor, *_: Any) -> Cost:
    """Count one read of all arguments and one write of the output; 36 C D multiplications and additions per tile."""
    n, height, width, c = x.shape
    read = sum(tensor.nbytes for tensor in (x, style, weight, scale, bias, noise))
    tiles = n * -(-height // 4) * -(-width // 4)
    return Cost(read + n * noise.numel() * len(bias) * x.itemsize, 72 * tiles * weight.shape[0] * c * len(bias))


def samples() -> Iterator[tuple[str, dict[str, Any]]]:
    for n, h, w, c, d, phases in (
        (2, 5, 7, 16, 20, 1),
        (1, 1, 1, 1, 1, 1),
        (2, 4, 4, 33, 12, 4),
        (1, 9, 13, 8, 49, 1),
        (0, 3, 3, 4, 4, 1),
        (1, 3, 6, 5, 3, 4),
        (1, 41, 33, 7, 35, 1),  # 99 tiles: several runs
    ):
        yield f"{n}x{h}x{w}x{c}-{phases}x{d}", _sample(n, h, w, c, d, phases)
    yield "float64", _sample(2, 5, 6, 18, 10, dtype=torch.float64)
    yield "deep", _sample(2, 4, 4, 512, 40)
    yield "clamp", {**_sample(1, 8, 8, 16, 33, 4), "slope": 0.0, "gain": 2**0.5, "clamp": 0.7}
    yield "threads", _sample(2, 20, 21, 24, 40, 4)
    base = _sample(2, 6, 9, 24, 16)
    yield "slice", {**base, "x": random(2, 8, 18, 40)[:, 1:7, ::2, 4:28], "noise": random(12, 9)[::2]}
    transposed = {name: base[name].mT.contiguous().mT for name in ("style", "scale", "noise", "weight")}
    yield "transposed", {**base, **transposed, "x": random(2, 24, 6, 9).permute(0, 2, 3, 1), "slope": 0.1}


def _sample(
    n: int, h: int, w: int, c: int, d: int, phases: int = 1, *, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    p = math.isqrt(phases)
    tensors = {
        "x": random(n, h, w, c, dtype=dtype),
        "style": random(n, c, dtype=dtype),
        "weight": winograd_weight(random(phases * d, c, 3, 3, dtype=dtype), phases),
        "scale": random(n, d, dtype=dtype) / (3 * c**0.5),
        "bias": random(d, dtype=dtype),
        "noise": random(p * h, p * w, dtype=dtype),
    }
    return {**tensors, "slope": 0.2, "gain": 1.0, "clamp": math.inf}


def errors() -> Iterator[BadCall]:
    args = tuple(_sample(2, 3, 4, 6, 5).values())[:6]
    x, style, weight, scale, bias, noise = args
    yield BadCall((x[0], *args[1:]), {}, ValueError, r"x must have shape \[N, H, W, C\]")
    yield BadCall((x.bfloat16(), *args[1:]), {}, TypeError, "x must be float32 or float64, got torch.bfloat16")
    yield BadCall((*args[:5], noise.double()), {}, TypeError, "noise must be torch.float32 like x, got torch.float64")
    yield BadCall((*args[:4], bias.to("meta"), noise), {}, ValueError, "bias must be on cpu")
    yield BadCall((x, style[:1], *args[2:]), {}, ValueError, r"style must have shape \[N, C\] with N = 2, C = 6")
    yield BadCall((x, style, weight[0], *args[3:]), {}, ValueError, r"weight must have shape .* got \(1, 36, 6, 32\)")
    yield BadCall((x, style, weight[:0], *args[3:]), {}, ValueError, "weight must have shape .* with P = 1 or 4, B = 1")
    yield BadCall((x, style, weight[..., :5], *args[3:]), {}, ValueError, r"got \(1, 1, 36, 6, 5\)")
    yield BadCall((*args[:3], scale.t(), bias, noise), {}, ValueError, r"scale must have shape \[N, D\] with N = 2, D")
    yield BadCall((*args[:4], bias[:0], noise), {}, ValueError, r"must have H, W, C and D >= 1, got \(2, 3, 4, 6\)")
    yield BadCall((*args[:5], noise[:2]), {}, ValueError, r"noise must have shape \[H, W\] with H = 3, W = 4")
    yield BadCall(args, {"slope": 1.5}, ValueError, r"slope must be in \[0, 1\], got 1.5")
    yield BadCall(args, {"gain": 0.0}, ValueError, "gain must be > 0, got 0.0")
    yield BadCall(args, {"clamp": math.nan}, ValueError, "clamp must be > 0, got nan")
    yield BadCall((x[:, :0], *args[1:]), {}, ValueError, r"must have H, W, C and D >= 1, got \(2, 0, 4, 6\)")


WINOGRAD_CONV = Op(
    name="winograd_conv",
    schema=(
        "(Tensor x, Tensor style, Tensor weight, Tensor scale, Tensor bias, Tensor noise, "
        "float slope, float gain, float clamp) -> Tensor"
    ),
    public=winograd_conv,
    reference=reference,
    fake=fake,
    cost=cost,
    samples=samples,
    errors=errors,
    backends=("cpu", "reference"),
)
