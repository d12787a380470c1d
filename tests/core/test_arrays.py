# SPDX-License-Identifier: Apache-2.0
"""NumPy arrays that torch cannot represent give the results of their copies; wrong arrays and seeds are refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from stylefast import SphericalKMeans, query
from stylefast.catalog.latents import LatentShards
from stylefast.catalog.regions import name_clusters
from stylefast.compat import FactorCatalog
from stylefast.core.checks import check_seed, to_tensor
from stylefast.distributed import ALONE
from stylefast.sklearn import SphericalKMeans as Estimator

X = np.random.default_rng(0).uniform(size=(60, 6))


def views(x: np.ndarray) -> Iterator[np.ndarray]:
    """Yield arrays that torch.from_numpy refuses or that share memory in an unusual way."""
    yield x[::-1]
    yield x[..., ::-1]
    swapped = x.astype(x.dtype.newbyteorder())
    yield swapped
    yield swapped[::-1]
    records = np.zeros(x.shape, [("flag", "u1"), ("value", x.dtype)])
    records["value"] = x
    yield records["value"]
    unaligned = np.ndarray(x.shape, x.dtype, bytearray(x.nbytes + 1), offset=1)
    unaligned[...] = x
    yield unaligned
    yield np.broadcast_to(x[:1], x.shape)
    yield np.asfortranarray(x)
    frozen = x.copy()
    frozen.flags.writeable = False
    yield frozen


class Labels(KMeans):
    """Clustering whose labels are a reversed view in the byte order of other machines."""

    def predict(self, X: Any, sample_weight: Any = None) -> np.ndarray:
        labels = super().predict(X)
        return labels[::-1].astype(labels.dtype.newbyteorder())[::-1]


def factor_catalog(x: np.ndarray) -> torch.Tensor:
    activations = x[:48].reshape(2, 6, 4, 6).transpose(0, 1, 3, 2)
    return FactorCatalog(3, 0, Labels, n_init=1).fit_predict(activations, raw=True).labels


CALLS: dict[str, Callable[[np.ndarray], Any]] = {
    "SphericalKMeans.fit": lambda x: SphericalKMeans(3, n_init=2).fit(x, progress=False).labels_,
    "SphericalKMeans.fit of a stream": lambda x: SphericalKMeans(3, n_init=2).fit([x, x], progress=False).centroids_,
    "SphericalKMeans.init": lambda x: SphericalKMeans(3, init=x[:3]).fit(X, progress=False).labels_,
    "SphericalKMeans.partial_fit": lambda x: SphericalKMeans(3, n_init=2).partial_fit(x).score(x),
    "Estimator.fit": lambda x: Estimator(3, n_init=2, random_state=0).fit(x).labels_,
    "Estimator.init": lambda x: Estimator(3, init=x[:3]).fit(X).labels_,
    "Estimator.transform": lambda x: Estimator(3, n_init=2, random_state=0).fit(X).transform(x),
    "Estimator weights": lambda x: Estimator(3, n_init=2, random_state=0).fit(X, sample_weight=x[:, 0]).inertia_,
    "query.sequential": lambda x: query.sequential(x, 0.5, 0.1),
    "query.sequential per row": lambda x: query.sequential(torch.tensor(X), x[:, 0], x[:, 1]),
    "query.softmax": lambda x: query.softmax(x, 1),
    "FactorCatalog": factor_catalog,
    "FactorCatalog.from_centroids": lambda x: FactorCatalog.from_centroids(x, {}).predict(factors(), raw=True).labels,
    "annotate": lambda x: name_clusters({"eyes": x}, torch.eye(16).view(16, 4, 4), 0.5)["eyes"],
    "latents": lambda x: torch.cat([w for _, w in LatentShards.scan(x, 7, ALONE)]),
}


def factors() -> torch.Tensor:
    return torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.filterwarnings("ignore::stylefast.kmeans.EmptyClusterWarning", "ignore:.*clusters are empty")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_views_give_the_results_of_their_copies(call: str, dtype: type):
    for x in views(X.astype(dtype)):
        before = x.copy()
        expected = CALLS[call](np.array(x, dtype))
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*not writable.*")
            got = CALLS[call](x)
        np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=0, atol=1e-6)
        np.testing.assert_array_equal(x, before)


def test_only_arrays_that_torch_cannot_represent_are_copied():
    for x in (X, np.asfortranarray(X), X[::2, 1::2], np.broadcast_to(X[:1], X.shape)):
        assert to_tensor("x", x).data_ptr() == x.ctypes.data
    for x in (X.astype(">f4"), X.astype("<f4")):
        assert to_tensor("x", x).dtype == torch.float32
    unaligned = np.ndarray(X.shape, X.dtype, bytearray(X.nbytes + 1), offset=1)
    assert not unaligned.flags.aligned and to_tensor("x", unaligned).data_ptr() % 8 == 0


@pytest.mark.parametrize("dtype", [object, "U4", np.longdouble, "M8[s]", [("a", "f4")]], ids=str)
def test_dtypes_that_torch_lacks_are_refused_by_name(dtype: Any):
    with pytest.raises(TypeError, match="^activations must have a dtype that torch has, got "):
        SphericalKMeans(2).fit(np.zeros((4, 2), dtype))


def test_masked_values_are_refused():
    masked = np.ma.masked_greater(X, 0.99)
    assert masked.mask.any()
    with pytest.raises(ValueError, match="activations must not have masked values, got [1-9][0-9]* of 360"):
        SphericalKMeans(2).fit(masked)
    np.testing.assert_array_equal(to_tensor("x", np.ma.masked_array(X)).numpy(), X)


@pytest.mark.parametrize("seed", [-1, 1 << 64, 1.0, True, None, "0"])
def test_seeds_outside_the_range_are_refused(seed: Any):
    with pytest.raises(ValueError, match=r"^seed must be an integer in \[0, 2\*\*64\), got "):
        check_seed("seed", seed)
    with pytest.raises(ValueError, match=r"^random_state must be an integer in \[0, 2\*\*64\), got "):
        FactorCatalog(3, random_state=seed)


def test_seeds_up_to_64_bits_are_accepted():
    for seed in (0, 1 << 63, (1 << 64) - 1, np.uint64((1 << 64) - 1), np.int32(7)):
        assert check_seed("seed", seed) == seed
        assert SphericalKMeans(2, seed=seed).fit(X, progress=False).labels_.shape == (60,)
