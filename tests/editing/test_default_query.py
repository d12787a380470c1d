# SPDX-License-Identifier: Apache-2.0
"""Defaults of the sequential strategy, with which the query of a part is never empty."""

from dataclasses import replace

import pytest
import torch
from editors import catalog_of, editor_of
from networks import shared

from stylefast.editing import Edit, Sequential, StyleEditor


def largest(editor, part):
    return max(editor.catalog.contribution(part)[site.slice].max().item() for site in editor.sites)


@pytest.mark.parametrize("part", ["eyes", "nose", "mouth"])
@pytest.mark.parametrize("kind", ["sg1", "sg2", "sg3"])
def test_the_threshold_is_a_share_of_the_largest_contribution(kind, part):
    editor = editor_of(kind)
    for epsilon, share in ((1.0, 0.5), (16.0, 0.55), (16.0, 0.9)):
        expected = editor.query(part, Sequential(epsilon, share * largest(editor, part)))
        assert torch.equal(editor.query(part, Sequential(epsilon, share=share)), expected)
    q = editor.query(part, Sequential())
    assert torch.equal(q, editor.query(part, Sequential(16.0, share=0.55)))
    m = editor.catalog.contribution(part)[q.bool()]
    assert len(m) and m.min() > 0.55 * largest(editor, part)


@pytest.mark.parametrize(
    "given, epsilon, rho, share",
    [
        ({}, 16.0, None, 0.55),
        ({"fractional": True}, 16.0, None, 0.55),
        ({"share": 0.4}, 16.0, None, 0.4),
        ({"epsilon": 4.0, "share": 0.4}, 4.0, None, 0.4),
        ({"epsilon": 4.0}, 4.0, 0.1, None),
        ({"rho": 0.2}, 1.0, 0.2, None),
        ({"epsilon": (1.0, 2.0), "rho": 0.0}, (1.0, 2.0), 0.0, None),
    ],
)
def test_a_number_replaces_the_defaults_that_adapt(given, epsilon, rho, share):
    query = Sequential(**given)
    assert (query.epsilon, query.rho, query.share) == (epsilon, rho, share)
    assert Edit(0, 0, "nose", query).parameters["query"] == {
        "kind": "sequential",
        "epsilon": epsilon,
        **({"rho": rho} if share is None else {"share": share}),
        "fractional": given.get("fractional", False),
    }


@pytest.mark.parametrize("given", [{"share": 1.5}, {"share": float("nan")}, {"share": 0.5, "rho": 0.1}])
def test_a_share_is_in_0_to_1_and_excludes_rho(given):
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\], without rho"):
        Sequential(**given)


def test_channels_of_torgb_sites_count_only_with_rgb():
    catalog = replace(catalog_of("sg2"), contributions=catalog_of("sg2").contributions * 0.5)
    site = next(site for site in catalog.sites if site.kind == "rgb")
    catalog.contributions[0, site.start] = 1.0
    plain, with_rgb = (
        StyleEditor(shared("sg2"), catalog, rgb=rgb).query("eyes", Sequential()) for rgb in (False, True)
    )
    assert plain.any() and not plain[site.slice].any()
    assert with_rgb.nonzero().flatten().tolist() == [site.start]


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4])
def test_a_part_that_hardly_contributes_gets_channels(scale):
    catalog = replace(catalog_of("sg2"), contributions=catalog_of("sg2").contributions * scale)
    editor = StyleEditor(shared("sg2"), catalog)
    assert all(editor.query(part, Sequential()).any() for part in catalog.parts)
    silent = StyleEditor(shared("sg2"), replace(catalog, contributions=catalog.contributions * 0))
    assert not silent.query("eyes", Sequential()).any()
