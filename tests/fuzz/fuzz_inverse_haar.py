# SPDX-License-Identifier: Apache-2.0
"""Random cases of `inverse_haar`."""

from __future__ import annotations

import drawing
import numpy as np
import truth
from check import Check
from drawing import Sizes
from numpy.random import Generator

from stylefast.ops.inverse_haar import inverse_haar

SIGNS = np.array([[[1, 1, 1, 1], [1, 1, -1, -1]], [[1, -1, 1, -1], [1, -1, -1, 1]]]) / 2  # [2, 2, 4]


def run(rng: Generator, sizes: Sizes, backend: str, check: Check) -> None:
    n, c, h, w = (drawing.choose(rng, options) for options in sizes[:4])
    dtype = drawing.choose(rng, drawing.LAYER_DTYPES)
    x, style = drawing.layer_tensor(rng, dtype, n, h, w, 4 * c), drawing.layer_tensor(rng, dtype, n, 4 * c)
    check.note(x=x, style=style)
    out = inverse_haar(x, style, backend=backend)
    check.form("out", out, (n, 2 * h, 2 * w, c), dtype)
    scaled = (truth.exact(x) * truth.exact(style)[:, None, None]).reshape(n, h, w, 4, c)
    shape = n, 2 * h, 2 * w, c
    want = np.einsum("nhwic,yxi->nhywxc", scaled, SIGNS).reshape(shape)
    magnitude = np.einsum("nhwic,yxi->nhywxc", np.abs(scaled), np.abs(SIGNS)).reshape(shape)
    check.within("out", out, want, 5 * truth.epsilon(dtype) * magnitude)
