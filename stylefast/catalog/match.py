# SPDX-License-Identifier: Apache-2.0
"""Check that a catalog belongs to a generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..generators import Generator, Site


def check_match(name: str, sites: Sequence[Site], fingerprint: Mapping[str, str], generator: Generator) -> None:
    """Raise ValueError if a catalog, given by its fields, belongs to another generator.

    The message names the first difference.
    """
    prefix = f"catalog of {name!r} does not belong to"
    for site, actual in zip(sites, generator.sites, strict=False):
        if site != actual:
            raise ValueError(
                f"{prefix} generator {generator.name!r}: "
                f"the first site that differs is {site.name} {site.size} x {site.channels} in the catalog, "
                f"{actual.name} {actual.size} x {actual.channels} in the generator"
            )
    if len(sites) != len(generator.sites):
        counts = f"{len(sites)} sites in the catalog, {len(generator.sites)} in the generator"
        raise ValueError(f"{prefix} generator {generator.name!r}: {counts}")
    if fingerprint != generator.fingerprint:
        raise ValueError(f"{prefix} {generator.name!r}: other weights")
