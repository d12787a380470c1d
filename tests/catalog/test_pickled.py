# SPDX-License-Identifier: Apache-2.0
"""Pickled catalogs of other tools: clusters and names are read without running the file's code, and used in builds."""

from __future__ import annotations

import os
import pickle
import random
import re
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from catalogs import build_catalog
from commands import run
from networks import shared
from sklearn.cluster import KMeans, MiniBatchKMeans

from stylefast.catalog import Catalog, read_clusters

CENTERS = np.random.RandomState(0).randn(5, 32)


@contextmanager
def authors_modules() -> Iterator[tuple[Any, Any]]:
    """Provide classes with the authors' module and class names during a block, in which a pickle is written."""
    catalogs, kmeans = types.ModuleType("factor_catalog"), types.ModuleType("spherical_kmeans")

    class FactorCatalog:
        __module__, __qualname__ = "factor_catalog", "FactorCatalog"

    class MiniBatchSphericalKMeans(MiniBatchKMeans):
        __module__, __qualname__ = "spherical_kmeans", "MiniBatchSphericalKMeans"

    catalogs.FactorCatalog, kmeans.MiniBatchSphericalKMeans = FactorCatalog, MiniBatchSphericalKMeans
    fakes = {"factor_catalog": catalogs, "spherical_kmeans": kmeans}
    sys.modules.update(fakes)
    try:
        yield FactorCatalog, MiniBatchSphericalKMeans
    finally:
        for name in fakes:
            del sys.modules[name]


def authors_catalog(annotations: Any, protocol: int = 3, **attributes: Any) -> bytes:
    with authors_modules() as (FactorCatalog, MiniBatchSphericalKMeans):
        catalog, kmeans = FactorCatalog(), MiniBatchSphericalKMeans(n_clusters=5, random_state=0)
        kmeans.cluster_centers_, kmeans.counts_ = CENTERS, np.arange(5)
        kmeans.labels_, kmeans.random_state_ = np.array([0, 3, 4], np.int32), np.random.RandomState(3)
        vars(kmeans).update(attributes)
        catalog._factorization, catalog.annotations = kmeans, annotations
        return pickle.dumps(catalog, protocol=protocol)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_the_authors_catalog_is_read(protocol: int, tmp_path: Path):
    path = tmp_path / "ffhq.pkl"
    annotations = OrderedDict({"eyes": [0, 3], "nose": np.array([1]), "mouth": (2,), "hair": np.int64(4)})
    path.write_bytes(authors_catalog(annotations, protocol))
    clusters = read_clusters(path)
    np.testing.assert_array_equal(clusters.centroids, CENTERS.astype(np.float32))
    assert clusters.counts.tolist() == [0, 1, 2, 3, 4] and clusters.labels.tolist() == [0, 3, 4]
    assert clusters.parts == {"eyes": [0, 3], "nose": [1], "mouth": [2], "hair": [4]}


@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
def test_k_means_of_scikit_learn_is_read(kind: Any, tmp_path: Path):
    fitted = kind(n_clusters=3, n_init=1, random_state=0).fit(np.random.RandomState(1).randn(50, 4).astype(np.float32))
    for content in (fitted, {"model": [fitted], "annotations": {"eyes": [2]}}):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
        clusters = read_clusters(tmp_path / "a.pkl")
        np.testing.assert_array_equal(clusters.centroids, fitted.cluster_centers_)
        np.testing.assert_array_equal(clusters.labels, fitted.labels_)
        assert clusters.parts == ({} if content is fitted else {"eyes": [2]}) and clusters.counts is None


def test_plain_dictionaries_and_tensors_are_read(tmp_path: Path):
    for centers in (CENTERS, torch.from_numpy(CENTERS), np.asfortranarray(CENTERS.astype(np.float16))):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"cluster_centers_": centers, "counts_": None}))
        np.testing.assert_allclose(read_clusters(tmp_path / "a.pkl").centroids, CENTERS, rtol=1e-3)


class Hostile:
    def __reduce__(self) -> Any:
        return os.mkdir, ("hostile was here",)


