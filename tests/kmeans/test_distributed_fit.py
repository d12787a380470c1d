# SPDX-License-Identifier: Apache-2.0
"""Fits of several ranks give the result of one process, for any number of ranks, even if some ranks have no data."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from forked import in_ranks
from mixtures import directions, mixture
from torch import Tensor

from stylefast import SphericalKMeans
from stylefast.distributed import ALONE, Ranks
from stylefast.kmeans import EmptyClusterWarning

OPTIONS: dict[str, dict[str, Any]] = {
    "k-means++": {"n_init": 3},
    "random": {"n_init": 2, "init": "random", "features": "standardized"},
    "relocated": {"init": torch.cat((directions(9, 8, 3)[:7], directions(9, 8, 3)[:2])).float().expand(2, -1, -1)},
}


def data() -> Tensor:
    x = mixture(9, 8, 6, 6, 12, 3.0).float()
    x[4] = 0
    return x


def fitted(x: Any, name: str, **options: Any) -> SphericalKMeans:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyClusterWarning)
        return SphericalKMeans(9, tol=0, max_iter=30, **OPTIONS[name]).fit(x, progress=False, **options)


def fit_part(rank: int, sizes: list[int], as_stream: bool, name: str, checkpoint: Path | None = None) -> dict[str, Any]:
    part = data().split(sizes)[rank]
    x = list(part.split(2) if len(part) else ()) if as_stream else part
    km = fitted(x, name, group=dist.group.WORLD, checkpoint=checkpoint)
    runs = [(run.n_iter, run.converged, run.n_relocated, run.n_empty, run.objective) for run in km.runs_]
    return {
        "runs": runs,
        "labels": getattr(km, "labels_", None),
        "objective": km.objective_,
        "counts": km._counts,
        "centroids": km.centroids_,
        "centroids_of_runs": torch.stack([run.centroids for run in km.runs_]),
    }


def assert_same(results: list[dict[str, Any]], single: SphericalKMeans) -> None:
    """Assert that all ranks have the same bits, and that these equal the fit of a single process up to rounding."""
    first = results[0]
    for result in results:
        assert torch.equal(result["centroids"], first["centroids"])
        assert torch.equal(result["centroids_of_runs"], first["centroids_of_runs"])
        assert result["runs"] == first["runs"] and result["objective"] == first["objective"]
        torch.testing.assert_close(result["centroids"], single.centroids_)
        assert torch.equal(result["counts"], single._counts)
        assert result["objective"] == pytest.approx(single.objective_, rel=1e-6)
        for run, expected in zip(result["runs"], single.runs_, strict=True):
            assert run[:4] == (expected.n_iter, expected.converged, expected.n_relocated, expected.n_empty)


def fit_mixed(rank: int, sizes: list[int]) -> dict[str, Any]:
    return fit_part(rank, sizes, rank == 0, "k-means++")


@pytest.mark.parametrize("sizes", [[4, 5], [0, 9]], ids=str)
def test_ranks_with_streams_and_arrays_give_one_result(sizes: list[int]):
    results = in_ranks(2, fit_mixed, sizes)
    assert_same(results, fitted(data(), "k-means++"))
    assert results[0]["labels"] is None and len(results[1]["labels"]) == sizes[1]


@pytest.mark.parametrize("name", list(OPTIONS))
@pytest.mark.parametrize("sizes", [[4, 5], [0, 9], [3, 3, 3], [7, 0, 2], [0, 0, 9]], ids=str)
def test_ranks_give_the_result_of_one_process(sizes: list[int], name: str):
    single = fitted(data(), name)
    assert bool(single.n_relocated_) == (name == "relocated")
    as_stream = sizes[0] != 4
    results = in_ranks(len(sizes), fit_part, sizes, as_stream, name)
    assert_same(results, single)
    if not as_stream:
        assert torch.equal(torch.cat([result["labels"] for result in results]), single.labels_)


def test_checkpoint_resumes_with_another_number_of_ranks(tmp_path: Path):
    path = tmp_path / "state"
    two = in_ranks(2, fit_part, [4, 5], True, "k-means++", path)
    contents = path.read_bytes()
    three = in_ranks(3, fit_part, [2, 0, 7], True, "k-means++", path)
    assert path.read_bytes() == contents and [p.name for p in tmp_path.iterdir()] == ["state"]
    assert torch.equal(two[0]["centroids_of_runs"], three[2]["centroids_of_runs"])
    assert_same(three, fitted(data(), "k-means++"))


def collectives(rank: int) -> tuple[Any, ...]:
    ranks = Ranks(dist.group.WORLD)
    assert (ranks.rank, ranks.size) == (rank, dist.get_world_size())
    tensors = torch.tensor([1.5 * rank]), torch.tensor([[2**40 + rank, 1]]), torch.tensor(0.1, dtype=torch.float64)
    return ranks.total(*tensors), ranks.gather(f"r{rank}"), ranks.broadcast(rank + 7), list(ranks.slice_of(10))


def test_collectives_of_three_ranks():
    results = in_ranks(3, collectives)
    for (a, b, c), names, value, _ in results:
        assert a.tolist() == [4.5] and a.dtype == torch.float32 and c.item() == pytest.approx(0.3)
        assert b.tolist() == [[3 * 2**40 + 3, 3]] and b.dtype == torch.int64
        assert names == ["r0", "r1", "r2"] and value == 7
    assert [part for *_, part in results] == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]


def test_collectives_without_a_group_return_the_argument():
    x = torch.randn(3)
    (total,), (gathered,) = ALONE.total(x), ALONE.gather(x)
    assert total is x and gathered is x and ALONE.broadcast(x) is x
    assert list(ALONE.slice_of(4)) == [0, 1, 2, 3]
