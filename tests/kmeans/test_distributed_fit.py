# SPDX-License-Identifier: Apache-2.0
"""Fits that several processes share: the result of one, for any number of ranks, also of ranks without data."""

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
    "seeded": {"n_init": 3},
    "random": {"n_init": 2, "init": "random", "features": "standardized"},
    "reseeded": {"init": torch.cat((directions(9, 8, 3)[:7], directions(9, 8, 3)[:2])).float().expand(2, -1, -1)},
}


def data() -> Tensor:
    x = mixture(9, 8, 6, 6, 12, 3.0).float()
    x[4] = 0
    return x


def fitted(x: Any, name: str, **more: Any) -> SphericalKMeans:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyClusterWarning)
        return SphericalKMeans(9, tol=0, max_iter=30, **OPTIONS[name]).fit(x, progress=False, **more)


def fit_part(rank: int, sizes: list[int], as_stream: bool, name: str, checkpoint: Path | None = None) -> dict[str, Any]:
    part = data().split(sizes)[rank]
    x = list(part.split(2) if len(part) else ()) if as_stream else part
    km = fitted(x, name, group=dist.group.WORLD, checkpoint=checkpoint)
    runs = [(run.n_iter, run.converged, run.n_reseeded, run.n_empty, run.objective) for run in km.runs_]
    found = {"runs": runs, "labels": getattr(km, "labels_", None), "objective": km.objective_, "counts": km._counts}
    return found | {"centroids": km.centroids_, "all": torch.stack([run.centroids for run in km.runs_])}


def assert_same(found: list[dict[str, Any]], whole: SphericalKMeans) -> None:
    for each in found:
        assert torch.equal(each["centroids"], found[0]["centroids"]) and torch.equal(each["all"], found[0]["all"])
        assert each["runs"] == found[0]["runs"] and each["objective"] == found[0]["objective"]
        torch.testing.assert_close(each["centroids"], whole.centroids_)
        assert torch.equal(each["counts"], whole._counts)
        assert each["objective"] == pytest.approx(whole.objective_, rel=1e-6)
        for run, expected in zip(each["runs"], whole.runs_, strict=True):
            assert run[:4] == (expected.n_iter, expected.converged, expected.n_reseeded, expected.n_empty)


@pytest.mark.parametrize("name", list(OPTIONS))
@pytest.mark.parametrize("sizes", [[4, 5], [0, 9], [3, 3, 3], [7, 0, 2], [0, 0, 9]], ids=str)
def test_ranks_give_what_one_process_gives(sizes: list[int], name: str):
    whole = fitted(data(), name)
    assert bool(whole.n_reseeded_) == (name == "reseeded")
    as_stream = sizes[0] != 4
    found = in_ranks(len(sizes), fit_part, sizes, as_stream, name)
    assert_same(found, whole)
    if not as_stream:
        assert torch.equal(torch.cat([each["labels"] for each in found]), whole.labels_)


def test_a_state_goes_on_with_another_number_of_ranks(tmp_path: Path):
    def states() -> list[str]:
        return sorted(path.name for path in tmp_path.iterdir())

    path = tmp_path / "state"
    one = in_ranks(2, fit_part, [4, 5], True, "seeded", path)
    assert states() == ["state"]
    before = path.read_bytes()
    again = in_ranks(3, fit_part, [2, 0, 7], True, "seeded", path)
    assert path.read_bytes() == before and states() == ["state"]
    assert torch.equal(one[0]["all"], again[2]["all"])
    assert_same(again, fitted(data(), "seeded"))


def say(rank: int) -> tuple[Any, ...]:
    ranks = Ranks(dist.group.WORLD)
    assert (ranks.rank, ranks.size) == (rank, dist.get_world_size())
    tensors = torch.tensor([1.5 * rank]), torch.tensor([[2**40 + rank, 1]]), torch.tensor(0.1, dtype=torch.float64)
    return ranks.total(*tensors), ranks.gather(f"r{rank}"), ranks.first(rank + 7), list(ranks.share(10))


def test_what_ranks_tell_each_other():
    found = in_ranks(3, say)
    for (a, b, c), names, first, _ in found:
        assert a.tolist() == [4.5] and a.dtype == torch.float32 and c.item() == pytest.approx(0.3)
        assert b.tolist() == [[3 * 2**40 + 3, 3]] and b.dtype == torch.int64
        assert names == ["r0", "r1", "r2"] and first == 7
    assert [share for *_, share in found] == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]


def test_a_process_alone_answers_itself():
    x = torch.randn(3)
    assert ALONE.total(x)[0] is x and ALONE.gather(x)[0] is x and ALONE.first(x) is x
    assert list(ALONE.share(4)) == [0, 1, 2, 3]
