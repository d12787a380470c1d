# SPDX-License-Identifier: Apache-2.0
"""Editors of toy generators and their catalogs, shared by tests."""

from functools import cache

import torch
from catalogs import build_catalog
from networks import shared

from stylefast.editing import StyleEditor

LAYERS = {"sg1": 16, "sg2": 16, "sg3": 36}  # resolution of the layer to cluster


@cache
def catalog_of(kind):
    generator = shared(kind)
    w = generator.latents(range(6))
    catalog = build_catalog(generator, w, n_clusters=6, resolution=LAYERS[kind], n_init=1)
    return catalog.annotate({"eyes": [0], "nose": [1, 4], "mouth": [2]})


def editor_of(kind, **options):
    return StyleEditor(shared(kind), catalog_of(kind), **options)


def latents(editor, *seeds):
    return editor.generator.latents(seeds)


class Everything:
    """User-defined strategy: the query is one at all edited sites."""

    name = "everything"

    def __call__(self, catalog, part, sites):
        q = torch.zeros(catalog.contributions.shape[1])
        for site in sites:
            q[site.slice] = 1
        return q
