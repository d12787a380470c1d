# SPDX-License-Identifier: Apache-2.0
"""MobileStyleGAN (arXiv 2104.04767) in plain torch: 23 sites, S = 6,752, faces at 1024 x 1024.

Sizes come from the constants of the graph. Demodulation is already folded into the pointwise weights, so a style only
scales the input of its layer. Tensors are channels_last, the fastest layout for depthwise convolutions on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import mobile_stylegan_graph
from .generator import Generator
from .mobile_stylegan_native import native_synthesis
from .sites import Rule

Arrays: TypeAlias = Mapping[str, np.ndarray]

Z_DIM = 512
N_BLOCKS = 7

RULES = (
    Rule(r"synthesis\.(?P<site>conv1|layers\.\d+\.\w+)\.modulation", carrier=r"synthesis.\g<site>"),
    Rule(r"synthesis\.(?P<site>to_img)\.modulation", carrier=r"synthesis.\g<site>", kind="rgb"),
)


def mobile_stylegan(
    mapping: Arrays, synthesis: Arrays, *, name: str = "mobile-stylegan", device: str | torch.device = "cpu"
) -> Generator:
    """Build MobileStyleGAN from the constants of its two graphs.

    The operations have the same order as in the distributed graph.

    Args:
        mapping: Constants of the mapping graph by name: float32 arrays in the order of the graph, as
            `io.openvino.read_ir` returns them.
        synthesis: Constants of the synthesis graph, in the same form.
        name: Name of the generator.
        device: Device of the network.

    Returns:
        The generator.

    Raises:
        ValueError: If the constants do not belong to MobileStyleGAN.

    References:
        "MobileStyleGAN: A Lightweight Convolutional Neural Network for High-Fidelity Image Synthesis", arXiv
        2104.04767.
    """
    network = MobileStyleGAN(mapping, synthesis).to(device)
    return Generator(
        network, RULES, name=name, z_dim=Z_DIM, mapping=network.mapping, synthesis=network.synthesis, check=False
    )


class MobileStyleGAN(nn.Module):
    """Network z [N, 512] -> `mapping` -> w [N, 512] -> `synthesis` -> image [N, 3, 1024, 1024].

    Images are nominally in [-1, 1].
    """

    def __init__(self, mapping: Arrays, synthesis: Arrays) -> None:
        super().__init__()
        self.mapping: nn.Module = _Mapping(mapping)
        self.synthesis: nn.Module = _Synthesis(_Constants(synthesis))

    def native_synthesis(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the synthesis from styles and w by fused ops, as `Generator.use_engine("native")` runs it."""
        return native_synthesis(self.synthesis)


