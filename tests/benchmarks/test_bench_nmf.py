# SPDX-License-Identifier: Apache-2.0
"""Tests of the benchmark of NMF: its checks and its figures."""

from __future__ import annotations

import bench_nmf
import pytest
import torch
from timing import WrongResult
from torch import Tensor


@pytest.fixture
def x(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    monkeypatch.setattr(bench_nmf, "COMPONENTS", 3)
    return bench_nmf.step_arguments(2, 12, 9, 3)["activations"]


def test_the_step_is_compared_with_torch():
    figure = bench_nmf.step_figure((2, 12, 5), 7, 1, 2, 5.0)
    assert (figure.op, figure.workload, figure.k) == ("nmf_step", "2x12x5x5", 7)
    assert figure.peers.keys() == {"torch, products", "reference"} and figure.to_floor is not None


def test_a_wrong_step_is_not_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_nmf, "by_products", lambda *args, **kwargs: (torch.zeros(2, 7, 5, 5),))
    with pytest.raises(WrongResult, match="torch, products: output 0 of nmf_step is off"):
        bench_nmf.step_figure((2, 12, 5), 7, 1, 2, 5.0)


def test_fits_end_with_the_same_error(x: Tensor):
    figure = bench_nmf.fit_figure(x, 1, 2)
    assert (figure.op, figure.peer) == ("NMF.fit", "scikit-learn")
    assert figure.workload == "2x12x9x9 of random-face, 3 components"


def test_a_worse_fit_refuses_the_figure(x: Tensor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_nmf, "fit", lambda x: bench_nmf.Fit(1.0, 0.9))
    with pytest.raises(WrongResult, match="the error of the fit is 0.90000, the smallest known is 0"):
        bench_nmf.fit_figure(x, 1, 1)


def test_the_squared_error_is_that_of_the_best_memberships(x: Tensor):
    components = torch.eye(12)[:3]
    points = x.clamp(min=0)
    expected = points[:, 3:].square().sum() / points.square().sum()
    assert bench_nmf.squared_error(x, components) == pytest.approx(float(expected), rel=1e-5)
