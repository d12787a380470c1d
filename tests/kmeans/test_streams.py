# SPDX-License-Identifier: Apache-2.0
"""Fits of a stream: the same result as for the array with any batches, few batches in memory, errors."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from mixtures import directions, fit, mixture, rows
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from stylefast import SphericalKMeans
from stylefast.kmeans import EmptyClusterWarning, initialization
from stylefast.kmeans.prefetch import DEPTH, prefetch

E1, E2, E3 = torch.eye(3)


class Batches:
    """A stream of x in batches of the given sizes; every read copies the batches."""

    def __init__(self, x: Tensor, sizes: list[int]) -> None:
        self.x, self.sizes, self.n_reads = x, sizes, 0

    def __iter__(self) -> Iterator[Tensor]:
        self.n_reads += 1
        return (batch.clone() for batch in self.x.split(self.sizes))


def assert_same(km: SphericalKMeans, expected: SphericalKMeans, x: Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(km.centroids_), expected.centroids_)
    assert torch.equal(torch.as_tensor(km.predict(x)), expected.labels_)
    assert km.objective_ == pytest.approx(expected.objective_, rel=1e-6)
    assert [run.n_iter for run in km.runs_] == [run.n_iter for run in expected.runs_]
    assert not hasattr(km, "labels_")


@pytest.mark.parametrize("features", ["raw", "standardized", "squared"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_stream_gives_the_result_of_the_array(features: str, dtype: torch.dtype):
    x = (mixture(7, 8, 5, 7, 4, 1.5) + 0.2).to(dtype)
    x[1, :, 2, 3] = x[6, :, 0, 0] = 0
    expected = fit(x, 4, n_init=3, features=features)
    for sizes in ([7], [1, 6], [3, 0, 2, 2], [1] * 7):
        assert_same(fit(Batches(x, sizes), 4, n_init=3, features=features), expected, x)


@pytest.mark.parametrize("init", ["random", "centroids"])
def test_stream_of_rows_gives_the_result_of_the_array(init: str):
    x = rows(mixture(3, 8, 5, 7, 4, 1.5))
    options: dict[str, Any] = {"n_init": 2, "init": init if init == "random" else directions(4, 8)}
    km, expected = fit(list(x.split(17)), 4, **options), fit(x, 4, **options)
    assert_same(km, expected, x)
    assert km.score(x.split(17)) == pytest.approx(km.score(x)) == pytest.approx(km.objective_)


def test_memory_maps_and_data_loaders_are_streams(tmp_path: Any):
    x = mixture(6, 8, 5, 7, 4, 1.5).float()
    expected = fit(x, 4, n_init=2)
    paths = [tmp_path / f"{i}.npy" for i in range(3)]
    for path, part in zip(paths, x.split(2), strict=True):
        np.save(path, part.numpy())
    assert_same(fit([np.load(path, mmap_mode="r") for path in paths], 4, n_init=2), expected, x)
    for data in (x, TensorDataset(x), TensorDataset(x, torch.zeros(6))):  # batches of the last two are lists
        km = fit(DataLoader(data, batch_size=4), 4, n_init=2)
        assert_same(km, expected, x)
        assert km.score(DataLoader(data, batch_size=4)) == pytest.approx(km.objective_)


def test_large_sample_is_drawn_without_a_permutation(monkeypatch: pytest.MonkeyPatch):
    x = mixture(4, 8, 9, 9, 4, 1.5).float()
    monkeypatch.setattr(initialization, "SAMPLE", 300)
    monkeypatch.setattr(initialization, "MAX_PERMUTED", 200)
    drawn = initialization._distinct_indices(324, 300, torch.Generator().manual_seed(0))
    assert len(set(drawn.tolist())) == 300 and set(drawn.tolist()) <= set(range(324))
    assert torch.equal(drawn, initialization._distinct_indices(324, 300, torch.Generator().manual_seed(0)))
    assert not torch.equal(drawn, initialization._distinct_indices(324, 300, torch.Generator().manual_seed(1)))
    assert_same(fit(Batches(x, [1, 3]), 4, n_init=2), fit(x, 4, n_init=2), x)


def test_stream_relocates_empty_clusters_like_an_array():
    x = torch.stack((E1, 2 * E1, 0 * E1, E2, E3, E2 + E1, E3))
    inits = torch.stack((E1, E1, E1, E1, E2, E3, E1, E1, E1)).view(3, 3, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyClusterWarning)
        expected = SphericalKMeans(3, init=inits, tol=0).fit(x)
        km = SphericalKMeans(3, init=inits, tol=0).fit(Batches(x, [2, 3, 2]))
    assert_same(km, expected, x)
    assert [run.n_relocated for run in km.runs_] == [run.n_relocated for run in expected.runs_] == [2, 0, 2]


def test_ties_of_the_farthest_point_go_to_the_first():
    x = torch.cat((E1.expand(4, 3), torch.stack((-E1 + E2, -E1 + E3, -E1 - E2))))
    for data in (x, Batches(x, [5, 2])):
        with pytest.warns(EmptyClusterWarning):
            km = SphericalKMeans(2, init=E1.expand(2, 3), max_iter=1).fit(data)
        torch.testing.assert_close(km.centroids_[1], (E2 - E1) / 2**0.5)


def test_prefetch_reads_ahead_and_holds_few_batches():
    x = mixture(20, 8, 5, 7, 4, 1.5).float()
    references: list[weakref.ref[Tensor]] = []
    max_alive = 0

    class Tracked(Batches):
        def __iter__(self) -> Iterator[Tensor]:
            nonlocal max_alive
            for batch in super().__iter__():
                references.append(weakref.ref(batch))
                max_alive = max(max_alive, sum(reference() is not None for reference in references))
                yield batch
                del batch

    fit(Tracked(x, [1] * 20), 4, n_init=2)
    assert 2 <= max_alive <= DEPTH + 2
    second_is_read = threading.Event()

    def batches() -> Iterator[int]:
        yield 0
        second_is_read.set()
        yield 1

    reading = prefetch(batches())
    assert next(reading) == 0
    assert second_is_read.wait(5)  # before it is requested
    assert list(reading) == [1]


def test_error_of_the_stream_is_raised_and_the_thread_ends():
    def failing() -> Iterator[int]:
        yield 0
        raise OSError("the disk is gone")

    before = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        list(prefetch(failing()))
    endless = prefetch(iter(int, 1))
    next(endless)
    endless.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("stream", [(x for x in ()), iter([torch.ones(5, 4)]), 7, None])
def test_streams_that_cannot_be_read_again_are_refused(stream: Any):
    with pytest.raises(TypeError, match="activations must be an array or an iterable of arrays"):
        SphericalKMeans(2).fit(stream)


def test_batches_of_a_stream_are_validated():
    x = mixture(6, 4, 5, 6, 3, 1.0).float()
    with_nan = x.clone()
    with_nan[3, 1, 2, 4] = torch.nan
    cases: list[tuple[Any, type[Exception], str]] = [
        (with_nan.split(2), ValueError, r"batch 1 of activations must be finite, got 1 of 60 .* position \(2, 4"),
        ([x, x[:, :3]], ValueError, "batch 1 of activations must have C = 4 .* got C = 3"),
        ([x, x.double()], ValueError, "batch 1 of activations must have .* torch.float32 .* got .* torch.float64"),
        ([x, "x"], TypeError, "batch 1 of activations must be a torch.Tensor or a NumPy array, got str"),
        ([x, x.int()], TypeError, "batch 1 of activations must be float32"),
        ([], ValueError, "got K = 3 for 0 of 0 points"),
        ([x[:0], x[:0]], ValueError, "got K = 3 for 0 of 0 points"),
        ([0 * x, torch.tensor([[[[1.0]], [[0]], [[0]], [[0]]]])], ValueError, "got K = 3 for 1 of 181 points"),
    ]
    for stream, error, message in cases:
        with pytest.raises(error, match=message):
            SphericalKMeans(3).fit(stream)


def test_stream_that_changes_is_refused():
    class Growing(Batches):
        def __iter__(self) -> Iterator[Tensor]:
            yield from super().__iter__()
            if self.n_reads > 5:
                yield self.x[:1]

    x = mixture(6, 4, 5, 6, 3, 1.0).float()
    with pytest.raises(ValueError, match="same points on every pass, got 180 points first and then 210"):
        SphericalKMeans(3).fit(Growing(x, [3, 3]))
