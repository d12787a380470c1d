# SPDX-License-Identifier: Apache-2.0
"""Small StyleGAN1 networks as variables of NVlabs' TensorFlow code, and their images in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Z, W, MAPPING = 7, 5, 3


@dataclass
class Original1:
    """Variables by name, and the network that they define. Shapes follow TensorFlow: [in, out] and [k, k, in, out].

    Args:
        resolution: Side of the images.
        options: Options that differ from the defaults: blur_filter, fused_scale, mapping_lrmul.
        classes: Number of classes, 0 for a network without classes.
        noise: Whether the network has noise.
        channels: Channels of all layers.
    """

    resolution: int = 16
    options: dict[str, Any] = field(default_factory=dict)
    classes: int = 0
    noise: bool = True
    channels: int = 4
    variables: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.resolution)
        self.rate = self.options.get("mapping_lrmul", 0.01)
        for i in range(MAPPING):
            inputs = W if i else Z * (2 if self.classes else 1)
            self.draw(f"mapping/Dense{i}/weight", inputs, W, scale=1 / self.rate)
            self.draw(f"mapping/Dense{i}/bias", W, scale=0.3 / self.rate)
        if self.classes:
            self.draw("mapping/LabelConcat/weight", self.classes, Z)
        self.draw("dlatent_avg", W)
        self.draw("synthesis/4x4/Const/const", 1, self.channels, 4, 4)
        for i, name in enumerate(self.layer_names()):
            scope, side = f"synthesis/{name}", 4 << i // 2
            if i:
                self.draw(f"{scope}/weight", 3, 3, self.channels, self.channels)
            if self.noise:
                self.draw(f"synthesis/noise{i}", 1, 1, side, side)
                self.draw(f"{scope}/Noise/weight", self.channels)
            self.draw(f"{scope}/bias", self.channels)
            self.draw(f"{scope}/StyleMod/weight", W, 2 * self.channels)
            self.draw(f"{scope}/StyleMod/bias", 2 * self.channels)
        for lod in range(self.rows() // 2):  # only that of lod 0 is used
            self.draw(f"synthesis/ToRGB_lod{lod}/weight", 1, 1, self.channels, 3)
            self.draw(f"synthesis/ToRGB_lod{lod}/bias", 3)
        self.variables |= {"lod": np.float32(0), "synthesis/lod": np.float32(0)}

    def rows(self) -> int:
        return 2 * int(math.log2(self.resolution)) - 2

    def layer_names(self) -> list[str]:
        names = ["4x4/Const", "4x4/Conv"]
        for size in (2**i for i in range(3, int(math.log2(self.resolution)) + 1)):
            names += [f"{size}x{size}/Conv0_up", f"{size}x{size}/Conv1"]
        return names

    def draw(self, name: str, *shape: int, scale: float = 1.0) -> None:
        self.variables[name] = (torch.randn(shape, generator=self.generator) * scale).numpy()

    def get(self, name: str) -> Tensor:
        return torch.from_numpy(np.array(self.variables[name])).double()

    def map(self, z: Tensor, label: int | None = None) -> Tensor:
        """Latents w [N, W] of z."""
        x = z.double()
        if label is not None:
            x = torch.cat((x, self.get("mapping/LabelConcat/weight")[label].expand(len(z), -1)), dim=1)
        x = x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
        for i in range(MAPPING):
            weight, bias = self.get(f"mapping/Dense{i}/weight"), self.get(f"mapping/Dense{i}/bias")
            x = x @ (weight * (math.sqrt(2) / math.sqrt(len(weight)) * self.rate)) + bias * self.rate
            x = torch.maximum(x, 0.2 * x)
        return x

    def image(self, w: Tensor) -> Tensor:
        """Images [N, 3, H, W] of latents [N, rows, W]."""
        x = self.get("synthesis/4x4/Const/const").repeat(len(w), 1, 1, 1)
        for i, name in enumerate(self.layer_names()):
            if i:
                weight = self.get(f"synthesis/{name}/weight") * math.sqrt(2) / math.sqrt(9 * self.channels)
                x = self.up(x, weight) if name.endswith("up") else convolution(x, weight)
            x = self.epilogue(x, f"synthesis/{name}", i, w[:, i].double())
        weight = self.get("synthesis/ToRGB_lod0/weight") / math.sqrt(self.channels)
        return convolution(x, weight) + self.get("synthesis/ToRGB_lod0/bias")[:, None, None]

    def up(self, x: Tensor, weight: Tensor) -> Tensor:
        fused = self.options.get("fused_scale", "auto")
        if 2 * x.shape[-1] >= 128 if fused == "auto" else fused:
            wide = F.pad(weight.permute(3, 2, 0, 1), (1, 1, 1, 1))
            total = wide[..., 1:, 1:] + wide[..., :-1, 1:] + wide[..., 1:, :-1] + wide[..., :-1, :-1]
            x = F.conv_transpose2d(x, total.transpose(0, 1), stride=2, padding=1)
        else:
            x = convolution(F.interpolate(x, scale_factor=2, mode="nearest"), weight)
        taps = torch.tensor(self.options.get("blur_filter", [1, 2, 1]) or [1], dtype=x.dtype)
        kernel = torch.outer(taps, taps) / taps.sum() ** 2
        return F.conv2d(x.flatten(0, 1)[:, None], kernel[None, None], padding=len(taps) // 2).reshape(x.shape)

    def epilogue(self, x: Tensor, scope: str, i: int, w: Tensor) -> Tensor:
        if self.noise:
            x = x + self.get(f"synthesis/noise{i}") * self.get(f"{scope}/Noise/weight")[:, None, None]
        x = x + self.get(f"{scope}/bias")[:, None, None]
        x = torch.maximum(x, 0.2 * x)
        x = x - x.mean(dim=(2, 3), keepdim=True)
        x = x / (x.square().mean(dim=(2, 3), keepdim=True) + 1e-8).sqrt()
        style = w @ self.get(f"{scope}/StyleMod/weight") / math.sqrt(W) + self.get(f"{scope}/StyleMod/bias")
        scale, shift = style[:, : self.channels, None, None], style[:, self.channels :, None, None]
        return x * (scale + 1) + shift


def convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve with weights [k, k, in, out]."""
    return F.conv2d(x, weight.permute(3, 2, 0, 1), padding=len(weight) // 2)
