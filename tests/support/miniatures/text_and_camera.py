# SPDX-License-Identifier: Apache-2.0
"""StyleGAN-T, whose images follow a text, and EG3D, which renders planes of features for a camera."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import CHANNELS, ROOT_2, WIDTH, Conv, affine, holder, normalized
from .nvlabs2 import NVBlock, NVStyleGAN2
from .nvlabs3 import Waves

TEXT = 5  # length of the embedding of a text
LATENT = WIDTH - TEXT


class ProductStyle(nn.Module):
    """Style `a b + c`, where a, b and c are linear in w."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = affine(3 * channels)

    def forward(self, w: Tensor) -> Tensor:
        a, b, c = self.proj(w).chunk(3, 1)
        return a * b + c


class TextLayer(Conv):
    """A residual layer normalises its input before the style scales it."""

    def __init__(self, before: int, after: int, size: int, *, residual: bool = False, **options: bool) -> None:
        super().__init__(before, after, size, **options)
        self.affine = ProductStyle(before)
        if residual:
            self.norm = nn.GroupNorm(2, after)

    def forward(self, x: Tensor, w: Tensor, noise_mode: str = "random") -> Tensor:
        if not hasattr(self, "norm"):
            return self.run(x, self.affine(w), self.noise_of(x, noise_mode))
        x = self.norm(x)
        return (x + self.run(x, self.affine(w), self.noise_of(x, noise_mode))) / ROOT_2


class TextBlock(nn.Module):
    def __init__(self, before: int, after: int, size: int, *, last: bool) -> None:
        super().__init__()
        if before:
            self.conv0 = TextLayer(before, after, size, up=True)
        else:
            self.input = Waves(after, size, size)
        self.convs1 = nn.ModuleList(TextLayer(after, after, size, residual=i == 1) for i in range(2))
        if last:
            self.torgb = TextLayer(after, 3, size, rgb=True)


class TextSynthesis(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.b8 = TextBlock(0, CHANNELS[8], 8, last=False)
        self.b16 = TextBlock(CHANNELS[8], CHANNELS[16], 16, last=True)

    def forward(self, ws: Tensor, noise_mode: str = "random") -> Tensor:
        rows = iter(ws.unbind(1))
        x = self.b8.input(next(rows))
        for layer in (*self.b8.convs1, self.b16.conv0, *self.b16.convs1, self.b16.torgb):
            x = layer(x, next(rows), noise_mode)
        return x


class TextEncoder(nn.Module):
    """Embedding of length one that depends on the letters."""

    def encode_text(self, texts: list[str]) -> Tensor:
        rows = [torch.tensor([float(ord(c)) for c in text.ljust(TEXT)[:TEXT]]) for text in texts]
        return F.normalize(torch.stack(rows) - 80)


class TextMapping(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.mlp = holder(fc0=nn.Linear(LATENT, LATENT))
        self.clip = TextEncoder()
        self.register_buffer("x_avg", torch.randn(LATENT))

    def forward(self, z: Tensor, c: Tensor, truncation_psi: float = 1.0) -> Tensor:
        x = self.x_avg.lerp(self.mlp.fc0(normalized(z)), truncation_psi)
        return torch.cat([x, c], 1)[:, None].repeat(1, self.rows, 1)


class StyleGANT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.z_dim, self.c_dim = LATENT, TEXT
        self.mapping, self.synthesis = TextMapping(7), TextSynthesis()


class Renderer(nn.Module):
    """Colours of planes at random depths along the ray of every pixel, then at random places between them."""

    def forward(self, planes: Tensor, decoder: nn.Module, shift: Tensor) -> Tensor:
        n, side = len(planes), planes.shape[-1]
        depths = torch.linspace(0.2, 0.9, 4).reshape(1, 1, 4, 1).repeat(n, side**2, 1, 1)
        depths += torch.rand_like(depths) / 8
        weights = self.look(planes, decoder, depths, shift).softmax(2)
        places = torch.rand(n * side**2, 2, device=planes.device).reshape(n, -1, 2, 1)
        fine = (weights.mean(3, keepdim=True) * depths).sum(2, keepdim=True) + places / 4
        pixels = self.look(planes, decoder, torch.cat([depths, fine], 2), shift).mean(2)
        return pixels.mT.reshape(n, -1, side, side)

    def look(self, planes: Tensor, decoder: nn.Module, depths: Tensor, shift: Tensor) -> Tensor:
        n, _, height, width = planes.shape
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        ray = torch.stack([x, y], -1).reshape(1, -1, 1, 2)
        points = ray * depths + shift[:, None, None]
        return decoder.net(F.grid_sample(planes, points, align_corners=False).permute(0, 2, 3, 1))


class Superresolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block0 = NVBlock(CHANNELS[16], CHANNELS[16], 32, half=False)
        self.block1 = NVBlock(CHANNELS[16], CHANNELS[16], 64, half=False)

    def forward(self, rgb: Tensor, x: Tensor, ws: Tensor, noise_mode: str) -> Tensor:
        ws = ws[:, -1:].repeat(1, 3, 1)
        x, rgb = self.block0(x, rgb, ws, noise_mode=noise_mode)
        return self.block1(x, rgb, ws, noise_mode=noise_mode)[1]


class EG3D(nn.Module):
    """A backbone that draws planes, a renderer for a camera of 25 numbers, and two blocks that enlarge its image."""

    def __init__(self, superresolution_noise_mode: str = "none") -> None:
        super().__init__()
        self.z_dim, self.c_dim = WIDTH, 25
        self.backbone = NVStyleGAN2(classes=25)
        self.backbone.img_channels = 96
        self.renderer, self.superresolution = Renderer(), Superresolution()
        self.decoder = holder(net=nn.Sequential(nn.Linear(3, CHANNELS[16]), nn.Softplus()))
        self.neural_rendering_resolution = 64
        self.rendering_kwargs = {"superresolution_noise_mode": superresolution_noise_mode}

    def mapping(self, z: Tensor, c: Tensor, truncation_psi: float = 1) -> Tensor:
        return self.backbone.mapping(z, c / 4, truncation_psi=truncation_psi)

    def synthesis(self, ws: Tensor, c: Tensor, neural_rendering_resolution=None, noise_mode="random"):
        self.neural_rendering_resolution = neural_rendering_resolution or self.neural_rendering_resolution
        planes = self.backbone.synthesis(ws, noise_mode=noise_mode)
        x = self.renderer(planes, self.decoder, c[:, [3, 7]])
        mode = self.rendering_kwargs["superresolution_noise_mode"]
        return {"image": self.superresolution(x[:, :3], x, ws, mode), "image_raw": x[:, :3]}


def camera(x: float = 0.1) -> Tensor:
    """Camera [25] that is moved by x."""
    pose, intrinsics = torch.eye(4), torch.eye(3)
    pose[0, 3] = x
    return torch.cat([pose.flatten(), intrinsics.flatten()])
