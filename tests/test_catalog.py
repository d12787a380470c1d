# SPDX-License-Identifier: Apache-2.0
"""Catalogs: M by an independent formula, what a build holds in memory, names of clusters, files, refusals."""

import re
import weakref
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import shared
from safetensors.torch import save_file
from torch.nn import functional as F

from stylefast import Catalog, SphericalKMeans, catalog, contribution, kmeans
from stylefast.generators.toy import toy
from stylefast.regions import FFHQ_REGIONS

N, K = 5, 6
RESOLUTION = {"sg1": 16, "sg2": 16, "sg3": 21}
TENSORS = ("centroids", "runs", "contributions", "occupancy")


def build(generator, **options):
    defaults = {"n_clusters": K, "resolution": RESOLUTION[generator.name[4:]], "n_init": 2, "batch_size": 2}
    return Catalog.build(generator, generator.latents(range(N)), **{**defaults, "progress": False, **options})


@cache
def built(kind):
    return build(shared(kind))


def by_hand(generator, made, n):
    """Labels [n, h, w], and M [K, C] of every site in float64, from all layers of n images at once."""
    tensors = generator.activations(generator.latents(range(n)))
    x = standardized(tensors[made.layer]) if made.features == "standardized" else tensors[made.layer].double()
    x = x.square() if made.features == "squared" else x
    labels = torch.einsum("nchw,kc->nkhw", x, made.centroids.double()).argmax(1)
    one_hot = F.one_hot(labels, made.n_clusters).movedim(-1, 1).double()
    m = {}
    for site in generator.sites:
        a = tensors[site.tensor].double() if site.normalized else standardized(tensors[site.tensor])
        u = F.interpolate(one_hot, size=site.size, mode="bilinear", align_corners=False)
        m[site.name] = torch.einsum("nchw,nkhw->kc", a**2, u) / (n * site.size[0] * site.size[1])
    return labels, m


