# SPDX-License-Identifier: Apache-2.0
"""A fit waits for a GPU at most once per iteration, after the next step has started, and gives the same result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from host_waits import GPUS, simulated_gpu
from mixtures import directions, mixture
from torch import Tensor

from stylefast import SphericalKMeans
from stylefast.distributed import Ranks
from stylefast.kmeans.batch import Batch, Sums
from stylefast.kmeans.data import Points
from stylefast.kmeans.lloyd import BatchedLloyd, Run

X = mixture(4, 8, 6, 6, 12, 3.0).float()
INITS = torch.stack([directions(9, 8, seed) for seed in range(5)])  # the restarts end after different iterations
HALF_EMPTY = torch.cat((directions(9, 8, 3)[:8], directions(9, 8, 3)[:1])).expand(3, -1, -1)


def fit(
    gpu: Any, x: Tensor, n_clusters: int = 9, *, stream: bool = False, checkpoint: Path | None = None, **options: Any
) -> SphericalKMeans:
    x = gpu.put(x)
    km = SphericalKMeans(n_clusters, **{"n_init": 4, "tol": 0, "backend": gpu.backend, **options})
    return km.fit([x[:3], x[3:]] if stream else x, progress=False, checkpoint=checkpoint)


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize("stream", [False, True], ids=["array", "stream"])
def test_an_iteration_waits_at_most_once(device: Any, stream: bool, monkeypatch: pytest.MonkeyPatch):
    advance, per_iteration = BatchedLloyd.advance, []
    with device() as gpu:
        fit(gpu, X, stream=stream)  # the first fit may load kernels

        def counted(*args: Any, **options: Any) -> None:
            before = len(gpu.waits)
            advance(*args, **options)
            per_iteration.append(len(gpu.waits) - before)

        monkeypatch.setattr(BatchedLloyd, "advance", counted)
        km = fit(gpu, X, stream=stream)
    assert km.n_relocated_ == 0 and len(per_iteration) > 5 and len({run.n_iter for run in km.runs_}) > 1
    assert max(per_iteration) <= 1


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_waits_besides_iterations_do_not_grow_with_clusters(device: Any, init: str):
    with device() as gpu:
        besides = []
        for n_clusters in (2, 2, 30):  # the first fit may load kernels
            before = len(gpu.waits)
            fit(gpu, X, n_clusters, init=init, max_iter=1)
            besides.append(len(gpu.waits) - before)
    assert besides[2] <= besides[1]


@pytest.fixture
def steps_and_waits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Function that fits to a simulated GPU, and returns the steps and the waits for numbers in their order."""
    step = Batch.step

    def record(max_iter: int, **options: Any) -> list[str]:
        with simulated_gpu() as gpu:

            def recorded(batch: Batch, centroids: Tensor) -> Any:
                gpu.waits.append("step")
                return step(batch, centroids)

            monkeypatch.setattr(Batch, "step", recorded)
            fit(gpu, X, init=gpu.put(INITS), max_iter=max_iter, **options)
        return [name for name in gpu.waits if name in ("step", "event")]

    return record


@pytest.mark.parametrize("max_iter", [1, 4])
def test_the_next_step_starts_before_the_host_waits(max_iter: int, steps_and_waits: Callable[..., list[str]]):
    # The last iteration is known to be the last, so no step follows it.
    assert steps_and_waits(max_iter) == ["step", *["step", "event"] * max_iter, "event"]


def test_streams_and_checkpoints_have_no_step_ahead(tmp_path: Path, steps_and_waits: Callable[..., list[str]]):
    assert steps_and_waits(4, checkpoint=tmp_path / "state") == ["step", "event"] * 5
    assert steps_and_waits(4, stream=True) == ["step", "step", "event"] * 5  # two batches per step


@pytest.mark.parametrize("stream", [False, True], ids=["array", "stream"])
def test_a_simulated_gpu_gives_the_fit_of_the_cpu(stream: bool):
    expected = SphericalKMeans(9, n_init=4, tol=0, backend="reference").fit(X, progress=False)
    with simulated_gpu() as gpu:
        km = fit(gpu, X, stream=stream)
    assert km.objective_ == pytest.approx(expected.objective_, rel=1e-6)
    assert [run.n_iter for run in km.runs_] == [run.n_iter for run in expected.runs_]
    torch.testing.assert_close(km.centroids_.contents, expected.centroids_)


class Counted:
    """Points that count their steps."""

    def __init__(self, x: Tensor) -> None:
        self.points, self.n_steps = Points.scan(x, "raw", None, Ranks(), torch.Generator().manual_seed(0)), 0

    @property
    def highest_objective(self) -> float:
        return self.points.highest_objective

    def step(self, centroids: Tensor) -> Sums:
        self.n_steps += 1
        return self.points.step(centroids)

    def farthest(self, centroids: Tensor, n: int) -> Tensor:
        return self.points.farthest(centroids, n)


def run_all(init: Tensor, tol: float, max_iter: int, ahead: bool) -> tuple[list[Run], list[list[int]], int]:
    """Return the restarts, the indices of the active restarts after every iteration, and the number of steps."""
    points, state, active = Counted(X), BatchedLloyd(init.float()), []
    while state.active:
        state.advance(points, tol, max_iter, ahead=ahead)
        active.append(state.active)
        assert len(state.centroids) == len(state.active)
    return state.runs, active, points.n_steps


@pytest.mark.parametrize(
    "init, tol, max_iter",
    [(INITS, 0, 300), (INITS, 1e-3, 300), (INITS, 0, 6), (INITS, 0, 1), (HALF_EMPTY, 0, 300)],
    ids=["to the end", "tol", "max_iter", "one update", "relocated"],
)
def test_a_step_ahead_does_not_change_the_fit(init: Tensor, tol: float, max_iter: int):
    expected, iterations, n_steps = run_all(init, tol, max_iter, ahead=False)
    runs, iterations_ahead, n_steps_ahead = run_all(init, tol, max_iter, ahead=True)
    assert iterations_ahead == iterations and n_steps == len(iterations)
    for run, other in zip(runs, expected, strict=True):
        torch.testing.assert_close((run.centroids, run.sums), (other.centroids, other.sums))
        assert torch.equal(run.counts, other.counts)
        assert run.objective == pytest.approx(other.objective, rel=1e-6)
        assert (run.n_iter, run.converged) == (other.n_iter, other.converged)
        assert (run.n_relocated, run.n_empty) == (other.n_relocated, other.n_empty)
    reached = max(run.n_iter for run in runs) == max_iter
    n_relocations = sum(run.n_relocated for run in runs)
    assert bool(n_relocations) == (init is HALF_EMPTY)
    assert n_steps_ahead - n_steps == (not reached) if not n_relocations else n_steps_ahead > n_steps
