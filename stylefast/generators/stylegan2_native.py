# SPDX-License-Identifier: Apache-2.0
"""Synthesis of StyleGAN2 with Winograd convolutions of the op table, from styles instead of w.

Tensors are [1, H, W, C]: images are computed one by one, so that an image does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.winograd_conv import winograd_conv, winograd_weight
from .modulated_conv import convolve, demodulation, energy, upsample

# Least numbers of input positions for which the Winograd form is the faster one. Its weights are larger.
MIN_POSITIONS = 8 * 8
MIN_POSITIONS_UP = 32 * 32
SLOPE = 0.2  # of the leaky ReLU


def native_synthesis(synthesis: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the synthesis of a network as a function of styles.

    Args:
        synthesis: Synthesis network of `StyleGAN2`. Its weights are copied, so that later changes have no effect.

    Returns:
        Function from styles [N, S], in the order of the generator's sites, and w, which it does not use, to images
        [N, C, H, W], which differ from those of the network by rounding errors.

    Raises:
        ValueError: If the network is not on the CPU, or has layers in float16.
    """
    device = synthesis.const.device
    if device.type != "cpu":
        raise ValueError(f"its fused ops run on the CPU, and the network is on {device}")
    if any(block.conv1.is_half for block in synthesis.children()):
        raise ValueError("it computes in float32, and the network has layers in float16")
    return _NativeSynthesis(synthesis)


class _NativeSynthesis:
    def __init__(self, synthesis: Any) -> None:
        height, width = synthesis.const.shape[1:]
        self._const: Tensor = synthesis.const.detach().permute(1, 2, 0).contiguous()[None]
        taps, blocks = synthesis.filter.clone(), list(synthesis.children())
        self._blocks: list[_Block] = [_Block(x, taps, height << i, width << i) for i, x in enumerate(blocks)]
        self._widths: list[int] = [width for block in self._blocks for width in block.style_widths]
        self._image_shape: tuple[int, ...] = len(blocks[-1].torgb.bias), *synthesis.image_size

    def __call__(self, styles: Tensor, w: Tensor) -> Tensor:
        images = styles.new_empty(len(styles), *self._image_shape)
        for row, image in zip(styles.split(1), images, strict=False):  # without rows, split gives one tensor
            image.copy_(self._image(row)[0])
        return images

    def _image(self, styles: Tensor) -> Tensor:
        sites, x, image = iter(styles.split(self._widths, dim=1)), self._const, None
        for block in self._blocks:
            x, image = block(x, image, sites)
        assert image is not None
        return image


