# SPDX-License-Identifier: Apache-2.0
"""The networks of `originals`, converted to the module of this package."""

from originals import Original

from stylefast.generators.stylegan2 import StyleGAN2
from stylefast.generators.weight_maps import from_genforce, from_hammer, from_nvlabs, from_rosinality

CASES = [
    (family, architecture, clamp)
    for family, architectures in {
        "nvlabs": ("skip", "resnet", "orig"),
        "hammer": ("skip", "resnet", "orig"),
        "rosinality": ("skip",),
        "genforce": ("skip", "orig"),
    }.items()
    for architecture in architectures
    for clamp in ((None, 0.7) if family in ("nvlabs", "hammer") else (None,))
]
CONVERTERS = {
    "nvlabs": lambda original: from_nvlabs(original.state, original.options),
    "hammer": lambda original: from_hammer(original.state),
    "genforce": lambda original: from_genforce(original.state),
    "rosinality": lambda original: from_rosinality(original.state, original.mean),
}


def ours(original: Original) -> StyleGAN2:
    return StyleGAN2(CONVERTERS[original.family](original), clamp=original.clamp)
