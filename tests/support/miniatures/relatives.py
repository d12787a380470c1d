# SPDX-License-Identifier: Apache-2.0
"""Relatives of rosinality's StyleGAN2: Retrieve in Style, SWAGAN, DualStyleGAN, BasicSR and GFPGAN."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import CHANNELS, WIDTH, holder, skip
from .lists import ListNetwork, Rosinality, RosinalityConv


class StyleInput(RosinalityConv):
    """Convolution whose second input is the style, computed before by `get_latent`."""

    def forward(self, x: Tensor, style: Tensor, mode: str) -> Tensor:
        return self.run(x, style, self.noise_of(x, mode))


class StyleLayer(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def get_latent(self, w: Tensor) -> Tensor:
        return self.conv.modulation(w)


class RetrieveInStyle(ListNetwork):
    """The network takes the styles of all layers, and returns clamped images."""

    conv = StyleInput

    def __init__(self) -> None:
        super().__init__()
        self.style_dim, self.n_latent = WIDTH, self.rows
        self.style = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2))
        self.conv1, self.to_rgb1 = StyleLayer(self.conv1.conv), StyleLayer(self.to_rgb1.conv)
        self.convs = nn.ModuleList(StyleLayer(layer.conv) for layer in self.convs)
        self.to_rgbs = nn.ModuleList(StyleLayer(layer.conv) for layer in self.to_rgbs)

    def layers(self) -> list[tuple[nn.Module, int]]:
        """Layers in forward order, each with its row of w."""
        found = [(self.conv1, 0), (self.to_rgb1, 1)]
        for i, to_rgb in enumerate(self.to_rgbs):
            found += [(self.convs[2 * i], 2 * i + 1), (self.convs[2 * i + 1], 2 * i + 2), (to_rgb, 2 * i + 3)]
        return found

    def get_latent(self, x: Tensor, is_latent: bool = False) -> list[Tensor]:
        w = x if is_latent else self.style(x)[:, None].repeat(1, self.n_latent, 1)
        return [layer.get_latent(w[:, row]) for layer, row in self.layers()]

    def forward(self, styles, noise=None, randomize_noise=False):
        x, image = self.first.repeat(len(styles[0]), 1, 1, 1), None
        for (layer, _), style in zip(self.layers(), styles, strict=True):
            y = layer.conv(x, style, "random" if randomize_noise else "const")
            x, image = (x, skip(image, y)) if layer.conv.rgb else (y, image)
        return image.clamp(-1, 1), []


class InverseWavelet(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        low, *details = x.chunk(4, 1)
        corners = [low + sum(d * (-1) ** (i >> j & 1) for j, d in enumerate(details)) / 4 for i in range(4)]
        return F.pixel_shuffle(torch.stack(corners, 2).flatten(1, 2), 2)


class Swagan(Rosinality):
    """toRGB layers write the wavelet coefficients of an image of twice the size, in 12 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.iwt = InverseWavelet()
        for layer in (self.to_rgb1, *self.to_rgbs):
            layer.conv.weight = nn.Parameter(torch.randn(12, *layer.conv.weight.shape[1:]) / 4)

    def images(self, latent: Tensor, randomize_noise: bool) -> Tensor:
        return self.iwt(super().images(latent, randomize_noise))


