# SPDX-License-Identifier: Apache-2.0
"""Catalog builds: M by an independent formula, memory use, restarts, choice of the layer, refused arguments."""

import re
import weakref

import numpy as np
import pytest
import torch
from catalogs import K, N, build, build_catalog, built
from networks import shared
from torch.nn import functional as F

from stylefast import SphericalKMeans
from stylefast.catalog import build as steps
from stylefast.core import progress
from stylefast.generators import Generator
from stylefast.generators.toy import toy


def by_hand(generator, catalog, n):
    """Labels [n, h, w] and M [K, C] of every site in float64, computed from all layers of n images at once."""
    tensors = generator.activations(generator.latents(range(n)))
    x = standardized(tensors[catalog.layer]) if catalog.features == "standardized" else tensors[catalog.layer].double()
    x = x.square() if catalog.features == "squared" else x
    labels = torch.einsum("nchw,kc->nkhw", x, catalog.centroids.double()).argmax(1)
    one_hot = F.one_hot(labels, catalog.n_clusters).movedim(-1, 1).double()
    m = {}
    for site in generator.sites:
        a = tensors[site.tensor].double() if site.normalized else standardized(tensors[site.tensor])
        u = F.interpolate(one_hot, size=site.size, mode="bilinear", align_corners=False)
        m[site.name] = torch.einsum("nchw,nkhw->kc", a**2, u) / (n * site.size[0] * site.size[1])
    return labels, m


