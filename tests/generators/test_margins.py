# SPDX-License-Identifier: Apache-2.0
"""Margins of tensors beyond the frame, per axis; tensors and images without pixels are refused."""

import numpy as np
import pytest
import torch
from networks import Layer
from torch import nn

from stylefast.generators import Generator, Rule


class Framed(nn.Module):
    """Network of images of 2 x 6 pixels that scales one tensor [N, channels, height, width]."""

    def __init__(self, channels=3, height=6, width=8):
        super().__init__()
        self.layer, self.size, self.sides = Layer(), (channels, height, width), (2, 6)
        self.layer.affine = nn.Linear(4, channels)

    def forward(self, w):
        x = torch.arange(48.0)[: self.size[1] * self.size[2]].view(1, 1, *self.size[1:])
        self.layer(x.repeat(len(w), self.size[0], 1, 1), w)
        return torch.ones(len(w), 3, *self.sides)


def framed(network, **options):
    rule = Rule(r"(?P<site>layer)\.affine", r"\g<site>", **options)
    return Generator(network, [rule], name="framed", z_dim=4, mapping=lambda z: z, synthesis=network)


@pytest.mark.parametrize(
    "margin, rows, columns",
    [
        (1, (1, 5), (1, 7)),
        (np.int64(1), (1, 5), (1, 7)),
        ([0, 1], (0, 6), (1, 7)),
        ((2, 1), (2, 4), (1, 7)),
        ((0, 3), (0, 6), (3, 5)),
        ((2, 0), (2, 4), (0, 8)),
    ],
)
def test_margins_are_cut_per_axis(margin, rows, columns):
    generator = framed(Framed(), margin=lambda carrier: margin)
    (site,), (tensor,) = generator.sites, generator.activations(generator.latents([0, 1])).values()
    assert site.size == (rows[1] - rows[0], columns[1] - columns[0])
    expected = torch.arange(48.0).view(6, 8)[slice(*rows), slice(*columns)].expand(2, 3, -1, -1)
    assert torch.equal(tensor, expected)


def test_sampling_rates_give_the_margins():
    """At half the rate of the image, 2 x 6 pixels become 1 x 3; the rest of 6 x 8 pixels is margin."""
    network = nn.ModuleDict({"a": Framed(), "b": Framed(height=2, width=6)})
    rates = {network["a"].layer: 8, network["b"].layer: 16}
    rule = Rule(r"(?P<site>[ab]\.layer)\.affine", r"\g<site>", rate=rates.__getitem__)
    options = {"mapping": lambda z: z, "synthesis": lambda w: (network["a"](w), network["b"](w))[1]}
    generator = Generator(network, [rule], name="rates", z_dim=4, **options)
    assert [site.size for site in generator.sites] == [(6 - 2 * 2, 8 - 2 * 2), (2, 6)]
    network["b"].sides = (8, 10)
    with pytest.raises(ValueError, match="site b.layer: a tensor of 2 x 6 pixels cannot have margins of -3 and -2"):
        Generator(network, [rule], name="rates", z_dim=4, **options)


@pytest.mark.parametrize(
    "size, options, message",
    [
        ({"width": 0}, {}, r"a style of 3 channels cannot scale a tensor \(1, 3, 6, 0\)"),
        ({"height": 0}, {}, r"a style of 3 channels cannot scale a tensor \(1, 3, 0, 8\)"),
        ({"channels": 0}, {}, r"a style of 0 channels cannot scale a tensor \(1, 0, 6, 8\)"),
        ({}, {"margin": lambda carrier: 3}, "a tensor of 6 x 8 pixels cannot have margins of 3 and 3 pixels"),
        ({}, {"margin": lambda carrier: (0, 4)}, "a tensor of 6 x 8 pixels cannot have margins of 0 and 4 pixels"),
        ({}, {"margin": lambda carrier: (-1, 0)}, "a tensor of 6 x 8 pixels cannot have margins of -1 and 0 pixels"),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_empty_tensors_and_wide_margins_are_refused(size, options, message):
    with pytest.raises(ValueError, match=f"site layer: {message}"):
        framed(Framed(**size), **options)


def test_empty_images_are_refused():
    network = Framed()
    network.sides = (2, 0)
    with pytest.raises(ValueError, match=r"synthesis must give images .*, got \(1, 3, 2, 0\)"):
        framed(network)
    with pytest.raises(ValueError, match="synthesis must give images .*, got dict"):
        Generator(
            network,
            [Rule(r"(?P<site>layer)\.affine", r"\g<site>")],
            name="x",
            z_dim=4,
            mapping=lambda z: z,
            synthesis=lambda w: {"image": network(w)},
        )