class Residual(nn.Module):
    """Extrinsic layer: an instance normalisation with a style of its own, and a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = holder(norm=nn.InstanceNorm2d(channels), style=nn.Linear(WIDTH, 2 * channels))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, bias = self.norm.style(style)[:, :, None, None].chunk(2, 1)
        return x + (scale * self.norm.norm(x) + bias) / 4


class DualStyleGAN(nn.Module):
    """Rosinality's network with a second path: a residual after the first two layers, other styles in the last."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = Rosinality()
        self.style = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH))
        self.res = nn.ModuleList([Residual(CHANNELS[4]), Residual(CHANNELS[8]), nn.Linear(WIDTH, WIDTH)])
        self.style_dim, self.n_latent = WIDTH, self.generator.n_latent

    def forward(self, styles, exstyles, input_is_latent=False, randomize_noise=True, use_res=True, interp_weight=0.6):
        net, mode = self.generator, "random" if randomize_noise else "const"
        latent = styles[0] if input_is_latent else net.style(styles[0])[:, None].repeat(1, self.n_latent, 1)
        if use_res:
            ada = exstyles if exstyles.ndim == 3 else exstyles[:, None].repeat(1, self.n_latent, 1)
        x = net.conv1.conv(net.first.repeat(len(latent), 1, 1, 1), latent[:, 0], mode)
        x = self.res[0](x, self.style(ada[:, 0])) if use_res else x
        image = net.to_rgb1.conv(x, latent[:, 1], mode)
        for i, to_rgb in enumerate(net.to_rgbs):
            x = net.convs[2 * i].conv(x, latent[:, 2 * i + 1], mode)
            x = self.res[1](x, self.style(ada[:, 1])) if use_res and i == 0 else x
            w = latent[:, 2 * i + 2]
            w = torch.lerp(w, self.res[2](ada[:, 2 * i + 2]), interp_weight) if use_res and i else w
            x = net.convs[2 * i + 1].conv(x, w, mode)
            image = skip(image, to_rgb.conv(x, latent[:, 2 * i + 3], mode))
        return image, None


class BasicSR(nn.Module):
    """BasicSR's names: style_mlp, style_conv1, style_convs, and modulated_conv in each layer."""

    def __init__(self) -> None:
        super().__init__()
        lists = Rosinality()
        self.num_style_feat, self.num_latent = WIDTH, lists.n_latent
        self.style_mlp, self.first = lists.style, lists.first
        self.style_conv1 = holder(modulated_conv=lists.conv1.conv)
        self.to_rgb1 = holder(modulated_conv=lists.to_rgb1.conv)
        self.style_convs = nn.ModuleList(holder(modulated_conv=layer.conv) for layer in lists.convs)
        self.to_rgbs = nn.ModuleList(holder(modulated_conv=layer.conv) for layer in lists.to_rgbs)

    def forward(self, styles, input_is_latent=False, noise=None, randomize_noise=True):
        return self.draw(styles[0], input_is_latent, randomize_noise, []), None

    def draw(self, latent: Tensor, input_is_latent: bool, randomize_noise: bool, conditions: list[Tensor]) -> Tensor:
        mode = "random" if randomize_noise else "const"
        latent = latent if input_is_latent else self.style_mlp(latent)[:, None].repeat(1, self.num_latent, 1)
        x = self.style_conv1.modulated_conv(self.first.repeat(len(latent), 1, 1, 1), latent[:, 0], mode)
        image = self.to_rgb1.modulated_conv(x, latent[:, 1], mode)
        for i, to_rgb in enumerate(self.to_rgbs):
            x = self.style_convs[2 * i].modulated_conv(x, latent[:, 2 * i + 1], mode)
            if 2 * i < len(conditions):
                x = x * conditions[2 * i] + conditions[2 * i + 1]
            x = self.style_convs[2 * i + 1].modulated_conv(x, latent[:, 2 * i + 2], mode)
            image = skip(image, to_rgb.modulated_conv(x, latent[:, 2 * i + 3], mode))
        return image


class BasicSRWithConditions(BasicSR):
    """GFPGAN's decoder, which also takes scales and shifts that an encoder computes from a photo."""

    def forward(self, styles, conditions, input_is_latent=False, noise=None, randomize_noise=True):
        return self.draw(styles[0], input_is_latent, randomize_noise, conditions), None


def conditions() -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(1, CHANNELS[8], 8, 8, generator=random) for _ in range(2)]


def gfpgan() -> nn.Module:
    return holder(stylegan_decoder=BasicSRWithConditions(), condition_scale=nn.ModuleList())


def vtoonify() -> nn.Module:
    return holder(
        generator=DualStyleGAN(),
        encoder=nn.ModuleList(),
        fusion_out=nn.ModuleList(),
        fusion_skip=nn.ModuleList(),
        res=nn.ModuleList([Residual(CHANNELS[4])]),
    )


class Variant(Rosinality):
    """Rosinality's module names with another way to call the network."""

    def forward(self, latent: Tensor) -> Tensor:
        return self.images(latent, False)
