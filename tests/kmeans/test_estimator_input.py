# SPDX-License-Identifier: Apache-2.0
"""Input of k-means: layouts, NumPy arrays and dtypes, without copies; refused arguments, data and calls."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from mixtures import directions, fit, mixture, rows
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stylefast import SphericalKMeans
from stylefast.kmeans import EmptyClusterWarning, estimator, initialization
from stylefast.kmeans.batch import Batch


def test_memory_layout_does_not_change_the_labels():
    x = mixture(2, 8, 5, 7, 4, 1.5).float()
    km = fit(x, 4, n_init=2)
    buffer = torch.full((3, 10, 6, 9), torch.nan)
    buffer[1:, 1:9, 1:, 2:] = x
    for view in (
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(2, 3).contiguous().transpose(2, 3),
        buffer[1:, 1:9, 1:, 2:],
    ):
        other = fit(view, 4, n_init=2)
        assert torch.equal(other.labels_, km.labels_)
        torch.testing.assert_close(other.centroids_, km.centroids_)
    for points in (rows(x), rows(x).t().contiguous().t()):
        other = fit(points, 4, n_init=2)
        assert other.labels_.shape == (70,)
        assert torch.equal(other.labels_, km.labels_.flatten())
        assert torch.equal(other.predict(points), other.labels_)


@pytest.mark.parametrize("x", [mixture(2, 8, 5, 7, 4, 1.5).float(), rows(mixture(2, 8, 5, 7, 4, 1.5))])
def test_numpy_in_numpy_out_without_a_copy(x: Tensor, recwarn: pytest.WarningsRecorder):
    km, array = fit(x, 4, n_init=2), x.numpy().copy(order="K")
    array.flags.writeable = False  # like a memory map
    other = fit(array, 4, n_init=2, init="k-means++")
    for name in ("labels_", "centroids_"):
        ours, theirs = getattr(km, name), getattr(other, name)
        assert isinstance(theirs, np.ndarray)
        assert theirs.dtype == ours.numpy().dtype
        assert np.array_equal(theirs, ours.numpy())
    assert isinstance(other.runs_[0].centroids, np.ndarray)
    assert isinstance(other.predict(array), np.ndarray)
    assert isinstance(other.predict(x), Tensor)
    assert isinstance(fit(x, 4, init=other.centroids_).centroids_, Tensor)
    assert Batch.from_array(array, "raw", None).activations.data_ptr() == array.ctypes.data
    assert not [w for w in recwarn if "writable" in str(w.message)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("features", ["raw", "standardized", "squared"])
def test_dtypes_of_data_give_the_labels_of_float64(dtype: torch.dtype, features: str):
    x = mixture(2, 24, 6, 7, 4, 0.5).to(dtype)
    km, in_double = (fit(data, 4, n_init=2, features=features) for data in (x, x.double()))
    assert km.centroids_.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(km.labels_, in_double.labels_)
    torch.testing.assert_close(km.centroids_.double(), in_double.centroids_, atol=1e-5, rtol=0)
    assert km.objective_ == pytest.approx(in_double.objective_, abs=1e-6)


class _Allocations(TorchDispatchMode):
    """Records the size in bytes of the largest new tensor; views of `inputs` do not count."""

    def __init__(self, *inputs: Tensor) -> None:
        super().__init__()
        self.inputs, self.largest = {x.untyped_storage().data_ptr() for x in inputs}, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in self.inputs:
                self.largest = max(self.largest, x.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("features", ["raw", "standardized", "squared"])
def test_fit_allocates_nothing_of_the_size_of_the_data(features: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(initialization, "SAMPLE", 512)
    monkeypatch.setattr("stylefast.kmeans.batch.CHUNK", 1 << 16)
    x = mixture(9, 64, 64, 64, 10, 1.0).half()
    centroids = directions(8, 64)[[0, 0, 2, 3, 4, 5, 6, 7]]  # cluster 1 is empty: it equals cluster 0
    for data, points in ((x, x), (x.numpy(), x), (rows(x), rows(x))):
        for init in ("k-means++", centroids):
            with _Allocations(x, points) as allocations, warnings.catch_warnings():
                warnings.simplefilter("ignore", EmptyClusterWarning)
                km = SphericalKMeans(8, n_init=2, init=init, features=features, max_iter=3).fit(data)
                km.predict(data)
                km.partial_fit(data)
            assert 0 < allocations.largest < x.nbytes / 4


def test_progress_bar_can_be_disabled(monkeypatch: pytest.MonkeyPatch):
    bars: list[dict[str, Any]] = []
    bar = estimator.progress_bar
    monkeypatch.setattr(
        estimator, "progress_bar", lambda *args, **options: bars.append(options) or bar(*args, **options)
    )
    x = mixture(1, 4, 5, 5, 2, 1.0)
    SphericalKMeans(2).fit(x)
    SphericalKMeans(2).fit(x, progress=False)
    assert [options["shown"] for options in bars] == [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_clusters": 0}, "n_clusters must be an integer >= 1, got 0"),
        ({"n_clusters": 2.5}, "n_clusters must be an integer >= 1, got 2.5"),
        ({"n_clusters": True}, "n_clusters must be an integer >= 1, got True"),
        ({"n_init": 0}, "n_init must be an integer >= 1, got 0"),
        ({"max_iter": 0}, "max_iter must be an integer >= 1, got 0"),
        ({"tol": -1.0}, "tol must be a finite number >= 0, got -1.0"),
        ({"tol": math.nan}, "tol must be a finite number >= 0, got nan"),
        ({"tol": math.inf}, "tol must be a finite number >= 0, got inf"),
        ({"tol": "small"}, "tol must be a finite number >= 0, got 'small'"),
        ({"seed": -1}, r"seed must be an integer in \[0, 2\*\*64\), got -1"),
        ({"features": "cosine"}, "features must be one of 'raw'"),
        ({"init": "kmeans++"}, "init must be one of 'k-means\\+\\+', 'random', got 'kmeans\\+\\+'"),
        ({"init": torch.ones(2, 4)}, r"init must have shape \[K, C\] or \[B, K, C\] with K = 3 .* got \(2, 4\)"),
        ({"init": torch.ones(0, 3, 4)}, r"B, C >= 1, got \(0, 3, 4\)"),
        ({"init": torch.ones(3)}, r"init must have shape \[K, C\] or \[B, K, C\], got \(3,\)"),
        ({"init": torch.ones(3, 4) * torch.tensor([[1], [0], [1]])}, r"nonzero vectors, .* at \(1,\)"),
        ({"init": torch.full((2, 3, 4), math.nan)}, r"finite nonzero vectors, .* at \(0, 0\)"),
    ],
)
def test_constructor_arguments_are_validated(options: dict[str, Any], message: str):
    arguments: dict[str, Any] = {"n_clusters": 3} | options
    with pytest.raises(ValueError, match=message):
        SphericalKMeans(**arguments)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (torch.ones(3, 4, 5), ValueError, r"activations must have shape \[N, C, H, W\] or \[M, C\], got \(3, 4, 5\)"),
        (torch.ones(5, 4).int(), TypeError, "activations must be float32, .* got torch.int32"),
        (np.ones((5, 4), int), TypeError, "activations must be float32, .* got torch.int64"),
        ([[1.0, 2.0]], TypeError, "activations must be a torch.Tensor or a NumPy array, got list"),
        (torch.ones(5, 4).to_sparse(), TypeError, "activations must be a dense"),
        (torch.ones(2, 4, 0, 3), ValueError, "C, H and W >= 1"),
        (torch.ones(5, 0), ValueError, "C, H and W >= 1"),
        (torch.ones(2, 4), ValueError, "n_clusters must be at most .* got K = 3 for 2 of 2 points"),
        (torch.ones(0, 4), ValueError, "got K = 3 for 0 of 0 points"),
        (torch.ones(0, 4, 2, 2), ValueError, "got K = 3 for 0 of 0 points"),
        (torch.tensor([[1.0], [0], [0], [2], [0]]), ValueError, "got K = 3 for 2 of 5 points"),
    ],
)
def test_data_are_validated(data: Any, error: type[Exception], message: str):
    for call in (SphericalKMeans(3).fit, SphericalKMeans(3).partial_fit):
        with pytest.raises(error, match=message):
            call(data)


@pytest.mark.parametrize("features", ["raw", "standardized", "squared"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_error_counts_and_locates_nonfinite_points(features: str, bad: float):
    x = mixture(3, 4, 5, 6, 3, 1.0).float()
    km = fit(x, 3, features=features)
    x[1, 2, 3, 4] = x[2, 0, 0, 0] = x[2, 1, 0, 0] = bad
    fresh, streaming = SphericalKMeans(3, features=features), SphericalKMeans(3, features=features).partial_fit(x[:1])
    before = streaming.centroids_.clone()
    for call in (fresh.fit, fresh.partial_fit, streaming.partial_fit, km.predict, km.score):
        with pytest.raises(ValueError, match=r"got 2 of 90 points with NaN.*the first at image 1, position \(3, 4\)"):
            call(x)
        with pytest.raises(ValueError, match=r"got 2 of 90 points with NaN.*the first at row 52$"):
            call(rows(x))
    assert torch.equal(streaming.centroids_, before)


def test_results_require_no_gradient():
    x = rows(mixture(1, 4, 5, 5, 2, 1.0)).requires_grad_()
    km = fit(x, 2, init=directions(2, 4).requires_grad_())
    km.partial_fit(x)
    assert not km.centroids_.requires_grad
    assert not fit(x, 2).centroids_.requires_grad


def test_calls_before_fit_and_wrong_channels_are_refused():
    x = mixture(2, 4, 5, 6, 3, 1.0)
    for call in (SphericalKMeans(3).predict, SphericalKMeans(3).score):
        with pytest.raises(RuntimeError, match="no centroids yet: call fit or partial_fit"):
            call(x)
    km = fit(x, 3)
    for call in (km.predict, km.score, km.partial_fit):
        with pytest.raises(ValueError, match=r"activations must have C = 4 like the centroids, got \(2, 3, 5, 6\)"):
            call(x[:, :3])
    with pytest.raises(ValueError, match=r"init must have shape .* with C = 4 on cpu .* got \(3, 5\) on cpu"):
        SphericalKMeans(3, init=torch.ones(3, 5)).fit(x)
    with pytest.raises(ValueError, match="backend must be one of"):
        SphericalKMeans(3, backend="abacus").fit(x)
    assert km.predict(x[:0]).shape == (0, 5, 6)
    assert km.predict(rows(x)[:0]).shape == (0,)
    assert km.score(x[:0]) == 0
