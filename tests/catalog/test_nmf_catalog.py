# SPDX-License-Identifier: Apache-2.0
"""Catalogs of a non-negative factorisation: memberships, M, labels, files, resumed builds, refused options."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from catalogs import build_catalog, built
from forked import in_ranks
from networks import shared
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from stylefast import NMF, Catalog
from stylefast.catalog.files import FORMAT
from stylefast.generators import Generator
from stylefast.generators.toy import toy

N, K = 20, 5  # three mini-batches of 8, 8 and 4 images
PARTS: dict[str, Any] = {"a": [0, 3], "b": [1]}


def build(kind: str = "sg2", generator: Generator | None = None, **options: Any) -> Catalog:
    generator = generator or shared(kind)
    defaults: dict[str, Any] = {"method": "nmf", "n_clusters": K, "batch_size": 4, "shard_images": 7}
    resolution = {"sg1": 16, "sg2": 16, "sg3": 21}[kind]
    w = generator.latents(range(N))
    return build_catalog(generator, w, resolution=resolution, **defaults | options)


@cache
def factorised(kind: str) -> Catalog:
    return build(kind, regions=PARTS)


def activations(kind: str) -> dict[str, Tensor]:
    generator = shared(kind)
    return generator.activations(generator.latents(range(N)))


def memberships(x: Tensor, components: Tensor) -> Tensor:
    """Fractions U [N, K, h, w] in float64, by 200 sweeps of coordinate descent in another form: the residual's."""
    h, x = components.double(), x.double().clamp(min=0)
    u = torch.zeros(len(x), len(h), *x.shape[2:], dtype=torch.float64)
    for _ in range(200):
        for k in range(len(h)):
            residual = x - torch.einsum("nkhw,kc->nchw", u, h)
            u[:, k] = (u[:, k] + torch.einsum("nchw,c->nhw", residual, h[k]) / h[k].square().sum()).clamp(min=0)
    total = u.sum(1, keepdim=True)
    return torch.where(total > 0, u / total, 0)


def standardized(a: Tensor) -> Tensor:
    a = a.double()
    return (a - a.mean((2, 3), keepdim=True)) / (a.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize("kind", ["sg1", "sg2", "sg3"])
def test_m_and_occupancy_are_those_of_the_memberships(kind: str):
    generator, catalog, tensors = shared(kind), factorised(kind), activations(kind)
    u = memberships(tensors[catalog.layer], catalog.centroids)
    torch.testing.assert_close(
        catalog.memberships(generator, generator.latents(range(N))).double(), u, rtol=0, atol=1e-3
    )
    torch.testing.assert_close(catalog.occupancy.double(), u.mean(0), rtol=0, atol=1e-3)
    for site in generator.sites:
        a = tensors[site.tensor].double() if site.normalized else standardized(tensors[site.tensor])
        resized = F.interpolate(u, size=site.size, mode="bilinear", align_corners=False)
        m = torch.einsum("nchw,nkhw->kc", a**2, resized) / (N * site.size[0] * site.size[1])
        torch.testing.assert_close(catalog.contributions[:, site.slice].double(), m, rtol=0, atol=1e-3, msg=site.name)
        part = torch.einsum("nchw,nhw->c", a**2, resized[:, [0, 3]].sum(1)) / (N * site.size[0] * site.size[1])
        torch.testing.assert_close(catalog.contribution("a")[site.slice].double(), part, rtol=0, atol=1e-3)


def test_columns_of_m_sum_to_the_standardized_variance():
    catalog, tensors = build(layer="torgbs.0"), activations("sg2")
    total = catalog.memberships(shared("sg2"), shared("sg2").latents(range(N))).sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))  # no point of this layer is without membership
    for site in shared("sg2").sites:
        var = tensors[site.tensor].double().var((2, 3), correction=0)
        expected = (var / (var + 1e-5)).mean(0).float()
        torch.testing.assert_close(catalog.contributions[:, site.slice].sum(0), expected, rtol=1e-5, atol=0)


def test_the_components_are_those_of_the_estimator():
    catalog = factorised("sg2")
    fitted = NMF(K).fit(activations("sg2")[catalog.layer])
    torch.testing.assert_close(catalog.centroids, fitted.components_)
    assert torch.equal(catalog.runs, catalog.centroids[None]) and catalog.method == "nmf"
    recorded = catalog.provenance
    assert recorded["method"] == "nmf" and recorded["epochs"] == fitted.n_iter_ > 1
    assert recorded["relative_error"] == pytest.approx(fitted.error_, rel=1e-4) and 0 < fitted.error_ < 1


@pytest.mark.parametrize("size", [None, (16, 16), (37, 24)])
def test_the_label_has_the_largest_membership(size: tuple[int, int] | None):
    generator, catalog = shared("sg2"), factorised("sg2")
    w = generator.latents(range(3))
    u, labels = (function(generator, w, size=size) for function in (catalog.memberships, catalog.labels))
    plain = catalog.memberships(generator, w)
    resized = F.interpolate(plain, size=size or (16, 16), mode="bilinear", align_corners=False)
    assert torch.equal(u, resized) and u.dtype == torch.float32
    assert labels.dtype == torch.int32 and torch.equal(labels.long(), u.argmax(1)) and len(labels.unique()) == K
    assert torch.equal(catalog.part_map(labels, "a"), (labels == 0) | (labels == 3))


