# SPDX-License-Identifier: Apache-2.0
"""Random cases of `separable_conv`."""

from __future__ import annotations

import drawing
import numpy as np
import truth
from check import Check
from drawing import Sizes
from numpy import ndarray
from numpy.random import Generator

from stylefast.ops.separable_conv import separable_conv


def run(rng: Generator, sizes: Sizes, backend: str, check: Check) -> None:
    n, c, h, w = (drawing.choose(rng, options) for options in sizes[:4])
    d, above, below = drawing.choose(rng, sizes.channels), *map(int, rng.integers(2, size=2))
    h = max(h, 3 - above - below)
    dtype, slope = drawing.choose(rng, drawing.LAYER_DTYPES), drawing.choose(rng, (0.0, 0.2, 1.0))
    rows = h + above + below - 2
    shapes = {
        "x": (n, h, w, c),
        "style": (n, c),
        "depthwise": (c, 3, 3),
        "pointwise": (c, d),
        "bias": (d,),
        "noise": (rows, w),
    }
    tensors = {name: drawing.layer_tensor(rng, dtype, *shape) for name, shape in shapes.items()}
    check.note(**tensors, above=above, below=below, slope=slope)
    out = separable_conv(**tensors, above=above, below=below, slope=slope, backend=backend)
    check.form("out", out, (n, rows, w, d), dtype)
    exact = [truth.exact(tensor) for tensor in tensors.values()]
    want, magnitude = (_layer(arrays, above, below) for arrays in (exact, [np.abs(array) for array in exact]))
    check.within("out", out, np.where(want > 0, want, slope * want), (c + 16) * truth.epsilon(dtype) * magnitude)


def _layer(arrays: list[ndarray], above: int, below: int) -> ndarray:
    """Return the layer without its activation, [N, H', W, D]."""
    x, style, depthwise, pointwise, bias, noise = arrays
    rows, width = noise.shape
    padded = np.pad(x * style[:, None, None], ((0, 0), (above, below), (1, 1), (0, 0)))
    filtered = np.zeros((len(x), rows, width, x.shape[3]))
    for i in range(3):
        for j in range(3):
            filtered += padded[:, i : i + rows, j : j + width] * depthwise[:, i, j]
    return filtered @ pointwise + bias + noise[:, :, None]
