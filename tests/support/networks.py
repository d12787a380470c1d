# SPDX-License-Identifier: Apache-2.0
"""Networks shared by tests of generators, and functions that observe them."""

from functools import cache

import torch
from torch import nn

from stylefast.generators import Generator, Rule
from stylefast.generators.toy import toy

shared = cache(toy)


class Layer(nn.Module):
    """Layer that scales its input in place."""

    def __init__(self):
        super().__init__()
        self.affine = nn.Linear(4, 3)

    def forward(self, x, w):
        return x.mul_(self.affine(w)[:, :, None, None]) + 1


class Tiny(nn.Module):
    """Network in which the input of the second style module is not a row of w."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Layer(), Layer()

    def forward(self, w):
        return self.second(self.first(torch.ones(len(w), 3, 2, 2), w), 2 * w)


def tiny():
    torch.manual_seed(0)
    network, rule = Tiny(), Rule(r"(?P<site>\w+)\.affine", r"\g<site>")
    return Generator(network, [rule], name="tiny", z_dim=4, mapping=lambda z: z, synthesis=network)


def own_images(generator, w):
    """Images of w in [0, 1], computed by the network without the `Generator`."""
    with torch.no_grad():
        return (generator.network(w) * 0.5 + 0.5).clamp(0, 1)


def calls(generator, run):
    """Names of the modules that completed a forward pass during `run`."""
    names = []
    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: names.append(name))
        for name, module in generator.network.named_modules()
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return names


def hooks(generator):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in generator.network.modules())
