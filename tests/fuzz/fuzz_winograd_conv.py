# SPDX-License-Identifier: Apache-2.0
"""Random cases of `winograd_conv`, compared with direct convolutions."""

from __future__ import annotations

import drawing
import numpy as np
import truth
from check import Check
from drawing import Sizes
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view
from numpy.random import Generator

from stylefast.ops.winograd_conv import transforms, winograd_conv, winograd_weight


def run(rng: Generator, sizes: Sizes, backend: str, check: Check) -> None:
    n, c, h, w = (drawing.choose(rng, options) for options in sizes[:4])
    d, p = drawing.choose(rng, sizes.channels), drawing.choose(rng, (1, 2))
    dtype, slope = drawing.choose(rng, drawing.LAYER_DTYPES), drawing.choose(rng, (0.0, 0.2, 1.0))
    gain, clamp = drawing.choose(rng, (0.5, 2**0.5)), drawing.choose(rng, (np.inf, 10 ** rng.uniform(-5, 5)))
    shapes = {
        "x": (n, h, w, c),
        "style": (n, c),
        "weight": (p * p * d, c, 3, 3),
        "scale": (n, d),
        "bias": (d,),
        "noise": (p * h, p * w),
    }
    tensors = {name: drawing.layer_tensor(rng, dtype, *shape) for name, shape in shapes.items()}
    check.note(**tensors, p=p, slope=slope, gain=gain, clamp=clamp)
    x, style, weight, scale, bias, noise = (truth.exact(tensor) for tensor in tensors.values())
    transformed = drawing.any_layout(rng, winograd_weight(tensors.pop("weight"), p * p))
    out = winograd_conv(**tensors, weight=transformed, slope=slope, gain=gain, clamp=clamp, backend=backend)
    check.form("out", out, (n, p * h, p * w, d), dtype)
    modulated, scale, noise = x * style[:, None, None], scale[:, None, None], noise[:, :, None]
    want = _interleaved(_convolve(modulated, weight), p) * scale + bias + noise
    magnitude = _interleaved(_magnitude(modulated, weight), p) * np.abs(scale) + np.abs(bias) + np.abs(noise)
    want = np.clip(gain * np.where(want > 0, want, slope * want), -clamp, clamp)
    check.within("out", out, want, (c + 40) * truth.epsilon(dtype) * gain * magnitude)


def _convolve(x: ndarray, weight: ndarray) -> ndarray:
    """Convolve [N, H, W, C] with [D, C, 3, 3], with a border of zeros."""
    windows = sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), axis=(1, 2))
    return np.einsum("nyxcij,dcij->nyxd", windows, weight, optimize=True)


def _magnitude(x: ndarray, weight: ndarray) -> ndarray:
    """Return what Winograd's algorithm computes if nothing cancels, which bounds its rounding errors."""
    (n, h, w, _), bt, at, g = x.shape, *(np.abs(matrix.numpy()) for matrix in transforms())
    padded = np.pad(np.abs(x), ((0, 0), (1, -h % 4 + 1), (1, -w % 4 + 1), (0, 0)))
    tiles = sliding_window_view(padded, (6, 6), axis=(1, 2))[:, ::4, ::4]
    v = np.einsum("ri,nyxcij,sj->rsnyxc", bt, tiles, bt, optimize=True)
    u = np.einsum("ri,dcij,sj->rscd", g, np.abs(weight), g, optimize=True)
    m = np.einsum("rsnyxc,rscd->rsnyxd", v, u, optimize=True)
    y = np.einsum("ir,rsnyxd,js->nyixjd", at, m, at, optimize=True)
    return y.reshape(n, 4 * y.shape[1], 4 * y.shape[3], len(weight))[:, :h, :w]


def _interleaved(y: ndarray, p: int) -> ndarray:
    """Interleave phases: [N, H, W, p p D] -> [N, p H, p W, D]."""
    (n, h, w, _), d = y.shape, y.shape[3] // p**2
    return y.reshape(n, h, w, p, p, d).transpose(0, 1, 3, 2, 4, 5).reshape(n, p * h, p * w, d)