def test_unusable_pickles_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pkl"
    for data, message in (
        (pickle.dumps({"cluster_centers_": Hostile()}), r"it asks for (posix|nt)\.mkdir"),
        (authors_catalog({"eyes": Hostile()}), r"it asks for (posix|nt)\.mkdir"),
        (pickle.dumps({"a": 1}), "it holds no cluster_centers_"),
        (authors_catalog({"eyes": [5]}), r"annotations of eyes must be ids of its 5 clusters, got \[5\]"),
        (authors_catalog({"eyes": ["0"]}), "annotations of eyes must be ids"),
        (authors_catalog({"eyes": [True]}), "annotations of eyes must be ids"),
        (authors_catalog(["eyes"]), "a dictionary was expected, got list"),
        (authors_catalog({}, cluster_centers_=CENTERS[0]), r"finite, of shape \[K, C\], got \(32,\)"),
        (authors_catalog({}, cluster_centers_=CENTERS * np.inf), "must be finite"),
        (authors_catalog({}, cluster_centers_=np.array(["a"])), "an array must hold numbers"),
        (authors_catalog({})[:-20], "not enough data|exhausted"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: .*{message}"):
            read_clusters(path)
    with pytest.raises(FileNotFoundError):
        read_clusters(tmp_path / "absent.pkl")
    assert [file.name for file in tmp_path.iterdir()] == ["a.pkl"]


def test_catalogs_with_changed_bytes_are_read_or_refused(tmp_path: Path):
    path, rng, refused = tmp_path / "a.pkl", random.Random(0), 0
    data = authors_catalog({"eyes": [0, 3]})
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        path.write_bytes(changed)
        try:
            read_clusters(path)
        except ValueError as error:
            assert str(error).startswith(f"{path} cannot be used: ")
            refused += 1
    assert 0 < refused < 300


def test_a_catalog_is_built_from_known_centroids():
    generator = shared("sg2")
    w = generator.latents(range(6))
    fitted = build_catalog(generator, w, n_clusters=5, n_init=2, resolution=16)
    lengths = torch.tensor([[0.1], [1], [2], [30], [0.5]])
    from_centroids = build_catalog(generator, w, centroids=fitted.centroids * lengths, resolution=16)
    torch.testing.assert_close(from_centroids.centroids, fitted.centroids)
    torch.testing.assert_close(from_centroids.contributions, fitted.contributions)
    torch.testing.assert_close(from_centroids.occupancy, fitted.occupancy)
    assert from_centroids.n_clusters == 5 and from_centroids.runs.shape == (1, *from_centroids.centroids.shape)
    assert "objectives" not in from_centroids.provenance and from_centroids.provenance["images"] == 6
    from_numpy = build_catalog(generator, w, centroids=fitted.centroids.numpy(), resolution=16)
    torch.testing.assert_close(from_numpy.contributions, fitted.contributions)
    channels = fitted.centroids.shape[1]
    for wrong in (torch.ones(5, channels + 1), torch.zeros(5, channels), torch.full((5, channels), torch.nan)):
        with pytest.raises(ValueError, match=rf"centroids must have shape \[K, C\] with C = {channels} to match layer"):
            build_catalog(generator, w, centroids=wrong, resolution=16)


def test_the_build_command_takes_pickled_clusters(tmp_path: Path):
    build = [
        "catalog",
        "build",
        "--network",
        "toy:sg2",
        "--seeds",
        "0-3",
        "--resolution",
        8,
        "--out",
        tmp_path / "c.safetensors",
    ]
    (tmp_path / "old.pkl").write_bytes(authors_catalog({"eyes": [0, 3], "nose": [1]}))
    run(*build, "--centroids", tmp_path / "old.pkl")
    loaded = Catalog.load(tmp_path / "c.safetensors", shared("sg2"))
    assert loaded.parts == {"eyes": [0, 3], "nose": [1]} and loaded.n_clusters == 5
    torch.testing.assert_close(loaded.centroids, torch.nn.functional.normalize(torch.from_numpy(CENTERS)).float())
    (tmp_path / "old.pkl").write_bytes(authors_catalog({}))
    run(*build, "--centroids", tmp_path / "old.pkl")
    assert "skin" in Catalog.load(tmp_path / "c.safetensors").parts  # the pickle has no names, so boxes give them
