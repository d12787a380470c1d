# SPDX-License-Identifier: Apache-2.0
"""`winograd_conv` against torch's convolutions with the original weights."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from cells import bits
from torch import Tensor
from torch.nn import functional as F

from stylefast.ops.winograd_conv import WINOGRAD_CONV, winograd_conv, winograd_weight

BACKENDS = pytest.mark.parametrize("backend", WINOGRAD_CONV.backends)
FIR = torch.outer(torch.tensor([1.0, 3.0, 3.0, 1.0]), torch.tensor([1.0, 3.0, 3.0, 1.0])).double() / 16


class Layer(NamedTuple):
    """Arguments of a layer; `w` has the original weights [P D, C, 3, 3]."""

    x: Tensor
    style: Tensor
    w: Tensor
    scale: Tensor
    bias: Tensor
    noise: Tensor

    def run(self, backend: str | None = None, phases: int = 1) -> Tensor:
        x, style, w, *others = self
        return winograd_conv(x, style, winograd_weight(w, phases), *others, gain=2**0.5, clamp=5.0, backend=backend)

    def with_conv(self, convolved: Tensor) -> Tensor:
        """Complete the layer from the output [N, D, H, W] of a convolution of the modulated input."""
        y = convolved.permute(0, 2, 3, 1) * self.scale[:, None, None] + self.noise.unsqueeze(2) + self.bias
        return (2**0.5 * F.leaky_relu(y, 0.2)).clamp(-5, 5)

    def modulated(self) -> Tensor:
        return (self.x * self.style[:, None, None]).permute(0, 3, 1, 2)

    def to(self, dtype: torch.dtype) -> Layer:
        return Layer(*(tensor.to(dtype) for tensor in self))


def layer(n: int, h: int, w: int, c: int, d: int, phases: int = 1) -> Layer:
    rng, p = torch.Generator().manual_seed(h * w), math.isqrt(phases)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng).double()

    weights = normal(phases * d, c, 3, 3)
    return Layer(
        normal(n, h, w, c), normal(n, c), weights, 0.3 * normal(n, d).abs() / c**0.5, normal(d), normal(p * h, p * w)
    )


def upsampled(x: Tensor, w: Tensor) -> Tensor:
    """The up-sampling convolution of StyleGAN2 with weights [C, D, 3, 3]: [N, C, H, W] -> [N, D, 2H, 2W]."""
    transposed = F.conv_transpose2d(x, w, stride=2)
    return F.conv2d(transposed, FIR.to(x).expand(w.shape[1], 1, 4, 4), padding=1, groups=w.shape[1])


def phase_weights(w: Tensor) -> Tensor:
    """The same convolution as 3x3 convolutions per phase: [C, D, 3, 3] -> [4 D, C, 3, 3].

    Output n is the sum of `x[j] h[n - 1 - 2j]` with `h[s] = sum of fir[t] w[s + t]`, per dimension.
    """
    c, d = w.shape[:2]
    h = F.conv2d(F.pad(w, (3, 3, 3, 3)).reshape(-1, 1, 9, 9), FIR.to(w)[None, None]).reshape(c, d, 6, 6)
    taps = [[4, 2, 0], [5, 3, 1]]
    phases = [h[:, :, rows][..., columns] for rows in taps for columns in taps]
    return torch.stack(phases).permute(0, 2, 1, 3, 4).reshape(4 * d, c, 3, 3)


@BACKENDS
@pytest.mark.parametrize("h, w, c, d", [(9, 14, 20, 33), (4, 4, 64, 32), (1, 1, 3, 2), (2, 17, 8, 70)])
def test_equals_a_convolution(backend: str, h: int, w: int, c: int, d: int):
    wide = layer(2, h, w, c, d)
    truth = wide.with_conv(F.conv2d(wide.modulated(), wide.w, padding=1))
    torch.testing.assert_close(wide.run(backend), truth, rtol=1e-12, atol=1e-12)


@BACKENDS
@pytest.mark.parametrize("h, w, c, d", [(5, 6, 20, 33), (1, 1, 3, 2), (8, 4, 16, 32)])
def test_phases_equal_an_upsampling_convolution(backend: str, h: int, w: int, c: int, d: int):
    wide = layer(2, h, w, c, d, 4)
    up = wide.w[:d].transpose(0, 1)
    truth = wide.with_conv(upsampled(wide.modulated(), up))
    torch.testing.assert_close(wide._replace(w=phase_weights(up)).run(backend, 4), truth, rtol=1e-12, atol=1e-12)


@BACKENDS
def test_errors_are_below_three_times_those_of_a_convolution(backend: str):
    wide = layer(1, 32, 32, 256, 32)
    wide = wide._replace(style=torch.ones_like(wide.style)).to(torch.float32).to(torch.float64)
    truth = wide.with_conv(F.conv2d(wide.modulated(), wide.w, padding=1))
    narrow = wide.to(torch.float32)
    plain = narrow.with_conv(F.conv2d(narrow.modulated(), narrow.w, padding=1)).double() - truth
    error = narrow.run(backend).double() - truth
    assert 0 < error.square().mean().sqrt() < 3 * plain.square().mean().sqrt()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_reach_their_outputs_and_no_other_tile(value: float):
    finite = layer(1, 9, 10, 5, 3)
    weight, clear = winograd_weight(finite.w), torch.ones(9, 10, 3, dtype=torch.bool)
    for row in range(9):
        for column in range(10):
            x = finite.x.clone()
            x[0, row, column, 2] = value
            out = winograd_conv(x, finite.style, weight, *finite[3:])[0]
            reached, may_reach = clear.logical_not(), clear.logical_not()
            reached[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = True
            first, last = max(row - 1, 0) // 4 * 4, (row + 1) // 4 * 4 + 4
            may_reach[first:last, max(column - 1, 0) // 4 * 4 : (column + 1) // 4 * 4 + 4] = True
            assert not out[reached].isfinite().any() and out[~may_reach].isfinite().all(), (row, column)


def test_bits_depend_on_neither_threads_nor_the_batch():
    batch = layer(3, 24, 24, 64, 70).to(torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            alone = [
                batch._replace(x=batch.x[i : i + 1], style=batch.style[i : i + 1], scale=batch.scale[i : i + 1])
                for i in range(3)
            ]
            results += [batch.run("cpu"), torch.cat([one.run("cpu") for one in alone])]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(bits(results[0]), bits(other)) for other in results[1:])


@pytest.mark.parametrize("shape, phases", [((4, 3, 3, 2), 1), ((4, 3, 3), 1), ((4, 3, 3, 3), 2), ((6, 3, 3, 3), 4)])
def test_weights_of_a_wrong_shape_are_refused(shape: tuple[int, ...], phases: int):
    with pytest.raises(ValueError, match=rf"w must have shape \[P D, C, 3, 3\] with P = {phases}, got"):
        winograd_weight(torch.zeros(shape), phases)


def test_weights_are_rounded_once():
    w = layer(1, 1, 1, 7, 40).w.float()
    assert torch.equal(winograd_weight(w), winograd_weight(w.double()).float())
