# SPDX-License-Identifier: Apache-2.0
"""Modulated convolution and up-sampling of StyleGAN2 (arXiv 1912.04958) in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import prenormalised


def modulated_conv(x: Tensor, style: Tensor, weight: Tensor, taps: Tensor | None = None) -> Tensor:
    """Convolve each image with its own weights, normalised to norm one per output channel.

    The weights are::

        W'[n, o, i, k] = W[o, i, k] s[n, i] / sqrt(sum_ik (W[o, i, k] s[n, i])^2 + 1e-8)

    Scaling the input by s and the output by the inverse norm is equivalent to scaling the weights, and takes one
    convolution for all images. Factors that cancel keep a float16 input in range.

    Args:
        x: Input, [N, I, H, W].
        style: Style s, [N, I].
        weight: Weights W, [O, I, k, k], with odd k.
        taps: Filter [f, f] that up-samples the result to twice the size, or None. f is even and at least `k - 1`.

    Returns:
        Output, [N, O, H, W], or [N, O, 2 H, 2 W] with a filter.
    """
    if x.dtype == torch.float16:
        weight, style = prenormalised(weight, style)
    scale = demodulation(style, energy(weight))
    x = convolve(x * style[:, :, None, None].to(x.dtype), weight.to(x.dtype), taps)
    return x.mul_(scale[:, :, None, None].to(x.dtype))


def energy(weight: Tensor) -> Tensor:
    """Return the sums over the kernels of the squares of weights [O, I, k, k]: [I, O]."""
    return weight.square().sum(dim=(2, 3)).T


def demodulation(style: Tensor, energy: Tensor) -> Tensor:
    """Return the inverse norm [N, O] of the weights of each image, from styles [N, I] and the energy [I, O]."""
    return (style.square() @ energy + 1e-8).rsqrt()


def convolve(x: Tensor, weight: Tensor, taps: Tensor | None) -> Tensor:
    """Convolve [N, I, H, W] with weights [O, I, k, k], and up-sample the result to twice the size with a filter."""
    if taps is None:
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    depthwise = (4 * taps).flip(0, 1).to(x.dtype).expand(x.shape[1], 1, *taps.shape)
    return F.conv2d(x, depthwise, padding=(len(taps) - weight.shape[-1] + 1) // 2, groups=x.shape[1])


def upsample(x: Tensor, taps: Tensor) -> Tensor:
    """Insert zeros between pixels and convolve with 4 times the filter: [N, C, H, W], [f, f] -> [N, C, 2 H, 2 W]."""
    depthwise = (4 * taps).to(x.dtype).expand(x.shape[1], 1, *taps.shape)
    return F.conv_transpose2d(x, depthwise, stride=2, padding=len(taps) // 2 - 1, groups=x.shape[1])