def standardized(a):
    a = a.double()
    return (a - a.mean((2, 3), keepdim=True)) / (a.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()


def assert_m(generator, catalog, expected):
    for site in generator.sites:
        torch.testing.assert_close(
            catalog.contributions[:, site.slice].double(), expected[site.name], rtol=1e-5, atol=1e-8, msg=site.name
        )


@pytest.mark.parametrize(
    "kind, features", [("sg1", "raw"), ("sg2", "raw"), ("sg3", "raw"), ("sg2", "standardized"), ("sg3", "squared")]
)
def test_every_site_has_m_of_the_tensor_that_its_style_scales(kind, features):
    generator = shared(kind)
    catalog = build(generator, features=features)
    labels, expected = by_hand(generator, catalog, N)
    assert_m(generator, catalog, expected)
    assert catalog.contributions.shape == (K, generator.style_width) and catalog.contributions.dtype == torch.float32
    assert torch.equal(catalog.labels(generator, generator.latents(range(N))), labels.int())
    share = torch.stack([(labels == k).double().mean(0) for k in range(K)]).float()
    torch.testing.assert_close(catalog.occupancy, share)


def test_normalized_tensors_are_not_normalized_again():
    generator = toy("sg1")
    for layer in generator.network.layers:
        layer.norm.eps = 1.0  # variances stay well below 1; a second normalisation would raise them to 1
    catalog = build(generator)
    assert_m(generator, catalog, by_hand(generator, catalog, N)[1])
    assert catalog.contributions.sum(0).max() < 0.9


@pytest.mark.parametrize("kind", ["sg2", "sg3"])
def test_columns_of_m_sum_to_the_standardized_variance(kind):
    generator = shared(kind)
    tensors = generator.activations(generator.latents(range(N)))
    for site in generator.sites:
        var = tensors[site.tensor].double().var((2, 3), correction=0)
        expected = (var / (var + 1e-5)).mean(0).float()
        torch.testing.assert_close(built(kind).contributions[:, site.slice].sum(0), expected, rtol=1e-5, atol=0)


def test_a_build_keeps_one_batch_and_the_clustered_layer(monkeypatch):
    generator = toy("sg2")
    visit, activations, assign = generator.visit, generator.activations, steps.assign
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
        tensors = activations(w, sites)
        batches.extend(map(weakref.ref, tensors.values()))
        return tensors

    def watched_assign(x, *args, **options):
        points.append(weakref.ref(x))
        return assign(x, *args, **options)

    monkeypatch.setattr(generator, "visit", watched_visit)
    monkeypatch.setattr(generator, "activations", watched_activations)
    monkeypatch.setattr(steps, "assign", watched_assign)
    build(generator)
    distinct = ["convs.0", "torgbs.0", "convs.2", "torgbs.1", "convs.4", "torgbs.2", "convs.6", "torgbs.3"]
    assert visits[:3] == [(n, ["torgbs.2"], ["torgbs.2"]) for n in (2, 2, 1)]
    assert visits[3:] == [(n, None, distinct) for n in (2, 2, 1)]
    assert not any(batch() is not None for batch in batches)


@pytest.mark.parametrize("measured", [2, 3, N])
def test_m_is_measured_on_the_first_images(measured):
    generator = shared("sg2")
    catalog = build(generator, contribution_images=measured)
    assert_m(generator, catalog, by_hand(generator, catalog, measured)[1])
    assert torch.equal(catalog.centroids, built("sg2").centroids)
    assert (catalog.provenance["images"], catalog.provenance["contribution_images"]) == (N, measured)


def test_the_best_restart_is_used_unless_another_is_chosen():
    generator = shared("sg3")
    (points,) = generator.activations(generator.latents(range(N)), ["layers.1"]).values()
    fitted = SphericalKMeans(K, n_init=3, seed=4).fit(points)
    objectives = [run.objective for run in fitted.runs_]
    best = int(np.argmax(objectives))
    assert len(set(objectives)) == 3
    for run in (None, 0, 1, 2):
        catalog = build(generator, n_init=3, seed=4, run=run, batch_size=N)
        assert catalog.provenance["objectives"] == objectives and catalog.provenance["seed"] == 4
        assert catalog.provenance["run"] == (best if run is None else run)
        assert torch.equal(catalog.runs, torch.stack([run.centroids for run in fitted.runs_]))
        assert torch.equal(catalog.centroids, catalog.runs[catalog.provenance["run"]])
        assert_m(generator, catalog, by_hand(generator, catalog, N)[1])


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
def test_the_layer_is_the_last_of_a_resolution_or_the_named_one(kind, options, expected):
    generator = shared(kind)
    catalog = build(generator, **options)
    size = next(site.size for site in generator.sites if site.name == expected)
    assert catalog.layer == expected and catalog.occupancy.shape == (K, *size)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"resolution": 7}, "resolution must be that of a layer of toy:sg2 (4x4, 8x8, 16x16, 32x32), got 7"),
        ({"layer": "convs.9"}, "layer must be one of 'convs.0', 'torgbs.0', "),
        ({"layer": "convs.0", "n_clusters": 81}, "n_clusters must be at most the number of nonzero points"),
        ({"n_clusters": 0}, "n_clusters must be an integer >= 1, got 0"),
        ({"run": 2}, "run must be in [0, 2), got 2"),
        ({"run": -1}, "run must be in [0, 2), got -1"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
        ({"contribution_images": 0}, "contribution_images must be an integer >= 1, got 0"),
        ({"contribution_images": N + 1}, f"contribution_images must be at most {N}, got {N + 1}"),
        ({"features": "cubed"}, "features must be one of"),
    ],
)
def test_a_build_refuses_invalid_options(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(shared("sg2"), **options)


@pytest.mark.parametrize(
    "regions, message",
    [
        ({"a,b": [0]}, "names of parts must be texts of 1 to 100 bytes"),
        ({"a": [0, K]}, f"part 'a' must list cluster ids in [0, {K}), got [0, {K}]"),
        ({"a": [(0, 0, 2, 1)]}, "part 'a' must have boxes (x from, y from, x to, y to) in [0, 1], got (0, 0, 2, 1)"),
        ({"a": torch.tensor([[2.0]])}, "part 'a' must be a mask of weights in [0, 1], got 2 to 2"),
    ],
)
def test_regions_are_checked_before_the_generator_runs(monkeypatch, regions, message):
    generator = shared("sg2")
    w = generator.latents(range(N))
    monkeypatch.setattr(Generator, "activations", None)
    for known in (None, torch.ones(K, generator.sites[-1].channels)):
        options = {"n_clusters": K + (known is not None), "layer": generator.sites[-1].name, "centroids": known}
        with pytest.raises(ValueError, match=re.escape(message)):
            build_catalog(generator, w, regions=regions, **options)


def test_a_build_without_images_is_refused():
    with pytest.raises(ValueError, match="w must hold at least one latent, got none"):
        build_catalog(shared("sg2"), shared("sg2").latents([]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("before", ["convs.3", "convs.5"])
def test_a_build_refuses_activations_that_are_not_finite(before, value):
    generator = toy("sg2")
    generator.network.get_submodule(before).weight.data[0, 0, 0, 0] = value
    clustered = r"activations must be finite, got \d+ of 1280 points"  # convs.3 comes before the clustered layer
    message = clustered if before == "convs.3" else "activations of site convs.6 must be finite, got NaN or Inf"
    with pytest.raises(ValueError, match=message):
        build(generator)


@pytest.mark.parametrize("image, batch", [(0, "0 to 1"), (3, "2 to 3"), (4, "4 to 4")])
def test_the_batch_whose_activations_are_not_finite_is_named(image, batch):
    generator = toy("sg2")
    w = generator.latents(range(N))
    w[image, -2:] = float("nan")  # rows that only the last layers read
    message = f"activations of site torgbs.3 must be finite, got NaN or Inf in the batch of images {batch}$"
    with pytest.raises(ValueError, match=message):
        build_catalog(generator, w, n_clusters=K, batch_size=2)


def test_progress_counts_the_images_of_both_passes(monkeypatch, capfd):
    build(shared("sg2"), progress=True)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(progress, "DELAY", 0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    build(shared("sg2"), progress=True, contribution_images=3)
    shown = capfd.readouterr().err
    assert "catalog: 100%" in shown and f"{N + 3}/{N + 3}" in shown and "k-means" in shown
    build(shared("sg2"))
    assert capfd.readouterr().err == ""


def test_the_stages_of_a_build_are_timed():
    seconds = built("sg2").seconds
    assert set(seconds) == {"generator", "clustering", "contribution"} and min(seconds.values()) > 0
