# SPDX-License-Identifier: Apache-2.0
"""Laws of assignment and Lloyd steps for arbitrary inputs, and cases computed by hand, on every backend."""

from __future__ import annotations

import pytest
import torch
from cells import backends, call
from hypothesis import given
from hypothesis import strategies as st
from problems import problems, rng, seeds
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

import stylefast
from stylefast.ops.assign import FEATURES

pytestmark = pytest.mark.parametrize("backend", backends())


def has_clear_label(activations: Tensor, centroids: Tensor, features: str) -> Tensor:
    """Whether the best centroid of a point beats the second best by more than rounding errors, [N, H, W]."""
    x = activations.double()
    x = {"raw": x, "squared": x.square(), "standardized": F.instance_norm(x) if x[0, 0].numel() > 1 else x * 0}[
        features
    ]
    score = torch.einsum("nchw,kc->nhwk", F.normalize(x, dim=1), F.normalize(centroids.double(), dim=1))
    best = score.topk(min(2, len(centroids)), dim=-1).values
    return best[..., 0] - best[..., -1] > 1e-3 if len(centroids) > 1 else torch.ones(best.shape[:-1], dtype=torch.bool)


@given(problem=problems(), exponent=st.integers(-20, 20))
def test_scaling_points_by_a_power_of_two_changes_no_bit(backend: str, problem: tuple[Tensor, Tensor], exponent: int):
    x, centroids = problem
    got, expected = (call(stylefast.assign, backend, a, centroids) for a in (x * 2.0**exponent, x))
    assert torch.equal(got.labels, expected.labels) and torch.equal(got.similarity, expected.similarity)


@given(problem=problems(), factor=st.floats(0.01, 100))
def test_scaling_points_keeps_similarity_and_clear_labels(backend: str, problem: tuple[Tensor, Tensor], factor: float):
    x, centroids = problem
    got, expected = (call(stylefast.assign, backend, a, centroids) for a in (x * factor, x))
    assert_close(got.similarity, expected.similarity, rtol=1e-5, atol=1e-5)
    is_clear = has_clear_label(x, centroids, "raw")
    assert torch.equal(got.labels[is_clear], expected.labels[is_clear])


@given(problem=problems(), features=st.sampled_from(FEATURES), seed=seeds)
def test_permuted_images_have_permuted_labels(backend: str, problem: tuple[Tensor, Tensor], features: str, seed: int):
    x, centroids = problem
    order = torch.randperm(len(x), generator=rng(seed))
    got, expected = (call(stylefast.assign, backend, a, centroids, features=features) for a in (x[order], x))
    assert_close(got.similarity, expected.similarity[order], rtol=1e-5, atol=1e-5)
    is_clear = has_clear_label(x, centroids, features)[order]
    assert torch.equal(got.labels[is_clear], expected.labels[order][is_clear])


@given(problem=problems(), seed=seeds)
def test_permuted_centroids_have_permuted_labels(backend: str, problem: tuple[Tensor, Tensor], seed: int):
    x, centroids = problem
    order = torch.randperm(len(centroids), generator=rng(seed))
    got, expected = (call(stylefast.assign, backend, x, c) for c in (centroids[order], centroids))
    is_clear = has_clear_label(x, centroids, "raw") & x.ne(0).any(1)
    assert torch.equal(order[got.labels.long()][is_clear], expected.labels.long()[is_clear])


@given(
    problem=problems(torch.float64),
    scale=st.floats(1, 50),
    shift=st.floats(-50, 50),
)
def test_standardised_features_ignore_affine_maps(
    backend: str, problem: tuple[Tensor, Tensor], scale: float, shift: float
):
    x, centroids = problem
    factor = torch.linspace(1, scale, x.shape[1], dtype=torch.float64).view(1, -1, 1, 1)
    moved = (x * 10 + shift) * factor - shift  # epsilon is negligible against these variances
    got, expected = (call(stylefast.assign, backend, a, centroids, features="standardized") for a in (moved, x * 10))
    constant = x.flatten(2).var(2, correction=0).amin() < 1e-2
    if not constant:
        assert_close(got.similarity, expected.similarity, rtol=1e-3, atol=1e-3)
        is_clear = has_clear_label(x, centroids, "standardized")
        assert torch.equal(got.labels[is_clear], expected.labels[is_clear])


