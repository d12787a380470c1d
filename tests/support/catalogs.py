# SPDX-License-Identifier: Apache-2.0
"""Catalogs of toy generators, shared by tests."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

from networks import shared

from stylefast import Catalog
from stylefast.catalog import BuildOptions, Clustering
from stylefast.generators import Generator

N, K = 5, 6
RESOLUTION = {"sg1": 16, "sg2": 16, "sg3": 21}


def build_catalog(generator: Generator, w: Any, **options: Any) -> Catalog:
    """Call `Catalog.build`; the fields of its option objects are keywords."""
    groups = (Clustering, BuildOptions)
    grouped = [group(**{f.name: options.pop(f.name) for f in fields(group) if f.name in options}) for group in groups]
    return Catalog.build(generator, w, *grouped, **{"progress": False, **options})


def build(generator: Generator, **options: Any) -> Catalog:
    """Build a catalog from the images of the first N seeds."""
    defaults = {"n_clusters": K, "resolution": RESOLUTION[generator.name[4:]], "n_init": 2, "batch_size": 2}
    return build_catalog(generator, generator.latents(range(N)), **{**defaults, **options})


@cache
def built(kind: str) -> Catalog:
    return build(shared(kind))