class _Constants:
    """Constants of a graph by name.

    An unnamed constant is found by its fixed distance from a named one in the order of the graph.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._arrays: list[np.ndarray] = list(arrays.values())
        self._positions: dict[str, int] = {name: position for position, name in enumerate(arrays)}

    def __call__(self, name: str, distance: int = 0) -> Tensor:
        if name not in self._positions:
            raise ValueError(f"the graph is not MobileStyleGAN's synthesis network: it has no constant {name}")
        return torch.from_numpy(self._arrays[self._positions[name] + distance].copy())


class _Mapping(nn.Sequential):
    def __init__(self, arrays: Arrays) -> None:
        parameters = [torch.from_numpy(array.copy()) for array in arrays.values() if array.size > 1]
        if [tensor.shape for tensor in parameters] != [(Z_DIM, Z_DIM), (Z_DIM,)] * 8:
            raise ValueError(f"the graph is not MobileStyleGAN's mapping network: it lacks 8 linear layers of {Z_DIM}")
        super().__init__(*map(_linear, parameters[::2], parameters[1::2]))

    def forward(self, z: Tensor) -> Tensor:
        x = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for linear in self:
            x = F.leaky_relu(linear(x), 0.2) * 2**0.5
        return x


class _Synthesis(nn.Module):
    input: Tensor

    def __init__(self, constant: _Constants) -> None:
        super().__init__()
        self.register_buffer("input", constant("m.input.input"))
        self.conv1: _Conv = _Conv(constant, "m.conv1")
        self.layers: nn.ModuleList = nn.ModuleList(_Block(constant, f"m.layers.{i}") for i in range(N_BLOCKS))
        self.to_img: _ToImage = _ToImage(constant, f"m.layers.{N_BLOCKS - 1}.to_img")

    def forward(self, w: Tensor) -> Tensor:
        x = self.input.expand(len(w), -1, -1, -1).clone(memory_format=torch.channels_last)
        x = self.conv1(x, w)
        for block in self.layers:
            x = block(x, w)
        return self.to_img(x, w)

    def from_styles(self, styles: Mapping[str, Tensor]) -> Tensor:
        """Compute the same images from the styles of all sites, as engines that compile a graph run it."""
        return mobile_stylegan_graph.synthesize(self, styles)


class _Block(nn.Module):
    def __init__(self, constant: _Constants, prefix: str) -> None:
        super().__init__()
        self.up: _Up = _Up(constant, f"{prefix}.up")
        self.conv1: _Conv = _Conv(constant, f"{prefix}.conv1")
        self.conv2: _Conv = _Conv(constant, f"{prefix}.conv2")

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return self.conv2(self.conv1(self.up(x, w), w), w)


class _Modulated(nn.Module):
    """Layer that scales its input in place by a style, linear in w. The caller must not use the input afterwards."""

    def __init__(self, constant: _Constants, prefix: str, *, gain: bool) -> None:
        super().__init__()
        weight, bias = constant(f"{prefix}.modulation.weight"), constant(f"{prefix}.modulation.bias").flatten()
        scale = constant(f"{prefix}.modulation.bias", 1).item() if gain else 1.0
        self.modulation: nn.Linear = _linear(weight * scale, bias * scale)

    def modulate(self, x: Tensor, w: Tensor) -> Tensor:
        return x.mul_(self.modulation(w)[:, :, None, None])


class _Up(_Modulated):
    def __init__(self, constant: _Constants, prefix: str) -> None:
        super().__init__(constant, prefix, gain=False)
        self.haar: _InverseHaar = _InverseHaar(self.modulation.out_features)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return self.haar(self.modulate(x, w))


class _Conv(_Modulated):
    depthwise: Tensor | None
    weight: Tensor
    noise: Tensor
    bias: Tensor

    def __init__(self, constant: _Constants, prefix: str) -> None:
        super().__init__(constant, f"{prefix}.conv", gain=True)
        bias = f"{prefix}.bias"
        weight = constant(bias, -2)  # [C_out, C_in, 3, 3], or [C_out, C_in, 1, 1] after a depthwise 3x3
        pointwise = weight.shape[-1] == 1
        self.register_buffer("depthwise", constant(f"{prefix}.conv.weight_dw").squeeze(1) if pointwise else None)
        self.register_buffer("weight", weight.flatten(1) if pointwise else weight)
        self.register_buffer("noise", constant(bias, -1))
        self.register_buffer("bias", constant(bias).flatten())

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.modulate(x, w)
        if self.depthwise is None:
            x = F.conv2d(x, self.weight, self.bias, padding=1)
        else:
            x = _pointwise(F.conv2d(x, self.depthwise, padding=1, groups=x.shape[1]), self.weight, self.bias)
        return F.leaky_relu_(x.add_(self.noise), 0.2)


class _ToImage(_Modulated):
    weight: Tensor
    bias: Tensor

    def __init__(self, constant: _Constants, prefix: str) -> None:
        super().__init__(constant, f"{prefix}.conv", gain=True)
        self.register_buffer("weight", constant(f"{prefix}.conv.weight").flatten(1))
        self.register_buffer("bias", constant(f"{prefix}.bias").flatten())
        self.haar: _InverseHaar = _InverseHaar(len(self.weight))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return self.haar(_pointwise(self.modulate(x, w), self.weight, self.bias))


class _InverseHaar(nn.Module):
    """One inverse step of the db1 wavelet transform: [N, 4C, H, W] -> [N, C, 2H, 2W].

    The input channels are C averages, followed by details [C, 3]. An orthonormal matrix, of signs divided by 2, maps an
    average and its three details to a square of 2 x 2 pixels.
    """

    matrix: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        eye = torch.eye(channels // 4, dtype=torch.float32, device="cpu")
        signs = torch.tensor(
            [[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], device="cpu"
        )  # [pixel, part]
        average = torch.einsum("p,gc->pgc", signs[:, 0] / 2, eye)  # [4, C, C]
        details = torch.einsum("pd,gc->pgcd", signs[:, 1:] / 2, eye).flatten(2)  # [4, C, 3C]
        self.register_buffer("matrix", torch.cat((average, details), dim=2).flatten(0, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        squares = _pointwise(x, self.matrix).permute(0, 2, 3, 1).reshape(n, height, width, 2, channels // 2)
        return squares.transpose(2, 3).reshape(n, 2 * height, 2 * width, channels // 4).permute(0, 3, 1, 2)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute a 1x1 convolution as one matrix product over positions, which keeps channels_last at every batch size."""
    return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
    return linear
