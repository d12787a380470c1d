# SPDX-License-Identifier: Apache-2.0
"""float32 points in narrow cones get the labels, centroids and objective of float64; small distances do not cancel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import normalize

from stylefast import SphericalKMeans
from stylefast.kmeans.batch import Batch
from stylefast.sklearn import SphericalKMeans as Estimator

PRECISION = {0: 1e-6, 1e2: 1e-6, 1e3: 1e-14, 1e4: 1e-14, 1e5: 1e-14}  # offset -> largest error of a centroid


def blobs(offset: float, n: int = 600, c: int = 6, k: int = 3, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    """Rows [n, c], float32, of k clusters with a common offset, and the clusters of the rows [n]."""
    rng = torch.Generator().manual_seed(0)
    cluster = torch.randint(k, (n,), generator=rng)
    x = 5 * torch.randn(k, c, generator=rng, dtype=torch.float64)[cluster]
    return (x + noise * torch.randn(n, c, generator=rng, dtype=torch.float64) + offset).float(), cluster


def distances(x: Tensor, labels: Any, centroids: Any) -> Tensor:
    """Cosine distances of rows [n, C] to the centroids of their labels, in float64 without cancellation."""
    vectors = [normalize(torch.as_tensor(v).double(), dim=1) for v in (x, centroids)]
    return (vectors[0] - vectors[1][torch.as_tensor(labels).long()]).square().sum(1) / 2


def assert_same_clusters(labels: Any, expected: Any) -> None:
    pairs = set(zip(torch.as_tensor(labels).tolist(), torch.as_tensor(expected).tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(expected.unique())


@pytest.mark.parametrize("features", ["raw", "squared"])
@pytest.mark.parametrize("offset", PRECISION)
def test_fit_with_an_offset_equals_a_fit_in_float64(offset: float, features: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stylefast.kmeans.batch.CHUNK", 500)  # several pieces
    x, cluster = blobs(offset)
    km, in_double = (SphericalKMeans(3, features=features).fit(data, progress=False) for data in (x, x.double()))
    assert_same_clusters(km.labels_, cluster)
    assert torch.equal(km.labels_, in_double.labels_)
    torch.testing.assert_close(km.centroids_.double(), in_double.centroids_, rtol=0, atol=PRECISION[offset])
    points = x.double().square() if features == "squared" else x
    expected = distances(points, km.labels_, km.centroids_).mean().item()
    assert 1 - km.objective_ == pytest.approx(expected, rel=1e-3)
    assert km.score(x) == km.objective_ <= 1
    assert torch.equal(km.predict(x), km.labels_)


@pytest.mark.parametrize("form", ["activations", "stream", "zero rows", "numpy", "float16"])
def test_narrow_points_of_any_form_keep_their_clusters(form: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stylefast.kmeans.batch.CHUNK", 500)
    x, cluster = blobs(1e3 if form == "float16" else 1e5)
    data: Any = {
        "activations": x.view(6, 10, 10, 6).movedim(-1, 1),
        "stream": [x[:100].view(1, 10, 10, 6).movedim(-1, 1), x[100:]],
        "zero rows": torch.cat((torch.zeros(300, 6), x)),
        "numpy": x.numpy(),
        "float16": x.half(),
    }[form]
    km = SphericalKMeans(3).fit(data, progress=False)
    assert torch.as_tensor(km.centroids_).dtype == torch.float64
    labels = torch.as_tensor(km.predict(x if form in ("stream", "zero rows") else data)).flatten()
    assert_same_clusters(labels, cluster)
    if form == "activations":
        assert torch.equal(km.labels_.flatten(), labels)
        expected = distances(x, labels, km.centroids_).mean().item()
        assert 1 - km.objective_ == pytest.approx(expected, rel=1e-3)


def test_clusters_in_opposite_narrow_cones_are_found():
    x, cluster = blobs(1e4)
    side = (torch.arange(600) % 2).float()
    km = SphericalKMeans(6).fit(x - 2e4 * side[:, None], progress=False)
    assert_same_clusters(km.labels_, cluster + 3 * side.int())


def test_narrow_fit_runs_until_the_inertia_settles():
    x, _ = blobs(1e4, n=2000, k=40, noise=4.0)
    km = SphericalKMeans(8, n_init=5).fit(x, progress=False)
    unit = normalize(x.double(), dim=1)
    residuals = (unit - unit.mean(0)).numpy() * 1e4  # within 1e-7, squared distances are those of the unit rows
    theirs = KMeans(8, n_init=5, tol=0, random_state=0).fit(residuals)
    ours = distances(x, km.labels_, km.centroids_).sum().item()
    assert ours < 1.02 * theirs.inertia_ / 2 / 1e8
    assert max(run.n_iter for run in km.runs_) > 3


def test_partial_fit_of_narrow_batches_equals_float64():
    x, cluster = blobs(1e5)
    km, in_double = SphericalKMeans(3), SphericalKMeans(3)
    for rows in x.split(200):
        km.partial_fit(rows)
        in_double.partial_fit(rows.double())
    torch.testing.assert_close(km.centroids_, in_double.centroids_, rtol=0, atol=1e-14)
    assert_same_clusters(km.predict(x), cluster)


def test_partial_fit_changes_to_float64_when_points_get_narrow():
    x, first = blobs(1e3)[0], 1e3 + 300 * torch.eye(3, 6)
    km, in_double = (SphericalKMeans(3, init=first).partial_fit(data) for data in (first, first.double()))
    assert km.centroids_.dtype == torch.float32
    for _ in range(3):
        km.partial_fit(x)
        in_double.partial_fit(x.double())
    assert km.centroids_.dtype == torch.float64
    torch.testing.assert_close(km.centroids_, in_double.centroids_, rtol=0, atol=1e-7)
    assert 1 - km.score(x) == pytest.approx(1 - in_double.score(x.double()), rel=1e-3)


def test_narrow_fit_resumes_to_the_same_bits(tmp_path: Path):
    x, _ = blobs(1e4, n=2000, k=40, noise=4.0)
    expected = SphericalKMeans(8, n_init=3).fit([x], progress=False)

    class Stopping(list[Tensor]):
        n_reads = 8

        def __iter__(self):
            self.n_reads -= 1
            if not self.n_reads:
                raise KeyboardInterrupt
            return super().__iter__()

    with pytest.raises(KeyboardInterrupt):
        SphericalKMeans(8, n_init=3).fit(Stopping([x]), progress=False, checkpoint=tmp_path / "state")
    assert (tmp_path / "state").exists()
    km = SphericalKMeans(8, n_init=3).fit([x], progress=False, checkpoint=tmp_path / "state")
    assert torch.equal(km.centroids_, expected.centroids_) and km.objective_ == expected.objective_


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tight_clusters_have_exact_inertia(noise: float, dtype: torch.dtype):
    rng = torch.Generator().manual_seed(0)
    directions = torch.randn(7, 24, generator=rng, dtype=torch.float64)
    x = directions[torch.arange(700) % 7] + noise * torch.randn(700, 24, generator=rng, dtype=torch.float64)
    x = (x * 3).to(dtype)
    km, estimator = SphericalKMeans(7).fit(x, progress=False), Estimator(7, random_state=0).fit(x.numpy())
    assert km.centroids_.dtype == dtype and estimator.cluster_centers_.dtype == x.numpy().dtype
    assert km.score(x) == km.objective_ <= 1 and max(run.objective for run in km.runs_) <= 1
    expected = distances(x, estimator.labels_, estimator.cluster_centers_).sum().item()
    assert estimator.inertia_ == pytest.approx(expected, rel=1e-3, abs=0)
    assert estimator.inertia_ >= 0 >= estimator.score(x.numpy())
    assert 1 - km.objective_ == pytest.approx(
        distances(x, km.labels_, km.centroids_).mean().item(), rel=1e-3, abs=1e-15
    )


@pytest.mark.parametrize("offset", PRECISION)
@pytest.mark.parametrize("is_weighted", [False, True])
def test_estimator_with_an_offset_equals_float64(offset: float, is_weighted: bool):
    x, cluster = blobs(offset)
    weight = np.random.default_rng(0).integers(0, 4, size=600) if is_weighted else None
    got, in_double = (
        Estimator(3, random_state=0).fit(rows, sample_weight=weight) for rows in (x.numpy(), x.double().numpy())
    )
    assert_same_clusters(got.labels_, cluster)
    np.testing.assert_array_equal(got.labels_, in_double.labels_)
    np.testing.assert_allclose(got.cluster_centers_, in_double.cluster_centers_, rtol=0, atol=PRECISION[offset])
    exact = distances(x, got.labels_, got.cluster_centers_).numpy()
    expected = exact.sum() if weight is None else exact @ weight
    assert got.inertia_ == pytest.approx(expected, rel=1e-3)
    assert -got.score(x.numpy(), sample_weight=weight) == got.inertia_ >= 0
    np.testing.assert_array_equal(got.predict(x.numpy()), got.labels_)
    np.testing.assert_allclose(got.transform(x.numpy()).min(1), exact, rtol=1e-3)


def test_distances_are_exact_for_heavy_points_among_light_ones():
    x = torch.cat((blobs(1e3)[0], -torch.eye(6)))
    weight = torch.ones(606, dtype=torch.float64)
    weight[600:] = 1e-9
    got = Estimator(1).fit(x.numpy(), sample_weight=weight.numpy())
    exact = distances(x, got.labels_, got.cluster_centers_)
    assert got.inertia_ == pytest.approx(float(exact @ weight), rel=1e-6)


def test_ordinary_points_stay_in_float32(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Batch, "_converted", lambda self: pytest.fail("points were converted"))
    x, _ = blobs(0.0)
    km = SphericalKMeans(8, n_init=2).fit(x, progress=False)
    assert km.centroids_.dtype == torch.float32
    assert km.partial_fit(x).centroids_.dtype == torch.float32
    assert Estimator(8, n_init=2).fit(x.numpy()).cluster_centers_.dtype == np.float32