def test_positions_without_membership_have_label_0():
    generator, catalog = shared("sg2"), factorised("sg2")
    empty = replace(catalog, centroids=torch.zeros(K, catalog.centroids.shape[1]))
    w = generator.latents(range(2))
    assert (empty.memberships(generator, w) == 0).all() and (empty.labels(generator, w, size=(20, 20)) == 0).all()


@pytest.mark.parametrize("size", [None, (37, 24)])
def test_memberships_of_k_means_are_one_hot_labels(size: tuple[int, int] | None):
    generator, catalog = shared("sg2"), built("sg2")
    w = generator.latents(range(2))
    u, labels = (function(generator, w, size=size) for function in (catalog.memberships, catalog.labels))
    assert u.dtype == torch.float32 and torch.equal(
        u, F.one_hot(labels.long(), catalog.n_clusters).movedim(3, 1).float()
    )


def test_a_catalog_is_saved_with_its_method(tmp_path: Path):
    path, catalog = tmp_path / "nmf.safetensors", factorised("sg2")
    catalog.save(path)
    loaded = Catalog.load(path, shared("sg2"))
    w = shared("sg2").latents(range(2))
    assert loaded.method == "nmf" and loaded.parts == catalog.parts and loaded.provenance == catalog.provenance
    assert torch.equal(loaded.labels(shared("sg2"), w), catalog.labels(shared("sg2"), w))
    built("sg2").save(path)
    assert "method" not in json.loads(safe_open(path, "pt").metadata()[FORMAT])["catalog"]
    assert Catalog.load(path).method == "kmeans"
    with pytest.raises(ValueError, match='centroids must be >= 0 with method "nmf", got negative values'):
        replace(catalog, centroids=-catalog.centroids).save(path)


class Stopped(toy("sg2").__class__):
    """Generator that raises KeyboardInterrupt after `after` forward passes."""

    def __init__(self, after: int) -> None:
        self.__dict__ = dict(shared("sg2").__dict__)
        self.left = after

    def visit(self, *arguments: Any, **options: Any) -> Any:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().visit(*arguments, **options)


def test_a_stopped_build_resumes_to_the_same_bytes(tmp_path: Path):
    def files(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    build(workdir=tmp_path / "whole", regions=PARTS).save(tmp_path / "whole" / "catalog.safetensors")
    expected = files(tmp_path / "whole")
    assert len(expected) == 2 * 3 + 1  # activations and sums of three shards, and the catalog
    for after in (1, 6, 9):  # of 6 passes for the activations and 6 for M
        workdir = tmp_path / str(after)
        with pytest.raises(KeyboardInterrupt):
            build(workdir=workdir, generator=Stopped(after))
        resumed = Stopped(12)
        catalog = build(workdir=workdir, generator=resumed, regions=PARTS)
        catalog.save(workdir / "catalog.safetensors")
        assert files(workdir) == expected and resumed.left == (after // 2) * 2


def test_the_components_do_not_depend_on_shards(tmp_path: Path):
    whole = build(batch_size=1)
    for shard_images in (3, 20):
        shards = build(batch_size=1, workdir=tmp_path / str(shard_images), shard_images=shard_images)
        assert torch.equal(shards.centroids, whole.centroids)  # the same mini-batches
        torch.testing.assert_close(shards.contributions, whole.contributions)
        torch.testing.assert_close(shards.occupancy, whole.occupancy)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n_init": 2, "seed": 1}, 'method="nmf" does not run k-means: leave out n_init, seed'),
        ({"run": 0}, 'method="nmf" does not run k-means: leave out run'),
        ({"features": "squared"}, 'method="nmf" does not run k-means: leave out features'),
        ({"centroids": torch.rand(K, 24)}, 'centroids are those of k-means, which method="nmf" does not run'),
        ({"n_clusters": 25}, 'n_clusters must be at most C = 24 of layer torgbs.2 with method="nmf", got 25'),
        ({"method": "pca"}, "method must be one of 'kmeans', 'nmf', got 'pca'"),
    ],
)
def test_options_that_exclude_a_factorisation_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(**options)


def test_activations_that_are_not_finite_are_refused():
    generator = toy("sg2")
    generator.network.get_submodule("convs.3").weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"activations must be finite, got NaN or Inf in \d+ points"):
        build(generator=generator)


def _refusal(rank: int) -> str:
    with pytest.raises(ValueError) as caught:
        build(group=dist.group.WORLD)
    return str(caught.value)


def test_a_factorisation_by_several_ranks_is_refused():
    expected = 'method="nmf" must run in a single process, got a process group of 2 ranks'
    assert list(in_ranks(2, _refusal)) == [expected, expected]