class _Block:
    """Block of one resolution, as `stylegan2.Block` computes it."""

    def __init__(self, block: Any, taps: Tensor, height: int, width: int) -> None:
        self._taps = taps
        self._skip: Tensor | None = None if block.skip is None else block.skip.weight.detach().clone()
        self._gain: float = 1.0 if block.skip is None else 0.5**0.5
        self._layers: list[_Layer] = []
        if block.conv0 is not None:
            self._layers.append(_Layer(block.conv0, taps, 1.0, height // 2, width // 2))
        self._layers.append(_Layer(block.conv1, None, self._gain, height, width))
        self._torgb: _ToRGB | None = None if block.torgb is None else _ToRGB(block.torgb)
        sites = (block.conv0, block.conv1, block.torgb)
        self.style_widths: list[int] = [site.affine.out_features for site in sites if site is not None]

    def __call__(self, x: Tensor, image: Tensor | None, styles: Iterator[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Compute the block's output and the sum of the images, which may be its argument, changed in place."""
        shortcut = None
        if self._skip is not None:
            shortcut = upsample(F.conv2d(x.permute(0, 3, 1, 2), self._skip), self._taps).mul_(self._gain)
        for layer in self._layers:
            x = layer(x, next(styles))
        x = x if shortcut is None else x.add_(shortcut.permute(0, 2, 3, 1))
        image = None if image is None else upsample(image, self._taps)
        if self._torgb is not None:
            colours = self._torgb(x, next(styles))
            image = colours if image is None else image.add_(colours)
        return x, image


class _Layer:
    """Layer as `stylegan2.Layer` computes it, by the faster of two convolutions."""

    def __init__(self, layer: Any, taps: Tensor | None, gain: float, height: int, width: int) -> None:
        weight, up = layer.weight.detach(), 1 if taps is None else 2
        fits = weight.shape[-1] == 3 and (taps is None or len(taps) <= 4)
        self._is_winograd: bool = fits and height * width >= (MIN_POSITIONS if taps is None else MIN_POSITIONS_UP)
        if not self._is_winograd:
            self._weight: Tensor = weight.clone()
        elif taps is None:
            self._weight = winograd_weight(weight)
        else:
            self._weight = winograd_weight(phase_weights(weight, taps), 4).float()
        self._taps = taps
        self._energy: Tensor = energy(weight).contiguous()
        self._bias: Tensor = layer.bias.detach().clone()
        noise = torch.zeros(up * height, up * width, dtype=torch.float32, device="cpu")
        self._noise: Tensor = noise if layer.noise is None else layer.noise.clone()
        self._gain: float = gain * 2**0.5
        self._clamp: float = inf if layer.clamp is None else gain * layer.clamp

    def __call__(self, x: Tensor, style: Tensor) -> Tensor:
        """Compute the output from the input [1, H, W, C] and the style [1, C]."""
        scale = demodulation(style, self._energy)
        if self._is_winograd:
            tensors = x, style, self._weight, scale, self._bias, self._noise
            return winograd_conv(*tensors, slope=SLOPE, gain=self._gain, clamp=self._clamp)
        x = convolve((x * style).permute(0, 3, 1, 2).contiguous(), self._weight, self._taps)
        x = x.permute(0, 2, 3, 1).mul(scale).add_(self._noise.unsqueeze(2)).add_(self._bias)
        return F.leaky_relu_(x, SLOPE).mul_(self._gain).clamp_(-self._clamp, self._clamp).contiguous()


class _ToRGB:
    def __init__(self, torgb: Any) -> None:
        self._weight: Tensor = torgb.weight.detach().clone()
        self._bias: Tensor = torgb.bias.detach().clone()
        self._clamp: float = inf if torgb.clamp is None else torgb.clamp

    def __call__(self, x: Tensor, style: Tensor) -> Tensor:
        """Compute the image [1, colours, H, W] from the input [1, H, W, C] and the style [1, C]."""
        image = F.conv2d(x.permute(0, 3, 1, 2), self._weight * style[:, :, None, None], self._bias)
        return image.contiguous().clamp_(-self._clamp, self._clamp)


def phase_weights(weight: Tensor, taps: Tensor) -> Tensor:
    """Compute the 3x3 kernels of the phases of an up-sampling convolution.

    A transposed convolution of stride 2 with 3x3 weights W and a convolution with the filter 4 f are one transposed
    convolution with the 6x6 kernel `K = W * 4 f`. The output position (2 y + a, 2 x + b) of phase (a, b) depends on
    3 x 3 positions around (y, x)::

        V[a, b, o, i, j, k] = K[o, i, a + 4 - 2 j, b + 4 - 2 k]

    Args:
        weight: Weights W, [O, I, 3, 3].
        taps: Filter f, [2, 2] or [4, 4].

    Returns:
        Weights V of four convolutions with zero padding 1, [4 O, I, 3, 3], float64.
    """
    taps = F.pad(4 * taps.double(), (2 - len(taps) // 2,) * 4)
    unit = torch.eye(9, dtype=torch.float64, device=weight.device).view(9, 1, 3, 3)
    kernels = F.conv2d(unit, taps.flip(0, 1)[None, None], padding=3)[:, 0].flip(1, 2)  # [9, 6, 6]
    phases = torch.stack([kernels[:, 1 - a :: 2, 1 - b :: 2] for a in (0, 1) for b in (0, 1)])  # [4, 9, 3, 3]
    return torch.einsum("oiw,pwjk->poijk", weight.double().flatten(2), phases).flatten(0, 1)
