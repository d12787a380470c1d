# SPDX-License-Identifier: Apache-2.0
"""Catalog of the clusters of two layers."""

import joint_layers
import pytest
import torch
from networks import shared

from stylefast.catalog import Clustering


def test_the_clusters_of_two_layers_divide_every_channel(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(joint_layers, "RESOLUTIONS", (8, 16))
    generator = shared("sg2")
    w = generator.latents(range(6))
    catalog = joint_layers.joint_catalog(generator, w, Clustering(n_clusters=5, n_init=2), n_measured=5)
    assert next(site for site in generator.sites if site.tensor == catalog.layer).size == (16, 16)
    torch.testing.assert_close(catalog.occupancy.sum(0), torch.ones(16, 16, dtype=torch.float32, device="cpu"))
    for site in generator.sites:
        if not site.normalized:
            total = catalog.contributions[:, site.slice].sum(0)
            torch.testing.assert_close(total, torch.ones_like(total), atol=1e-3, rtol=0)
