# SPDX-License-Identifier: Apache-2.0
"""Compatibility classes: q equals a loop over its definition bit for bit.

Also tests the intended differences from the released code.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional as F

import stylefast
from stylefast.compat import FactorCatalog, StyleInterpolator

PARTS = {"eyes": [3, 0], "nose": [1]}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_catalog(dtype: torch.dtype = torch.float32, channels: tuple[int, ...] = (64, 64, 32)) -> SimpleNamespace:
    return SimpleNamespace(
        annotations=PARTS, M=[torch.rand(2, c, generator=rng(c), dtype=dtype) ** 2 for c in channels]
    )


def by_loops(m: np.ndarray, rho: float, epsilon: float) -> np.ndarray:
    """q for distinct values of m: a running sum in float64, rounded to the dtype of m before each comparison."""
    q, spent = np.zeros_like(m), 0.0
    for c in sorted(range(len(m)), key=lambda c: -m[c]):
        spent += float(m.dtype.type(1) - m[c])
        q[c] = m.dtype.type(spent) < m.dtype.type(epsilon) and m[c] > m.dtype.type(rho)
    return q


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_q_equals_the_loop_bit_for_bit(dtype: torch.dtype):
    catalog = make_catalog(dtype, (512, 64))
    interpolator = StyleInterpolator(catalog)
    for layer, m in enumerate(catalog.M):
        for row, part in enumerate(PARTS):
            costs = sorted(1 - m[row].double())
            exact = [float(sum(costs[:n])) for n in (1, 7, 40)]  # budgets equal to the cost of n channels
            for epsilon in (0, 0.25, 5, 50.0, *exact):
                for rho in (0, 0.1, float(m[row, 5]), 1):
                    expected = torch.from_numpy(by_loops(m[row].numpy(), rho, epsilon))
                    assert torch.equal(interpolator.query(layer, part, rho, epsilon), expected)


def test_channels_with_equal_m_are_taken_by_index():
    interpolator = StyleInterpolator(SimpleNamespace(annotations={"a": [0]}, M=[torch.full((1, 300), 0.75)]))
    assert interpolator.query(0, "a", 0.1, 2.6).nonzero().flatten().tolist() == list(range(10))


def styles(n: int, catalog: SimpleNamespace, seed: int, both: bool = False) -> list[Tensor]:
    return [torch.randn(n, *((2, m.shape[1], 1, 1) if both else (m.shape[1],)), generator=rng(seed)) for m in catalog.M]


@pytest.mark.parametrize("n1, n2", [(3, 3), (1, 4), (4, 1)])
def test_scales_change_only_where_q_is_one(n1: int, n2: int):
    catalog = make_catalog()
    ys1, ys2 = styles(n1, catalog, 1), styles(n2, catalog, 2)
    rho, epsilon = [0.0, 0.2, 0.1], (1, 3.0, np.float64(2))
    got = StyleInterpolator(catalog).interpolate_ys(ys1, ys2, "nose", rho, epsilon)
    for layer, (y1, y2, y3) in enumerate(zip(ys1, ys2, got, strict=True)):
        q = torch.from_numpy(by_loops(catalog.M[layer][1].numpy(), rho[layer], epsilon[layer]))
        assert 0 < q.sum() < len(q)
        assert torch.equal(y3, torch.where(q > 0, y2, y1))


@pytest.mark.parametrize("bias", [False, True])
def test_bias_is_blended_on_request(bias: bool):
    catalog = make_catalog()
    ys1, ys2 = styles(1, catalog, 3, both=True), styles(2, catalog, 4, both=True)
    before = [y.clone() for y in ys1]
    interpolator = StyleInterpolator(catalog, bias)
    for layer, y3 in enumerate(interpolator.interpolate_ys(ys1, ys2, "eyes", 0.1, 2)):
        q = interpolator.query(layer, "eyes", 0.1, 2)[:, None, None]
        y1, y2 = ys1[layer].expand(2, -1, -1, -1, -1), ys2[layer]
        assert torch.equal(y3[:, 0], torch.where(q > 0, y2[:, 0], y1[:, 0]))
        assert torch.equal(y3[:, 1], torch.where(q > 0, y2[:, 1], y1[:, 1]) if bias else y1[:, 1])
        assert torch.equal(ys1[layer], before[layer])


def test_channels_outside_q_are_not_read():
    catalog = SimpleNamespace(annotations={"a": [0]}, M=[torch.tensor([[0.9, 0.0]])])
    y1, y2 = torch.tensor([[1.0, -0.0]], dtype=torch.float16), torch.tensor([[2.0, torch.inf]], dtype=torch.float16)
    (y3,) = StyleInterpolator(catalog).interpolate_ys([y1], [y2], "a", 0.1, 1)
    assert y3.dtype == torch.float16 and y3.tolist() == [[2, 0]] and y3[0, 1].signbit()


def test_gradients_reach_both_styles():
    catalog = make_catalog()
    ys1, ys2 = ([y.requires_grad_() for y in styles(2, catalog, seed)] for seed in (5, 6))
    interpolator = StyleInterpolator(catalog)
    sum(y.sum() for y in interpolator.interpolate_ys(ys1, ys2, "nose", 0, 1)).backward()
    q = interpolator.query(0, "nose", 0, 1).expand(2, -1)
    assert torch.equal(ys2[0].grad, q) and torch.equal(ys1[0].grad, 1 - q)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"label": "ear"}, "label must be one of 'eyes', 'nose', got 'ear'"),
        ({"rho": [0.1, 0.1]}, "rho must have one entry for each of the 3 layers of M, got 2"),
        ({"ys2": [torch.ones(1, 64)]}, "ys2 must have one entry for each of the 3 layers of M, got 1"),
        ({"ys1": [torch.ones(1, 64, 1)] * 3}, r"a style must have shape .* C = 64, got \(1, 64, 1\)"),
    ],
)
def test_interpolator_refuses_wrong_arguments(change, message: str):
    catalog = make_catalog()
    call = {
        "ys1": styles(1, catalog, 1),
        "ys2": styles(1, catalog, 2),
        "label": "nose",
        "rho": 0.1,
        "epsilon": 1,
    } | change
    with pytest.raises(ValueError, match=message):
        StyleInterpolator(catalog).interpolate_ys(**call)


@pytest.mark.parametrize(
    "m, message",
    [
        (torch.ones(3, 8), r"M\[0\] must have shape \[P, C\] with P = 2, got \(3, 8\)"),
        (torch.full((2, 8), torch.nan), r"M\[0\] must not hold NaN, got 16 of 16"),
    ],
)
def test_interpolator_refuses_a_wrong_m(m: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        StyleInterpolator(SimpleNamespace(annotations=PARTS, M=[m]))


@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
def test_heatmaps_are_the_one_hot_of_the_labels(size: tuple[int, int]):
    x = torch.randn(3, 7, *size, generator=rng())
    catalog = FactorCatalog(6, random_state=1, n_init=2)
    raw = catalog.fit_predict(x, raw=True)
    labels = stylefast.SphericalKMeans(6, n_init=2, seed=1).fit(x).labels_
    one_hot = F.one_hot(labels.long(), 6).movedim(-1, 1).float()
    assert torch.equal(raw.get(), one_hot) and torch.equal(raw.labels, labels)
    assert torch.equal(catalog.predict(x[:1], raw=True).get(), one_hot[:1])
    catalog.annotations = PARTS
    maps, names = catalog.predict(x)
    assert names == ["eyes", "nose"]
    parts = torch.stack((one_hot[:, 3] + one_hot[:, 0], one_hot[:, 1]), 1)
    for res in (5, 16, (12, 3)):
        assert res not in maps
        with pytest.raises(KeyError):
            maps[res]
        assert torch.equal(maps.get(res), F.interpolate(parts, size=res, mode="nearest"))
        assert torch.equal(maps[res], maps.get(res))
    first_size = 8 if size == (8, 8) else size
    assert list(maps.resolutions()) == [first_size, 5, 16, (12, 3)] and len(maps) == 4
    assert torch.equal(maps[first_size], parts) and torch.equal(maps.cpu().get(), parts)


def test_another_clustering_class_gets_rows_of_points():
    x = torch.randn(2, 5, 4, 4, generator=rng())
    catalog = FactorCatalog(3, 0, KMeans, n_init=1)
    labels = KMeans(3, n_init=1, random_state=0).fit(x.permute(0, 2, 3, 1).reshape(-1, 5).numpy()).labels_
    for maps in (catalog.fit_predict(x, raw=True), catalog.predict(x, raw=True)):
        assert torch.equal(maps.get().argmax(1), torch.from_numpy(labels).long().view(2, 4, 4))


@pytest.mark.parametrize("factorization", [None, KMeans])
def test_factorization_has_the_names_of_the_released_code(factorization):
    x = torch.randn(2, 5, 4, 4, generator=rng())
    catalog = FactorCatalog(3, 0, factorization, n_init=1)
    maps = catalog.fit_predict(x, raw=True)
    centers = catalog._factorization.cluster_centers_
    assert isinstance(centers, np.ndarray) and centers.shape == (3, 5)
    assert catalog.k == catalog._factorization.n_clusters == 3 and catalog.kmeans is catalog._factorization
    assert set(vars(catalog)) == {"_factorization", "annotations"}  # as in pickles of the released code
    again = FactorCatalog.from_centroids(centers, {}).predict(x, raw=True).labels
    if factorization is None:
        assert torch.equal(again, maps.labels)


def test_a_catalog_of_known_centroids_predicts():
    centroids, x = torch.randn(4, 5, generator=rng()), torch.randn(2, 5, 3, 3, generator=rng(1))
    catalog = FactorCatalog.from_centroids(centroids, PARTS)
    maps, _ = catalog.predict(x)
    assert torch.equal(maps.labels, stylefast.assign(x, F.normalize(centroids, dim=1)).labels)
    assert repr(catalog) == "FactorCatalog(4, SphericalKMeans, {'eyes': [3, 0], 'nose': [1]})"


@pytest.mark.parametrize(
    "parts, message",
    [({}, "annotations must name parts"), ({"a": [1], "b": [4]}, r"clusters in \[0, K\) with K = 4, got 'b': \[4\]")],
)
def test_catalog_refuses_wrong_parts(parts, message: str):
    with pytest.raises(ValueError, match=message):
        FactorCatalog.from_centroids(torch.eye(4), parts).predict(torch.ones(1, 4, 2, 2))
