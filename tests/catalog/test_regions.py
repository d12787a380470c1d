# SPDX-License-Identifier: Apache-2.0
"""Naming of clusters by ids, boxes and masks; the contribution and the map of a part."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from catalogs import K, N, built
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import shared

from stylefast import contribution
from stylefast.catalog import FFHQ_REGIONS


def drawn():
    """Catalog of four clusters on 4 x 8 positions: the upper left quarter, all positions, the bottom row, and none."""
    occupancy = torch.zeros(4, 4, 8)
    occupancy[0, :2, :4] = 0.3
    occupancy[1] = 0.6
    occupancy[2, 3] = 0.1
    m = torch.arange(12.0).view(4, 3).square()
    return replace(built("sg2"), centroids=torch.eye(4), contributions=m, occupancy=occupancy)


ALL, LEFT, BOTTOM = [(0, 0, 1, 1)], [(0, 0, 0.5, 1)], [(0, 0.75, 1, 1)]
EIGHTH = [(0, 0, 0.125, 1)]  # holds a quarter of the mass of cluster 0


@pytest.mark.parametrize(
    "regions, threshold, parts",
    [
        ({"a": [2, 0], "b": (1,)}, 0.5, {"a": [0, 2], "b": [1]}),
        ({"a": [np.int64(3)]}, 0.5, {"a": [3]}),
        ({"left": LEFT, "bottom": BOTTOM, "all": ALL}, 0.5, {"left": [0], "bottom": [2], "all": [1]}),
        ({"all": ALL, "left": LEFT, "bottom": BOTTOM}, 0.5, {"all": [0, 1, 2], "left": [], "bottom": []}),
        ({"bottom": BOTTOM, "left": LEFT}, 0.24, {"bottom": [1, 2], "left": [0]}),
        ({"left": LEFT}, 0.49, {"left": [0, 1, 2]}),
        ({"eighth": EIGHTH}, 0.125, {"eighth": [0]}),
        ({"eighth": EIGHTH}, 0.124, {"eighth": [0, 1, 2]}),
        ({"twice": [*EIGHTH, *EIGHTH]}, 0.2, {"twice": [0]}),
        ({"both": [*EIGHTH, (0.125, 0, 0.25, 1)]}, 0.24, {"both": [0, 1, 2]}),
        ({"between": [(0, 0, 0.1875, 0.5)]}, 0.093, {"between": [0, 1]}),
        ({"between": [(0, 0, 0.1875, 0.5)]}, 0.094, {"between": [0]}),
        ({"all": ALL, "a": [0]}, 0.5, {"all": [1, 2], "a": [0]}),
        ({"eighth": EIGHTH, "left": LEFT}, 0.5, {"eighth": [0], "left": [1]}),
        ({"a": [0], "eighth": EIGHTH}, 0.5, {"a": [0], "eighth": [1]}),
        ({"eighth": EIGHTH, "a": [0, 1, 2]}, 0.5, {"eighth": [], "a": [0, 1, 2]}),
    ],
)
def test_clusters_are_named_by_ids_then_by_boxes(regions, threshold, parts):
    named = drawn().annotate(regions, threshold=threshold)
    assert named.parts == parts and list(named.parts) == list(parts)
    assert all(type(k) is int for ids in named.parts.values() for k in ids)


@pytest.mark.parametrize("of", [lambda mask: mask, lambda mask: mask.bool(), lambda mask: mask.double().numpy()])
@pytest.mark.parametrize("size", [(4, 8), (8, 16), (2, 2)])
def test_clusters_are_named_by_masks_of_any_size(size, of):
    mask = torch.zeros(size)
    mask[:, : size[1] // 2] = 1
    assert drawn().annotate({"left": of(mask)}, threshold=0.5).parts == {"left": [0]}
    assert drawn().annotate({"left": of(mask)}, threshold=0.49).parts == {"left": [0, 1, 2]}


def test_the_values_of_a_mask_are_weights():
    mask = torch.full((4, 8), 0.5)
    assert drawn().annotate({"half": mask}, threshold=0.51).parts == {"half": [0]}
    assert drawn().annotate({"half": mask}, threshold=0.49).parts == {"half": [0, 1, 2]}
    stripes = torch.zeros(16, 32)
    stripes[:, ::4] = 1
    assert drawn().annotate({"stripes": stripes}, threshold=0.26).parts == {"stripes": [0]}
    assert drawn().annotate({"stripes": stripes}, threshold=0.24).parts == {"stripes": [0, 1, 2]}


def test_annotating_again_replaces_all_names():
    named = drawn()
    assert named.annotate({"a": [0]}) is named
    assert named.annotate({"b": [1]}).parts == {"b": [1]}
    with pytest.raises(ValueError):
        named.annotate({"c": [2], "d": [4]})
    assert named.parts == {"b": [1]}


def test_ffhq_regions_name_the_parts_of_an_aligned_face():
    places = {"eyes": [(7, 5), (7, 10)], "nose": [(9, 8)], "mouth": [(11, 8)], "skin": [(9, 4)], "background": [(1, 8)]}
    spots = [(part, spot) for part, spots in places.items() for spot in spots]
    occupancy = torch.zeros(len(spots), 16, 16)
    for k, (_, (row, column)) in enumerate(spots):
        occupancy[k, row, column] = 1
    named = replace(drawn(), centroids=torch.eye(len(spots)), occupancy=occupancy).annotate(FFHQ_REGIONS)
    assert named.parts == {part: [k for k, (name, _) in enumerate(spots) if name == part] for part in places}


@pytest.mark.parametrize(
    "regions, threshold, message",
    [
        ({"a": [0, 4]}, 0.5, "part 'a' must list cluster ids in [0, 4), got [0, 4]"),
        ({"a": [-1]}, 0.5, "part 'a' must list cluster ids in [0, 4), got [-1]"),
        ({"a": []}, 0.5, "part 'a' must list cluster ids in [0, 4), got []"),
        ({"a": [1], "b": [2, 1]}, 0.5, "cluster 1 must belong to one part, got 'a' and 'b'"),
        ({"a": [(0, 0, 1)]}, 0.5, "part 'a' must have boxes (x from, y from, x to, y to) in [0, 1], got (0, 0, 1)"),
        ({"a": [(0, 0, 1.1, 1)]}, 0.5, "in [0, 1], got (0, 0, 1.1, 1)"),
        ({"a": [(0, -0.1, 1, 1)]}, 0.5, "in [0, 1], got (0, -0.1, 1, 1)"),
        ({"a": [(0.5, 0, 0.5, 1)]}, 0.5, "in [0, 1], got (0.5, 0, 0.5, 1)"),
        ({"a": [(0, 0.6, 1, 0.4)]}, 0.5, "in [0, 1], got (0, 0.6, 1, 0.4)"),
        ({"a": torch.ones(4)}, 0.5, "part 'a' must be a mask [h, w] with h, w >= 1, got (4,)"),
        ({"a": torch.ones(0, 4)}, 0.5, "part 'a' must be a mask [h, w] with h, w >= 1, got (0, 4)"),
        ({"a": torch.tensor([[0.0, 1.5]])}, 0.5, "part 'a' must be a mask of weights in [0, 1], got 0 to 1.5"),
        ({"a": np.array([[-1.0, 0.5]])}, 0.5, "part 'a' must be a mask of weights in [0, 1], got -1 to 0.5"),
        ({"a": torch.tensor([[0.0, float("nan")]])}, 0.5, "part 'a' must be a mask of weights in [0, 1], got nan"),
        ({"a": ALL}, 1, "threshold must be in [0, 1), got 1"),
        ({"a": ALL}, -0.1, "threshold must be in [0, 1), got -0.1"),
        ({"a": ALL}, float("nan"), "threshold must be in [0, 1), got nan"),
    ],
)
def test_annotating_refuses_invalid_regions(regions, threshold, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        drawn().annotate(regions, threshold=threshold)


def test_the_contribution_of_a_part_is_the_sum_of_its_rows():
    named = drawn().annotate({"a": [0, 2], "b": [3]})
    assert named.contribution("a").tolist() == [0 + 36, 1 + 49, 4 + 64]
    assert named.contribution("b").tolist() == [81, 100, 121]
    assert named.clusters("a") == [0, 2]


def test_an_unknown_part_is_refused_with_a_list_of_parts():
    named = drawn()
    for ask in (named.contribution, named.clusters, partial(named.part_map, torch.zeros(1, 2, 2, dtype=torch.int32))):
        named.parts = {}
        with pytest.raises(ValueError, match="got 'nose' for a catalog that is not annotated"):
            ask("nose")
        named.annotate({"eyes": [0, 2], "nose": torch.zeros(4, 8)})
        with pytest.raises(ValueError, match="part must have clusters, got 'nose', which has none"):
            ask("nose")
        with pytest.raises(ValueError, match="part must be one of 'eyes', 'nose', got 'noes'; did you mean 'nose'"):
            ask("noes")


@pytest.mark.parametrize("name", ["", " eyes", "eyes\n", "a,b", "a/b", "a\\b", "a=b", "..", "\x1b", "\udcc3", "é" * 51])
def test_names_that_edits_cannot_use_are_refused(name):
    with pytest.raises(ValueError, match="names of parts must be texts of 1 to 100 bytes"):
        drawn().annotate({name: [0]})


@pytest.mark.parametrize("name", ["eyes", "left eye", "bouche_é", "鼻", "é" * 50])
def test_names_may_have_letters_of_all_languages(name):
    assert drawn().annotate({name: [0]}).clusters(name) == [0]


def test_a_part_map_is_true_where_labels_belong_to_the_part():
    labels = torch.tensor([[[0, 1, 2], [3, 2, 0]]], dtype=torch.int32)
    got = drawn().annotate({"a": [0, 2]}).part_map(labels, "a")
    assert got.tolist() == [[[True, False, True], [False, True, True]]]


@settings(max_examples=10)
@given(st.lists(st.integers(0, 2), min_size=K, max_size=K).filter(lambda owner: set(owner) == {0, 1, 2}))
def test_a_part_contributes_as_much_as_its_clusters_merged(owner):
    generator = shared("sg2")
    w, site = generator.latents(range(N)), generator.sites[-1]
    catalog = replace(built("sg2")).annotate({str(p): [k for k in range(K) if owner[k] == p] for p in range(3)})
    merged = torch.tensor(owner)[catalog.labels(generator, w).long()]
    (tensor,) = generator.activations(w, [site.name]).values()
    got = torch.stack([catalog.contribution(str(p))[site.slice] for p in range(3)])
    torch.testing.assert_close(got, contribution(tensor, merged, 3), rtol=1e-5, atol=1e-7)
