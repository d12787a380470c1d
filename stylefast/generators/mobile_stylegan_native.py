# SPDX-License-Identifier: Apache-2.0
"""Synthesis of MobileStyleGAN with the fused layers of the op table, from styles instead of w.

Tensors are [N, H, W, C]. The last blocks run image by image in horizontal strips, so that the tensors between their
layers stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.inverse_haar import inverse_haar
from ..ops.separable_conv import separable_conv

STRIP_BLOCKS = 2  # number of the last blocks that run in strips
STRIP_ROWS = 64  # rows of the last block's output per strip


def native_synthesis(synthesis: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the synthesis of a network as a function of styles.

    Args:
        synthesis: Synthesis network of `MobileStyleGAN`. Its weights are copied, so that later changes have no effect.

    Returns:
        Function from styles [N, S], in the order of the generator's sites, and w, which it does not use, to images
        [N, 3, H, W], which differ from those of the network by rounding errors.
    """
    return _NativeSynthesis(synthesis)


@dataclass(frozen=True)
class _Layer:
    depthwise: Tensor  # [C, 3, 3]
    pointwise: Tensor  # [C, D]
    bias: Tensor  # [D]
    noise: Tensor  # [H, W]

    def rows(self, x: Tensor, style: Tensor, first: int, last: int) -> Tensor:
        """Compute rows [first, last) of the output from the same rows of the input and the rows next to them."""
        above, below = int(first == 0), int(last == len(self.noise))
        noise = self.noise[first:last]
        return separable_conv(x, style, self.depthwise, self.pointwise, self.bias, noise, above=above, below=below)


@dataclass(frozen=True)
class _Block:
    conv1: _Layer
    conv2: _Layer

    @property
    def height(self) -> int:
        return len(self.conv2.noise)

    def input_rows(self, first: int, last: int) -> tuple[int, int]:
        """Return the range of the input rows on which output rows [first, last) depend."""
        return max(first - 2, 0) // 2, (min(last + 2, self.height) + 1) // 2

    def rows(self, x: Tensor, styles: Sequence[Tensor], first: int, last: int) -> Tensor:
        """Compute rows [first, last) of the output from `input_rows` of the input."""
        up, conv1, conv2 = styles
        begin, end = max(first - 2, 0), min(last + 2, self.height)
        x = inverse_haar(x, up)[:, begin % 2 :][:, : end - begin]
        x = self.conv1.rows(x, conv1, max(first - 1, 0), min(last + 1, self.height))
        return self.conv2.rows(x, conv2, first, last)


class _NativeSynthesis:
    def __init__(self, synthesis: Any) -> None:
        conv1, to_img = synthesis.conv1, synthesis.to_img
        order = _haar_order(len(conv1.bias), conv1.bias.device)
        self._input: Tensor = synthesis.input
        self._weight, self._bias, self._noise = conv1.weight[order], conv1.bias[order], conv1.noise
        self._columns: list[Tensor] = []  # of styles, per site
        self._add_columns(_arange(0, conv1.weight.shape[1], order.device))
        self._blocks: list[_Block] = []
        for block in synthesis.layers:
            self._add_columns(order)
            order = _haar_order(len(block.conv2.bias), order.device)
            if block is synthesis.layers[-1]:
                order = order.sort().values
            layers = []
            for conv, channels in ((block.conv1, slice(None)), (block.conv2, order)):
                self._add_columns(_arange(0, len(conv.depthwise), order.device))
                pointwise = conv.weight.t()[:, channels].contiguous()
                layers.append(_Layer(conv.depthwise[:, 0], pointwise, conv.bias[channels], conv.noise[0, 0]))
            self._blocks.append(_Block(*layers))
        self._add_columns(order)
        matrix = to_img.haar.matrix  # [4 pixels * 3, 12]
        self._to_img_weight, self._to_img_bias = matrix @ to_img.weight, matrix @ to_img.bias

    def _add_columns(self, order: Tensor) -> None:
        """Append the columns of styles [N, S] that belong to the next site, in the order of its channels here."""
        self._columns.append(order + sum(map(len, self._columns)))

    def __call__(self, styles: Tensor, w: Tensor) -> Tensor:
        first, *site_styles = (styles[:, columns] for columns in self._columns)
        to_img = site_styles.pop()
        block_styles = [site_styles[i : i + 3] for i in range(0, len(site_styles), 3)]
        x = self._input * first[:, :, None, None]
        x = F.leaky_relu(F.conv2d(x, self._weight, self._bias, padding=1) + self._noise, 0.2).permute(0, 2, 3, 1)
        for block, styles_of_block in zip(self._blocks[:-STRIP_BLOCKS], block_styles, strict=False):
            x = block.rows(x, styles_of_block, 0, block.height)
        size = 2 * self._blocks[-1].height
        images = x.new_empty(len(x), 3, size, size)
        for i, image in enumerate(images):
            one = [[style[i : i + 1] for style in group] for group in block_styles]
            weight = self._to_img_weight * to_img[i]
            for top in range(0, size // 2, STRIP_ROWS):
                bottom = min(top + STRIP_ROWS, size // 2)
                strip = self._strip(x[i : i + 1], one, top, bottom, len(self._blocks) - 1)
                self._write_pixels(strip, weight, image[:, 2 * top : 2 * bottom])
        return images

    def _strip(self, x: Tensor, styles: Sequence[Sequence[Tensor]], first: int, last: int, block: int) -> Tensor:
        """Compute rows [first, last) of the output of a block from the whole input x of the blocks in strips."""
        begin, end = self._blocks[block].input_rows(first, last)
        if block > len(self._blocks) - STRIP_BLOCKS:
            x = self._strip(x, styles, begin, end, block - 1)
        else:
            x = x[:, begin:end]
        return self._blocks[block].rows(x, styles[block], first, last)

    def _write_pixels(self, x: Tensor, weight: Tensor, image: Tensor) -> None:
        """Compute the pixels [3, 2H, 2W] of a strip [1, H, W, C]: a pointwise convolution and the inverse Haar step."""
        _, height, width, channels = x.shape
        planes = torch.addmm(self._to_img_bias[:, None], weight, x.view(-1, channels).t())  # [2 * 2 * 3, H * W]
        squares = planes.view(2, 2, 3, height, width).permute(2, 3, 0, 4, 1)  # [3, H, 2, W, 2]
        image.view(3, height, 2, width, 2).copy_(squares)


def _haar_order(channels: int, device: torch.device) -> Tensor:
    """Return the network's channel, of averages [C] and details [C, 3], for each channel of `inverse_haar`."""
    details = _arange(channels // 4, channels, device).view(-1, 3).t()  # [3, C]
    return torch.cat((_arange(0, channels // 4, device), details.flatten()))


def _arange(first: int, last: int, device: torch.device) -> Tensor:
    return torch.arange(first, last, dtype=torch.int64, device=device)
