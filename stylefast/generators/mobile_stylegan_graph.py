# SPDX-License-Identifier: Apache-2.0
"""Synthesis of MobileStyleGAN in the form that graph compilers run fast: convolutions only, from styles.

After a permutation of its channels, the dense matrix of an inverse Haar step is block-diagonal: a block has some
averages and their details. The layer before the step writes the channels in this order, so that the step is a grouped
convolution, with a fraction of the arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

AVERAGES = 16  # per block; their blocks have 64 channels


def synthesize(network: Any, styles: Mapping[str, Tensor]) -> Tensor:
    """Compute images from the styles of all sites.

    Args:
        network: The synthesis network of `MobileStyleGAN`.
        styles: Styles [N, C] by site name.

    Returns:
        Images [N, 3, 1024, 1024].
    """
    x = network.input.expand(len(styles["conv1"]), -1, -1, -1)
    x = _convolve(network.conv1, x, styles["conv1"], permuted=True)
    for i, block in enumerate(network.layers):
        style = styles[f"layers.{i}.up"]
        x = _inverse_haar(x * style[:, _order(style.shape[1]), None, None])
        x = _convolve(block.conv1, x, styles[f"layers.{i}.conv1"])
        x = _convolve(block.conv2, x, styles[f"layers.{i}.conv2"], permuted=i < len(network.layers) - 1)
    layer, order = network.to_img, _order(len(network.to_img.weight))
    x = x * styles["to_img"][:, :, None, None]
    return _inverse_haar(F.conv2d(x, layer.weight[order, :, None, None], layer.bias[order]))


def _convolve(layer: Any, x: Tensor, style: Tensor, *, permuted: bool = False) -> Tensor:
    """Run a layer. With `permuted`, its output has the order of channels that `_inverse_haar` takes."""
    order = _order(len(layer.weight)) if permuted else slice(None)
    weight, bias = layer.weight[order], layer.bias[order]
    x = x * style[:, :, None, None]
    if layer.depthwise is None:
        x = F.conv2d(x, weight, bias, padding=1)
    else:
        x = F.conv2d(x, layer.depthwise, padding=1, groups=x.shape[1])
        x = F.conv2d(x, weight[:, :, None, None], bias)
    return F.leaky_relu(x + layer.noise, 0.2)


def _order(channels: int) -> Tensor:
    """Return the channels of the network, C averages and details [C, 3], in the order [block, part, average]."""
    averages = torch.arange(channels // 4, device="cpu")
    details = channels // 4 + 3 * averages + torch.arange(3, device="cpu")[:, None]
    parts = torch.cat((averages[None], details))  # [part, C]
    return parts.unflatten(1, (-1, _block_size(channels))).transpose(0, 1).flatten()


def _inverse_haar(x: Tensor) -> Tensor:
    """One inverse step of the db1 wavelet transform: [N, 4C, H, W], in the order of `_order`, -> [N, C, 2H, 2W]."""
    size = _block_size(x.shape[1])
    signs = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], device="cpu")  # [pixel, part]
    eye = torch.eye(size, dtype=torch.float32, device="cpu")
    block = torch.einsum("pd,gc->gpdc", signs / 2, eye).reshape(4 * size, 4 * size)  # [(C, pixel), (part, C)]
    groups = x.shape[1] // (4 * size)
    return F.pixel_shuffle(F.conv2d(x, block.repeat(groups, 1)[:, :, None, None], groups=groups), 2)


def _block_size(channels: int) -> int:
    """Return the number of averages per block. The channels of `to_img` have a single block, of 3."""
    return min(AVERAGES, channels // 4)
