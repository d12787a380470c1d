# SPDX-License-Identifier: Apache-2.0
"""A fit that is stopped after any iteration resumes from its checkpoint to the same bits; other files are refused."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mixtures import directions, mixture
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from stylefast import SphericalKMeans
from stylefast.io.tensors import read_tensors
from stylefast.kmeans import EmptyClusterWarning
from stylefast.kmeans.lloyd import FORMAT

# Written by `stylefast catalog` before the first release.
FORMER = Path(__file__).parents[1] / "data" / "former" / "workdir"

X = mixture(4, 8, 6, 6, 12, 3.0).float()


class Stopping:
    """A stream of three batches. The read after `n_reads` complete reads ends with KeyboardInterrupt."""

    def __init__(self, n_reads: int) -> None:
        self.remaining = n_reads

    def __iter__(self) -> Iterator[Tensor]:
        yield X[:2]
        if self.remaining == 0:
            raise KeyboardInterrupt
        self.remaining -= 1
        yield X[2:3]
        yield X[3:]


def fit(data: Any, checkpoint: Path | None = None, **options: Any) -> SphericalKMeans:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyClusterWarning)
        defaults: dict[str, Any] = {"n_init": 3, "tol": 0, "max_iter": 25}
        return SphericalKMeans(9, **defaults | options).fit(data, checkpoint=checkpoint, progress=False)


def assert_same_bits(one: SphericalKMeans, two: SphericalKMeans) -> None:
    assert torch.equal(one.centroids_, two.centroids_) and one.objective_ == two.objective_
    for a, b in zip(one.runs_, two.runs_, strict=True):
        assert torch.equal(a.centroids, b.centroids) and torch.equal(a.sums, b.sums) and torch.equal(a.counts, b.counts)
        assert (a.objective, a.n_iter, a.converged) == (b.objective, b.n_iter, b.converged)
        assert (a.n_relocated, a.n_empty) == (b.n_relocated, b.n_empty)
    assert one.n_relocated_ == two.n_relocated_


HALF_EMPTY = torch.cat((directions(9, 8, 3)[:8], directions(9, 8, 3)[:1])).expand(3, -1, -1)


@pytest.mark.parametrize("options", [{}, {"init": HALF_EMPTY}], ids=["k-means++", "relocated"])
def test_fit_stopped_anywhere_resumes_to_the_same_bits(tmp_path: Path, options: dict[str, Any]):
    expected = fit([X[:2], X[2:3], X[3:]], **options)
    assert max(run.n_iter for run in expected.runs_) > 4 and bool(expected.n_relocated_) == bool(options)
    for n_reads in range(9):
        path, stops = tmp_path / str(n_reads), 0
        while True:
            try:
                # Up to five reads may not complete an iteration. If every attempt were stopped, the fit would not end.
                km = fit(Stopping(n_reads if n_reads > 5 or not stops else 99), path, **options)
                break
            except KeyboardInterrupt:
                stops += 1
        assert stops
        assert_same_bits(km, expected)


def test_finished_fit_of_an_array_is_not_repeated(tmp_path: Path):
    path, expected = tmp_path / "new" / "state", fit(X)
    first = fit(X, path)
    contents = path.read_bytes()
    again = fit(X, path)
    assert path.read_bytes() == contents and [p.name for p in path.parent.iterdir()] == ["state"]
    for km in (first, again):
        assert_same_bits(km, expected)
        assert torch.equal(km.labels_, expected.labels_)


@pytest.mark.parametrize(
    "options, data, message",
    [
        ({"seed": 1}, X, "its seed is 0, not 1"),
        ({"tol": 1e-3}, X, "its tol is 0, not 0.001"),
        ({"n_init": 2}, X, "its n_init is 3, not 2"),
        ({"init": "random"}, X, "its init is 'k-means++', not 'random'"),
        ({"features": "squared"}, X, "its features is 'raw', not 'squared'"),
        ({}, X[:3], "its points is 144, not 108"),
        ({}, X[:, :5], "its channels is 8, not 5"),
    ],
)
def test_checkpoint_of_another_fit_is_refused(tmp_path: Path, options: dict[str, Any], data: Any, message: str):
    fit(X, tmp_path / "state", max_iter=2)
    contents = (tmp_path / "state").read_bytes()
    with pytest.raises(
        ValueError, match=re.escape(f"{tmp_path / 'state'} cannot be used: it has another provenance: {message}")
    ):
        fit(data, tmp_path / "state", max_iter=2, **options)
    assert (tmp_path / "state").read_bytes() == contents


def test_damaged_checkpoint_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "state"
    fit(X, path, max_iter=2)
    intact = path.read_bytes()
    flipped = bytearray(intact)
    flipped[-7] ^= 1
    for damaged in (intact[:-1], intact[: len(intact) // 2], b"", bytes(flipped), b"no tensors, only words"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{re.escape(str(path))} cannot be used"):
            fit(X, path, max_iter=2)
        assert path.read_bytes() == damaged


def test_checkpoint_of_the_former_version_loads(tmp_path: Path):
    shards = [load_file(path)["activations"] for path in sorted(FORMER.glob("activations-*.safetensors"))]
    path = tmp_path / "kmeans.safetensors"
    shutil.copy(FORMER / path.name, path)
    km = SphericalKMeans(3, n_init=2, seed=0).fit(shards, checkpoint=path, progress=False)
    assert path.read_bytes() == (FORMER / path.name).read_bytes()
    tensors = load_file(path)
    for i, (run, numbers) in enumerate(zip(km.runs_, read_tensors(path, FORMAT)[1]["runs"], strict=True)):
        for name in ("centroids", "sums", "counts"):
            assert torch.equal(torch.as_tensor(getattr(run, name)), tensors[f"{name}.{i}"])
        stored = {"objective": run.objective, "n_iter": run.n_iter, "converged": run.converged}
        assert stored | {"n_reseeded": run.n_relocated, "n_empty": run.n_empty} == numbers


def test_file_keeps_the_keys_of_the_former_version(tmp_path: Path):
    km = fit(X, tmp_path / "state", init=HALF_EMPTY, max_iter=3)
    _, header = read_tensors(tmp_path / "state", FORMAT)
    assert [run["n_reseeded"] for run in header["runs"]] == [run.n_relocated for run in km.runs_]
    assert km.n_relocated_ > 0 and header["going"] == []
    assert list(header["runs"][0]) == ["objective", "n_iter", "converged", "n_reseeded", "n_empty"]
    metadata = safe_open(tmp_path / "state", "pt").metadata()
    assert list(json.loads(metadata[FORMAT])["of"])[:6] == [
        "n_clusters",
        "n_init",
        "max_iter",
        "tol",
        "seed",
        "features",
    ]
