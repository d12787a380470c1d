# SPDX-License-Identifier: Apache-2.0
"""Catalogs of the toy generators that tests share."""

from functools import cache

from networks import shared

from stylefast import Catalog

N, K = 5, 6
RESOLUTION = {"sg1": 16, "sg2": 16, "sg3": 21}


def build(generator, **options):
    defaults = {"n_clusters": K, "resolution": RESOLUTION[generator.name[4:]], "n_init": 2, "batch_size": 2}
    return Catalog.build(generator, generator.latents(range(N)), **{**defaults, "progress": False, **options})


@cache
def built(kind):
    return build(shared(kind))
