# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 of NVlabs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import CHANNELS, WIDTH, Conv, affine, normalized, skip


class NVMapping(nn.Module):
    """Mapping from z and c to ws, with optional truncation."""

    def __init__(self, rows: int, classes: int, *, means: int = 0) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.num_ws = WIDTH, classes, rows
        self.fc0 = nn.Linear(WIDTH * (2 if classes else 1), WIDTH)
        if classes:
            self.embed = nn.Linear(classes, WIDTH)
        self.register_buffer("w_avg", torch.randn(means, WIDTH) if means else torch.randn(WIDTH))

    def forward(self, z: Tensor, c: Tensor, truncation_psi: float = 1) -> Tensor:
        assert c.shape == (len(z), self.c_dim)
        x = normalized(z)
        if self.c_dim:
            x = torch.cat([x, normalized(self.embed(c))], 1)
        x = F.leaky_relu(self.fc0(x), 0.2).unsqueeze(1).repeat(1, self.num_ws, 1)
        mean = self.w_avg[c.argmax(1)[0]] if self.w_avg.ndim == 2 else self.w_avg
        return mean.lerp(x, truncation_psi)


class NVLayer(Conv):
    def __init__(self, before: int, after: int, size: int, *, up: bool = False, rgb: bool = False) -> None:
        super().__init__(before, after, size, up=up, rgb=rgb)
        self.affine = affine(before)

    def forward(self, x: Tensor, w: Tensor, noise_mode: str = "random") -> Tensor:
        x = self.run(x, self.affine(w), self.noise_of(x, noise_mode))
        return x.clamp(-256, 256)


class NVBlock(nn.Module):
    def __init__(self, before: int, after: int, size: int, *, half: bool) -> None:
        super().__init__()
        self.half_precision = half
        if before:
            self.conv0 = NVLayer(before, after, size, up=True)
        else:
            self.const = nn.Parameter(torch.randn(after, size, size))
        self.conv1 = NVLayer(after, after, size)
        self.torgb = NVLayer(after, 3, size, rgb=True)

    def forward(self, x, image, ws, noise_mode="random", force_fp32=False):
        rows = iter(ws.unbind(1))
        if x is None:
            x = self.const.repeat(len(ws), 1, 1, 1)
        elif self.half_precision and not force_fp32:
            x = x.to(torch.float16, memory_format=torch.channels_last)
        if hasattr(self, "conv0"):
            x = self.conv0(x, next(rows), noise_mode)
        x = self.conv1(x, next(rows), noise_mode)
        return x, skip(image, self.torgb(x, next(rows), noise_mode).float().contiguous())


class NVSynthesis(nn.Module):
    def __init__(self, half: bool) -> None:
        super().__init__()
        before = 0
        for size, channels in CHANNELS.items():
            setattr(self, f"b{size}", NVBlock(before, channels, size, half=half and size == 16))
            before = channels
        self.num_ws = 2 * len(CHANNELS)

    def forward(self, ws: Tensor, **options) -> Tensor:
        x = image = None
        for i, size in enumerate(CHANNELS):
            first = max(0, 2 * i - 1)
            x, image = getattr(self, f"b{size}")(x, image, ws[:, first : 2 * i + 2], **options)
        return image


class NVStyleGAN2(nn.Module):
    def __init__(self, classes: int = 0, half: bool = False) -> None:
        super().__init__()
        self.z_dim, self.c_dim = WIDTH, classes
        self.synthesis = NVSynthesis(half)
        self.mapping = NVMapping(self.synthesis.num_ws, classes)
