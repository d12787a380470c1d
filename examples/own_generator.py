# SPDX-License-Identifier: Apache-2.0
"""Edit with a StyleGAN whose code stylefast does not know: describe its style modules by a rule.

`Network` stands for your own network. It has random weights, so its images show textures, not faces.

python examples/own_generator.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, leaky_relu

import stylefast
from stylefast.catalog import Clustering
from stylefast.editing import Sequential
from stylefast.figures import edit_grid, save
from stylefast.generators import Generator, Rule


class StyledConv(nn.Module):
    """A convolution whose input channels are scaled by a style, as in StyleGAN2."""

    def __init__(self, c_in: int, c_out: int, size: int, w_dim: int) -> None:
        super().__init__()
        self.to_style = nn.Linear(w_dim, c_in)
        self.weight = nn.Parameter(torch.randn(c_out, c_in, size, size) / (c_in * size * size) ** 0.5)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = 1 + self.to_style(w)  # [N, C]
        return conv2d(x * style[:, :, None, None], self.weight, padding="same")


class Network(nn.Module):
    """A small StyleGAN: w [N, 64] to images [N, 3, 64, 64] in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64))
        self.constant = nn.Parameter(torch.randn(1, 64, 8, 8))
        self.blocks = nn.ModuleList(StyledConv(64, 64, 3, 64) for _ in range(4))
        self.color = StyledConv(64, 3, 1, 64)

    def forward(self, w: Tensor) -> Tensor:
        x = self.constant.expand(len(w), -1, -1, -1)
        for i, block in enumerate(self.blocks):
            x = leaky_relu(block(x if i == 0 else interpolate(x, scale_factor=2), w), 0.2) * 2**0.5
        return self.color(x, w).tanh()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--outdir", type=Path, default=Path("own"), help="folder for the figure")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    network = Network()
    # The group "site" of the regular expression names the site. The second argument is the module that reads the tensor
    # which the style scales. A style is the output of `to_style`, in the convention of the network.
    rules = [
        Rule(r"(?P<site>blocks\.\d+)\.to_style", r"\g<site>"),
        Rule(r"(?P<site>color)\.to_style", r"\g<site>", kind="rgb"),
    ]
    generator = Generator(network, rules, name="own", z_dim=64, mapping=network.mapping, synthesis=network)
    for site in generator.sites:
        height, width = site.size
        print(f"{site.name}: {site.channels} channels of {height} x {width}, columns {site.start} to {site.stop - 1}")

    # No regions are known for these images, so name a cluster by its number.
    w = generator.latents(range(32))
    catalog = stylefast.Catalog.build(generator, w, Clustering(n_clusters=6, resolution=32))
    catalog.annotate({"blobs": [0, 1]})
    editor = stylefast.StyleEditor(generator, catalog)
    targets, references = w[:2], w[2:5]
    batches = editor.edit(targets, references, "blobs", queries=Sequential(epsilon=20.0))
    edits = torch.cat([batch.images for batch in batches]).unflatten(0, (1, 2, 3))  # [P, T, R, 3, H, W]
    images = [generator.synthesize(generator.styles(latents), latents) for latents in (targets, references)]
    save(edit_grid(*images, edits, part_names=["blobs"]), arguments.outdir / "grid.png")
    print(f"The figure is {arguments.outdir / 'grid.png'}")


if __name__ == "__main__":
    main()