def standardized(a):
    a = a.double()
    return (a - a.mean((2, 3), keepdim=True)) / (a.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()


def assert_m(generator, made, expected):
    for site in generator.sites:
        torch.testing.assert_close(
            made.contributions[:, site.slice].double(), expected[site.name], rtol=1e-5, atol=1e-8, msg=site.name
        )


# Build


@pytest.mark.parametrize(
    "kind, features", [("sg1", "raw"), ("sg2", "raw"), ("sg3", "raw"), ("sg2", "standardized"), ("sg3", "squared")]
)
def test_every_site_has_m_of_the_tensor_that_its_style_scales(kind, features):
    generator = shared(kind)
    made = build(generator, features=features)
    labels, expected = by_hand(generator, made, N)
    assert_m(generator, made, expected)
    assert made.contributions.shape == (K, generator.style_width) and made.contributions.dtype == torch.float32
    assert torch.equal(made.labels(generator, generator.latents(range(N))), labels.int())
    share = torch.stack([(labels == k).double().mean(0) for k in range(K)]).float()
    torch.testing.assert_close(made.occupancy, share)


def test_tensors_that_are_already_normalized_are_not_normalized_again():
    generator = toy("sg1")
    for layer in generator.network.layers:
        layer.norm.eps = 1.0  # leaves variances well below one, which a second normalisation would lift
    made = build(generator)
    assert_m(generator, made, by_hand(generator, made, N)[1])
    assert made.contributions.sum(0).max() < 0.9


@pytest.mark.parametrize("kind", ["sg2", "sg3"])
def test_columns_of_m_sum_to_the_share_of_the_variance_that_standardizing_leaves(kind):
    generator = shared(kind)
    tensors = generator.activations(generator.latents(range(N)))
    for site in generator.sites:
        var = tensors[site.tensor].double().var((2, 3), correction=0)
        expected = (var / (var + 1e-5)).mean(0).float()
        torch.testing.assert_close(built(kind).contributions[:, site.slice].sum(0), expected, rtol=1e-5, atol=0)


def test_a_build_holds_one_batch_and_the_clustered_layer(monkeypatch):
    generator = toy("sg2")
    visit, activations, assign = generator.visit, generator.activations, catalog.assign
    visits, batches, points = [], [], []

    def watched_visit(w, callback, sites=None, **options):
        def watched(key, tensor):
            copy = tensor.clone()
            kept = weakref.ref(copy)
            callback(key, copy)
            del copy
            assert kept() is None, f"{key} was kept"
            keys.append(key)

        keys = []
        visits.append((len(w), sites, keys))
        assert sites is not None or points[0]() is None, "the clustered layer was kept"
        return visit(w, watched, sites, **options)

    def watched_activations(w, sites):
        assert sum(batch() is not None for batch in batches) <= 1, "batches were kept"
        found = activations(w, sites)
        batches.extend(map(weakref.ref, found.values()))
        return found

    def watched_assign(x, *args, **options):
        points.append(weakref.ref(x))
        return assign(x, *args, **options)

    monkeypatch.setattr(generator, "visit", watched_visit)
    monkeypatch.setattr(generator, "activations", watched_activations)
    monkeypatch.setattr(catalog, "assign", watched_assign)
    build(generator)
    distinct = ["convs.0", "torgbs.0", "convs.2", "torgbs.1", "convs.4", "torgbs.2", "convs.6", "torgbs.3"]
    assert visits[:3] == [(n, ["torgbs.2"], ["torgbs.2"]) for n in (2, 2, 1)]
    assert visits[3:] == [(n, None, distinct) for n in (2, 2, 1)]
    assert not any(batch() is not None for batch in batches)


@pytest.mark.parametrize("given_images, measured", [(2, 2), (3, 3), (N + 1, N)])
def test_the_first_images_measure_m(given_images, measured):
    generator = shared("sg2")
    made = build(generator, contribution_images=given_images)
    assert_m(generator, made, by_hand(generator, made, measured)[1])
    assert torch.equal(made.centroids, built("sg2").centroids)
    assert (made.provenance["images"], made.provenance["contribution_images"]) == (N, measured)


def test_the_best_restart_is_taken_unless_one_is_asked_for():
    generator = shared("sg3")
    (points,) = generator.activations(generator.latents(range(N)), ["layers.1"]).values()
    fitted = SphericalKMeans(K, n_init=3, seed=4).fit(points, progress=False)
    objectives = [run.objective for run in fitted.runs_]
    best = int(np.argmax(objectives))
    assert len(set(objectives)) == 3
    for run in (None, 0, 1, 2):
        made = build(generator, n_init=3, seed=4, run=run, batch_size=N)
        assert made.provenance["objectives"] == objectives and made.provenance["seed"] == 4
        assert made.provenance["run"] == (best if run is None else run)
        assert torch.equal(made.runs, torch.stack([run.centroids for run in fitted.runs_]))
        assert torch.equal(made.centroids, made.runs[made.provenance["run"]])
        assert_m(generator, made, by_hand(generator, made, N)[1])


@pytest.mark.parametrize(
    "kind, options, expected",
    [
        ("sg1", {"resolution": 8}, "layers.3"),
        ("sg2", {"resolution": 32}, "convs.6"),
        ("sg2", {"layer": "convs.2", "resolution": 7}, "convs.2"),
        ("sg2", {"layer": "convs.3"}, "torgbs.1"),
        ("sg3", {"resolution": 36}, "layers.2"),
    ],
)
def test_the_layer_is_the_last_convolution_of_a_resolution_or_the_one_named(kind, options, expected):
    generator = shared(kind)
    made = build(generator, **options)
    size = next(site.size for site in generator.sites if site.name == expected)
    assert made.layer == expected and made.occupancy.shape == (K, *size)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"resolution": 7}, "resolution must be that of a layer of toy:sg2 (4x4, 8x8, 16x16, 32x32), got 7"),
        ({"layer": "convs.9"}, "sites must be among convs.0, torgbs.0, "),
        ({"layer": "convs.0", "n_clusters": 81}, "n_clusters must be at most the number of points other than zero"),
        ({"n_clusters": 0}, "n_clusters must be an integer >= 1, got 0"),
        ({"run": 2}, "run must be in [0, 2), got 2"),
        ({"run": -1}, "run must be in [0, 2), got -1"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"contribution_images": 0}, "contribution_images must be >= 1, got 0"),
        ({"features": "cubed"}, "features must be one of"),
    ],
)
def test_a_build_refuses_what_cannot_be(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(shared("sg2"), **options)


def test_a_build_refuses_no_images():
    with pytest.raises(ValueError, match="the rows of w must be >= 1, got 0"):
        Catalog.build(shared("sg2"), shared("sg2").latents([]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("before", ["convs.3", "convs.5"])
def test_a_build_refuses_activations_that_are_not_finite(before, value):
    generator = toy("sg2")
    generator.network.get_submodule(before).weight.data[0, 0, 0, 0] = value
    clustered = r"activations must be finite, got \d+ of 1280 points"  # convs.3 comes before the clustered layer
    message = clustered if before == "convs.3" else "activations of site convs.6 must be finite, got NaN or Inf"
    with pytest.raises(ValueError, match=message):
        build(generator)


def test_progress_shows_the_images_of_both_passes_unless_it_is_off_or_short(monkeypatch, capfd):
    build(shared("sg2"), progress=True)
    assert capfd.readouterr().err == ""
    for module in (catalog, kmeans):
        bar = module.tqdm
        monkeypatch.setattr(module, "tqdm", lambda *args, bar=bar, **options: bar(*args, **{**options, "delay": 0}))
    build(shared("sg2"), progress=True, contribution_images=3)
    shown = capfd.readouterr().err
    assert "catalog: 100%" in shown and f"{N + 3}/{N + 3}" in shown and "k-means" in shown
    build(shared("sg2"), progress=False)
    assert capfd.readouterr().err == ""


def test_the_stages_of_a_build_are_timed():
    seconds = built("sg2").provenance["seconds"]
    assert set(seconds) == {"generator", "clustering", "contribution"} and min(seconds.values()) > 0


# Parts


def drawn():
    """Clusters on a frame of 4 x 8: the upper left quarter, all of it, the bottom row, nothing."""
    occupancy = torch.zeros(4, 4, 8)
    occupancy[0, :2, :4] = 0.3
    occupancy[1] = 0.6
    occupancy[2, 3] = 0.1
    m = torch.arange(12.0).view(4, 3).square()
    return replace(built("sg2"), centroids=torch.eye(4), contributions=m, occupancy=occupancy)


ALL, LEFT, BOTTOM = [(0, 0, 1, 1)], [(0, 0, 0.5, 1)], [(0, 0.75, 1, 1)]
EIGHTH = [(0, 0, 0.125, 1)]  # a quarter of cluster 0


@pytest.mark.parametrize(
    "regions, threshold, parts",
    [
        ({"a": [2, 0], "b": (1,)}, 0.5, {"a": [0, 2], "b": [1]}),
        ({"a": [np.int64(3)]}, 0.5, {"a": [3]}),
        ({"left": LEFT, "bottom": BOTTOM, "all": ALL}, 0.5, {"left": [0], "bottom": [2], "all": [1]}),
        ({"all": ALL, "left": LEFT, "bottom": BOTTOM}, 0.5, {"all": [0, 1, 2], "left": [], "bottom": []}),
        ({"bottom": BOTTOM, "left": LEFT}, 0.24, {"bottom": [1, 2], "left": [0]}),
        ({"left": LEFT}, 0.49, {"left": [0, 1, 2]}),
        ({"eighth": EIGHTH}, 0.25, {"eighth": []}),
        ({"eighth": EIGHTH}, 0.24, {"eighth": [0]}),
        ({"twice": [*EIGHTH, *EIGHTH]}, 0.25, {"twice": []}),
        ({"both": [*EIGHTH, (0.125, 0, 0.25, 1)]}, 0.49, {"both": [0]}),
        ({"between": [(0, 0, 0.1875, 0.5)]}, 0.37, {"between": [0]}),
        ({"between": [(0, 0, 0.1875, 0.5)]}, 0.38, {"between": []}),
        ({"all": ALL, "a": [0]}, 0.5, {"all": [1, 2], "a": [0]}),
    ],
)
def test_clusters_are_named_by_ids_then_by_the_first_place_that_holds_them(regions, threshold, parts):
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


def test_a_mask_weighs():
    mask = torch.full((4, 8), 0.5)
    assert drawn().annotate({"half": mask}, threshold=0.51).parts == {"half": []}
    assert drawn().annotate({"half": mask}, threshold=0.49).parts == {"half": [0, 1, 2]}
    stripes = torch.zeros(16, 32)
    stripes[:, ::4] = 1
    assert drawn().annotate({"stripes": stripes}, threshold=0.26).parts == {"stripes": []}
    assert drawn().annotate({"stripes": stripes}, threshold=0.24).parts == {"stripes": [0, 1, 2]}


def test_annotating_again_forgets_the_names_so_far():
    named = drawn()
    assert named.annotate({"a": [0]}) is named
    assert named.annotate({"b": [1]}).parts == {"b": [1]}
    with pytest.raises(ValueError):
        named.annotate({"c": [2], "d": [4]})
    assert named.parts == {"b": [1]}


def test_the_parts_of_an_aligned_face_lie_where_they_lie():
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
def test_annotating_refuses_what_cannot_be(regions, threshold, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        drawn().annotate(regions, threshold=threshold)


def test_the_contribution_of_a_part_is_the_sum_of_its_rows():
    named = drawn().annotate({"a": [0, 2], "b": [3]})
    assert named.contribution("a").tolist() == [0 + 36, 1 + 49, 4 + 64]
    assert named.contribution("b").tolist() == [81, 100, 121]
    assert named.clusters("a") == [0, 2]


def test_a_part_that_is_none_is_refused_with_those_there_are():
    named = drawn()
    message = "part must be one with clusters, got 'nose'; parts: "
    for ask in (named.contribution, named.clusters, partial(named.part_map, torch.zeros(1, 2, 2, dtype=torch.int32))):
        named.parts = {}
        with pytest.raises(ValueError, match=re.escape(message + "none; annotate the catalog first")):
            ask("nose")
        named.annotate({"eyes": [0, 2], "nose": [(0, 0, 0.01, 0.01)]})
        with pytest.raises(ValueError, match=re.escape(message + "eyes [0, 2], nose []")):
            ask("nose")


def test_a_part_map_shows_where_the_labels_are_those_of_the_part():
    labels = torch.tensor([[[0, 1, 2], [3, 2, 0]]], dtype=torch.int32)
    got = drawn().annotate({"a": [0, 2]}).part_map(labels, "a")
    assert got.tolist() == [[[True, False, True], [False, True, True]]]


@settings(max_examples=10)
@given(st.lists(st.integers(0, 2), min_size=K, max_size=K).filter(lambda owner: set(owner) == {0, 1, 2}))
def test_parts_contribute_what_clusters_merged_before_the_measurement_contribute(owner):
    generator = shared("sg2")
    w, site = generator.latents(range(N)), generator.sites[-1]
    made = replace(built("sg2")).annotate({str(p): [k for k in range(K) if owner[k] == p] for p in range(3)})
    merged = torch.tensor(owner)[made.labels(generator, w).long()]
    (tensor,) = generator.activations(w, [site.name]).values()
    got = torch.stack([made.contribution(str(p))[site.slice] for p in range(3)])
    torch.testing.assert_close(got, contribution(tensor, merged, 3), rtol=1e-5, atol=1e-7)


# Files


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "faces.safetensors"
    replace(built("sg2")).annotate({"second": [3, 1], "first": [0], "none": [(0, 0, 0.01, 0.01)]}).save(path)
    return path


def test_a_file_gives_back_the_catalog_bit_for_bit(saved):
    made, generator = built("sg2"), shared("sg2")
    for path in (saved, str(saved)):
        read = Catalog.load(path, generator)
        for name in TENSORS:
            got, expected = getattr(read, name), getattr(made, name)
            assert got.dtype == expected.dtype and torch.equal(got, expected), name
        assert list(read.parts.items()) == [("second", [1, 3]), ("first", [0]), ("none", [])]
        for name in ("generator", "fingerprint", "sites", "layer", "features", "provenance"):
            assert getattr(read, name) == getattr(made, name), name
        assert asdict(read.sites[0]) == asdict(generator.sites[0]) and isinstance(read.sites[0].size, tuple)


def test_saving_again_and_into_a_new_folder(saved):
    read = Catalog.load(saved)
    read.annotate({"other": [5]}).save(saved)
    assert Catalog.load(saved).parts == {"other": [5]}
    read.save(saved.parent / "new" / "folder" / "faces")
    assert Catalog.load(saved.parent / "new" / "folder" / "faces").parts == {"other": [5]}


def test_tensors_that_are_views_are_saved_as_they_look(tmp_path):
    made = built("sg2")
    flipped = replace(made, contributions=made.contributions.T.contiguous().T, centroids=made.runs[0])
    flipped.save(tmp_path / "views")
    assert torch.equal(Catalog.load(tmp_path / "views").contributions, made.contributions)
    assert torch.equal(Catalog.load(tmp_path / "views").centroids, made.runs[0])


def test_a_catalog_of_another_kind_is_refused_with_the_first_site_that_differs(saved):
    message = (
        f"{saved} is no catalog that can be used: catalog of 'toy:sg2' does not belong to generator 'toy:sg1': the "
        "first site that differs is convs.0 (4, 4) x 32 in the catalog, layers.0 (4, 4) x 32 in the generator"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        Catalog.load(saved, shared("sg1"))


def test_the_first_site_that_differs_may_be_any_and_so_may_the_count():
    made = built("sg2")
    wider = replace(made.sites[3], channels=48)
    with pytest.raises(ValueError, match=re.escape("convs.2 (8, 8) x 48 in the catalog, convs.2 (8, 8) x 32 in the")):
        replace(made, sites=(*made.sites[:3], wider, *made.sites[4:])).check(shared("sg2"))
    for sites, count in ((made.sites[:-1], 10), ((*made.sites, wider), 12)):
        with pytest.raises(ValueError, match=f"{count} sites in the catalog, 11 in the generator"):
            replace(made, sites=sites).check(shared("sg2"))


def test_a_catalog_of_other_weights_is_refused(saved):
    Catalog.load(saved, toy("sg2")).check(toy("sg2"))
    with pytest.raises(ValueError, match=re.escape(f"{saved} is no catalog that can be used: ") + ".* other weights"):
        Catalog.load(saved, toy("sg2", seed=1))


def test_files_that_are_no_catalogs_are_refused_by_name(saved, tmp_path):
    whole = saved.read_bytes()
    wrong = {"half": whole[: len(whole) // 2], "short": whole[:100], "less": whole[:-1]}
    wrong |= {"empty": b"", "text": b"no tensors, only words " * 9}
    for name, content in wrong.items():
        (tmp_path / name).write_bytes(content)
    tensors = {name: getattr(built("sg2"), name) for name in TENSORS}
    save_file(tensors, tmp_path / "foreign")
    save_file(tensors, tmp_path / "later", metadata={"format": "stylefast-catalog-2", "catalog": "{}"})
    save_file(tensors, tmp_path / "headless", metadata={"format": catalog.FORMAT})
    save_file(tensors, tmp_path / "garbled", metadata={"format": catalog.FORMAT, "catalog": "{"})
    save_file(tensors, tmp_path / "hollow", metadata={"format": catalog.FORMAT, "catalog": '{"sites": []}'})
    save_file({}, tmp_path / "bare", metadata={"format": catalog.FORMAT, "catalog": "{}"})
    for name in (*wrong, "foreign", "later", "headless", "garbled", "hollow", "bare"):
        with pytest.raises(ValueError, match=re.escape(f"{tmp_path / name} is no catalog that can be used: ")):
            Catalog.load(tmp_path / name)
    with pytest.raises(ValueError, match="its format is None, not 'stylefast-catalog-1'"):
        Catalog.load(tmp_path / "foreign")
    with pytest.raises(FileNotFoundError, match="missing"):
        Catalog.load(tmp_path / "missing")


def test_an_interrupted_save_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
    before = saved.read_bytes()

    def interrupted(tensors, path, metadata):
        Path(path).write_bytes(before[: len(before) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(catalog, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        built("sg2").save(saved)
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]