def test_cosines_by_hand(backend: str):
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-5.0, 0.0], [1.0, -1.0]]).t().reshape(1, 2, 2, 2)
    labels, similarity = call(stylefast.assign, backend, x, torch.tensor([[0.6, 0.8], [0.0, -1.0], [-1.0, 0.0]]))
    assert labels.tolist() == [[[0, 0], [2, 1]]]
    assert_close(similarity, torch.tensor([[[1.0, 0.0], [1.0, 0.5**0.5]]]))
    labels, similarity = call(stylefast.assign, backend, x, torch.tensor([[0.6, 0.8], [1.0, 0.0]]), features="squared")
    assert labels.tolist() == [[[0, 0], [1, 0]]]
    assert_close(similarity, torch.tensor([[[18.2 / 337**0.5, 0.0], [1.0, 1.4 / 2**0.5]]]))


@given(problem=problems(), features=st.sampled_from(FEATURES))
def test_lloyd_step_is_assign_with_sums(backend: str, problem: tuple[Tensor, Tensor], features: str):
    x, centroids = problem
    step = call(stylefast.lloyd_step, backend, x, centroids, features=features)
    assigned = call(stylefast.assign, backend, x, centroids, features=features)
    assert torch.equal(step.labels, assigned.labels)
    assert_close(step.objective, assigned.similarity.double().mean(), rtol=1e-6, atol=1e-6)
    assert step.sums.norm(dim=1).le(step.counts * (1 + 1e-5)).all()  # sums of unit vectors


@given(problem=problems())
def test_counts_and_sums_leave_out_zero_points(backend: str, problem: tuple[Tensor, Tensor]):
    x, centroids = problem
    step = call(stylefast.lloyd_step, backend, x, centroids)
    nonzero = x.ne(0).any(1)
    assert step.counts.tolist() == torch.bincount(step.labels[nonzero], minlength=len(centroids)).tolist()
    unit = F.normalize(x.double(), dim=1).movedim(1, -1)[nonzero]
    expected = torch.zeros(centroids.shape, dtype=torch.float64).index_add(0, step.labels[nonzero].long(), unit)
    assert_close(step.sums.double(), expected, rtol=1e-5, atol=1e-5)


@given(problem=problems(), features=st.sampled_from(FEATURES), restarts=st.integers(1, 4), seed=seeds)
def test_restarts_equal_single_calls(
    backend: str, problem: tuple[Tensor, Tensor], features: str, restarts: int, seed: int
):
    x, centroids = problem
    stacked = torch.randn(restarts, *centroids.shape, generator=rng(seed))
    together = call(stylefast.lloyd_step, backend, x, stacked, features=features)
    for b in range(restarts):
        alone = call(stylefast.lloyd_step, backend, x, stacked[b], features=features)
        assert torch.equal(together.labels[b], alone.labels) and torch.equal(together.counts[b], alone.counts)
        assert_close(together.sums[b], alone.sums, rtol=1e-6, atol=1e-6)
        assert_close(together.objective[b], alone.objective, rtol=1e-6, atol=1e-6)


@given(problem=problems())
def test_a_lloyd_step_never_lowers_the_objective(backend: str, problem: tuple[Tensor, Tensor]):
    x, centroids = problem
    step = call(stylefast.lloyd_step, backend, x, centroids)
    moved = torch.where(step.counts[:, None] > 0, F.normalize(step.sums, dim=1), centroids)
    assert call(stylefast.lloyd_step, backend, x, moved).objective >= step.objective - 1e-6


def test_a_lloyd_step_by_hand(backend: str):
    x = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 0.0], [-4.0, 0.0], [1.0, 1.0]]).t().reshape(1, 2, 1, 5)
    step = call(stylefast.lloyd_step, backend, x, torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))
    half = 0.5**0.5
    assert step.labels.tolist() == [[[0, 1, 0, 2, 0]]] and step.counts.tolist() == [2, 1, 1, 0]
    assert_close(step.sums, torch.tensor([[1 + half, half], [0.0, 1.0], [-1.0, 0.0], [0.0, 0.0]]))
    assert_close(step.objective, torch.tensor((3 + half) / 5, dtype=torch.float64), rtol=1e-6, atol=0)
