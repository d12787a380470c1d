# SPDX-License-Identifier: Apache-2.0
"""Queries computed by hand, by brute force over subsets and by linear programming, and laws of the budget."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from stylefast import query

EIGHTHS = st.integers(0, 8).map(lambda n: n / 8)  # exact in every float dtype, with many ties
channels = st.lists(EIGHTHS, min_size=1, max_size=9).map(lambda m: torch.tensor(m, dtype=torch.float64))
budgets = st.integers(0, 40).map(lambda n: n / 8)


def by_loop(m: list[float], epsilon: float, rho: float) -> list[float]:
    q, spent = [0.0] * len(m), 0.0
    for c in sorted(range(len(m)), key=lambda c: (-m[c], c)):
        spent += 1 - m[c]
        q[c] = float(spent < epsilon and m[c] > rho)
    return q


def gain(q: torch.Tensor, m: torch.Tensor, rho: float) -> float:
    return float((q * (m - rho * (1 - m))).sum())


def spent(q: torch.Tensor, m: torch.Tensor) -> float:
    return float((q * (1 - m)).sum())


def test_simultaneous_by_hand():
    m = torch.tensor([[0.0, 0.25, 0.5], [-1.0, 1.0, 7.0]])
    assert query.simultaneous(m, 3).tolist() == [[0, 0.75, 1], [0, 1, 1]]
    assert query.simultaneous(m, 0).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert query.simultaneous(m, [3.0, 0.5]).tolist() == [[0, 0.75, 1], [0, 0.5, 0.5]]


def test_running_cost_by_hand():
    # In descending order: 0.75 (index 1), 0.75 (index 3), 0.5, 0.25.
    m = torch.tensor([0.5, 0.75, 0.25, 0.75])
    assert query.running_cost(m).tolist() == [1.0, 0.25, 1.75, 0.5]
    assert query.running_cost(m).dtype == torch.float64


@pytest.mark.parametrize("fractional", [False, True])
def test_costs_of_sites_end_to_end_give_their_queries(fractional):
    m = torch.rand(2, 40, generator=torch.Generator().manual_seed(0))
    for epsilon, rho in ((0.0, 0.0), (3.0, 0.5), (9.0, 0.1)):
        expected = query.sequential(m, epsilon, rho, fractional=fractional).flatten()
        cost = query.running_cost(m).flatten()
        assert torch.equal(query.sequential(m.flatten(), epsilon, rho, fractional=fractional, cost=cost), expected)


def test_sequential_is_strict_in_budget_and_threshold():
    m = torch.tensor([0.5, 0.75, 0.25, 0.75])
    assert query.sequential(m, 1.0, 0.0).tolist() == [0, 1, 0, 1]  # the third channel brings the cost to exactly 1
    assert query.sequential(m, 1.001, 0.0).tolist() == [1, 1, 0, 1]
    assert query.sequential(m, 9.0, 0.5).tolist() == [0, 1, 0, 1]  # m = ρ stays out
    assert query.sequential(m, 9.0, 0.0).tolist() == [1, 1, 1, 1]


def test_equal_contributions_are_taken_in_channel_order():
    q = query.sequential(torch.full((2000,), 0.5), 400.25, 0.1)
    assert q.sum() == 800 and q[:800].all()


def test_a_free_channel_is_taken_by_any_budget_but_zero():
    m = torch.tensor([0.0, 1.0, 1.5])
    for fractional in (False, True):
        assert query.sequential(m, 0.0, 0.0, fractional=fractional).tolist() == [0, 0, 0]
        assert query.sequential(m, 1e-9, 0.0, fractional=fractional).tolist() == [0, 1, 1]
        assert query.sequential(m, 0.5, 1.0, fractional=fractional).tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_contribution_equal_to_rho_stays_out_in_every_dtype(dtype):
    m = torch.tensor([0.1, 0.2, 0.3], dtype=dtype)
    for rho in (0.1, torch.tensor(0.1, dtype=torch.float64), np.float64(0.1)):
        assert query.sequential(m, 3.0, rho).tolist() == [0, 1, 1]


def test_the_cost_is_summed_in_float64():
    m = torch.full((20_000,), 1 - 2**-24, dtype=torch.float32)
    m[0] = 0.0
    assert query.running_cost(m)[0] == 19_999 * 2**-24 + 1  # needs one bit more than float32 has


@given(channels, budgets, EIGHTHS)
def test_sequential_equals_a_plain_loop(m, epsilon, rho):
    expected = by_loop(m.tolist(), epsilon, rho)
    assert query.sequential(m, epsilon, rho).tolist() == expected
    assert ((query.running_cost(m) < epsilon) & (m > rho)).tolist() == expected


@settings(max_examples=100)
@given(channels, st.lists(budgets, min_size=2, max_size=2).map(sorted), EIGHTHS, st.booleans())
def test_a_larger_budget_keeps_all_channels_of_a_smaller_one(m, epsilons, rho, fractional):
    small, large = (query.sequential(m, epsilon, rho, fractional=fractional) for epsilon in epsilons)
    assert (small <= large).all()


@settings(max_examples=100)
@given(channels, budgets, st.randoms(use_true_random=False))
def test_the_order_of_unequal_channels_does_not_matter(m, epsilon, random):
    m = torch.unique(m)
    order = list(range(len(m)))
    random.shuffle(order)
    for fractional in (False, True):
        q = query.sequential(m, epsilon, 0.25, fractional=fractional)
        assert torch.equal(query.sequential(m[order], epsilon, 0.25, fractional=fractional), q[order])


@given(channels, budgets.filter(bool), EIGHTHS, st.sampled_from(["released", "paper"]))
def test_fractional_reaches_the_optimum_of_the_linear_program(m, epsilon, rho, rho_mode):
    q = query.sequential(m, epsilon, rho, fractional=True, rho_mode=rho_mode)
    best = linprog(
        -(m - rho * (1 - m)).numpy(),
        A_ub=(1 - m)[None].numpy(),
        b_ub=[epsilon],
        bounds=[(0, 1 if rho_mode == "paper" or c > rho else 0) for c in m.tolist()],
    )
    assert gain(q, m, rho) == pytest.approx(-best.fun, abs=1e-9)
    assert spent(q, m) <= epsilon + 1e-12


@given(channels.filter(lambda m: len(m) <= 6), budgets.filter(bool), EIGHTHS)
def test_fractional_beats_every_subset(m, epsilon, rho):
    q = query.sequential(m, epsilon, rho, fractional=True, rho_mode="paper")
    subsets = (torch.tensor(bits, dtype=m.dtype) for bits in itertools.product((0.0, 1.0), repeat=len(m)))
    best = max(gain(subset, m, rho) for subset in subsets if spent(subset, m) <= epsilon)
    assert gain(q, m, rho) >= best - 1e-12
    assert ((q > 0) & (q < 1)).sum() <= 1
    assert (q >= query.sequential(m, epsilon, rho, rho_mode="paper")).all()


def test_fractional_gives_the_rest_to_the_next_channel():
    m = torch.tensor([0.25, 0.75, 0.5])
    assert query.sequential(m, 0.5, 0.0, fractional=True).tolist() == [0, 1, 0.5]
    assert query.sequential(m, 0.75, 0.0, fractional=True).tolist() == [0, 1, 1]  # the budget is spent exactly
    assert query.sequential(m, 0.5, 0.5, fractional=True).tolist() == [0, 1, 0]  # the next channel has m = ρ


def test_rho_mode_paper_is_where_the_gain_changes_sign():
    m = torch.tensor([0.32, 1 / 3, 0.34, 0.5], dtype=torch.float64)  # ρ/(1 + ρ) = 1/3 at ρ = 1/2
    assert query.sequential(m, 9.0, 0.5, rho_mode="paper").tolist() == [0, 0, 1, 1]
    assert query.sequential(m, 9.0, 0.5).tolist() == [0, 0, 0, 0]


def test_budgets_and_thresholds_may_differ_per_row():
    m = torch.rand(4, 3, 50, generator=torch.Generator().manual_seed(0))
    epsilon, rho = torch.tensor([0.5, 2.0, 20.0]), torch.tensor([[0.0], [0.1], [0.5], [0.9]])
    rows = [[query.sequential(m[i, j], epsilon[j], rho[i, 0]) for j in range(3)] for i in range(4)]
    got = query.sequential(m, epsilon, rho)
    assert torch.equal(got, torch.stack([torch.stack(row) for row in rows]))
    assert 0 < got.sum() < got.numel()


CALLS = {
    "simultaneous": lambda m: query.simultaneous(m, 1.5),
    "sequential": lambda m: query.sequential(m, 2.0, 0.1),
    "fractional": lambda m: query.sequential(m, 2.0, 0.1, fractional=True, rho_mode="paper"),
    "softmax": lambda m: query.softmax(m, 1, threshold=0.3),
    "running_cost": lambda m: query.running_cost(m),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_numpy_in_numpy_out_with_the_same_numbers(call):
    m = np.random.default_rng(0).random((3, 2, 20), dtype=np.float32)
    views = {"plain": m, "sliced": m[:, :, ::2], "reversed": m[::-1, :, ::-1], "read-only": m.copy()}
    views["read-only"].flags.writeable = False
    for name, view in views.items():
        before = view.copy()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = call(view)
        assert isinstance(got, np.ndarray) and np.array_equal(got, call(torch.tensor(view.copy())).numpy()), name
        assert np.array_equal(view, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", CALLS)
def test_shape_and_dtype_are_kept(name, dtype):
    m = torch.rand(3, 2, 20, generator=torch.Generator().manual_seed(1)).to(dtype)
    got = CALLS[name](m)
    assert got.shape == (m.shape if name != "softmax" else m.shape[1:])
    assert got.dtype == (dtype if name != "running_cost" else torch.float64)
    assert got.sum() > 0 and torch.allclose(got.double(), CALLS[name](m.double()), atol=4e-3)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("shape", [(2, 0), (2, 0, 5)])
def test_no_rows_or_channels_give_an_empty_query(name, shape):
    assert CALLS[name](torch.zeros(shape)).shape == (shape if name != "softmax" else shape[1:])


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_compiles_without_a_graph_break(call):
    m = torch.rand(3, 20, generator=torch.Generator().manual_seed(2))
    assert torch.equal(torch.compile(call, fullgraph=True, backend="eager")(m), call(m))


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, [0.5, -1.0], torch.tensor([0.5, math.nan])])
def test_an_invalid_budget_or_strength_is_refused(bad):
    m = torch.rand(2, 5)
    with pytest.raises(ValueError, match=r"epsilon must be a finite number >= 0, got (-1\.0|nan|inf)"):
        query.sequential(m, bad, 0.1)
    with pytest.raises(ValueError, match=r"strength must be a finite number >= 0, got (-1\.0|nan|inf)"):
        query.simultaneous(m, bad)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan, [0.5, 2.0]])
def test_an_invalid_rho_is_refused(bad):
    with pytest.raises(ValueError, match=r"rho must be a number in \[0, 1\], got (-0\.1|1\.1|nan|2\.0)"):
        query.sequential(torch.rand(2, 5), 1.0, bad)


def test_one_value_per_channel_is_refused():
    with pytest.raises(ValueError, match=r"epsilon must .* broadcast to \(2,\), one value per row.* got shape \(5,\)"):
        query.sequential(torch.rand(2, 5), torch.ones(5), 0.1)
    with pytest.raises(ValueError, match=r"rho must .* broadcast to \(\), .* got shape \(3,\)"):
        query.sequential(torch.rand(5), 1.0, [0.1, 0.2, 0.3])


def test_other_invalid_arguments_are_refused():
    M = torch.rand(3, 5)
    for part in (-1, 3):
        with pytest.raises(ValueError, match=rf"part must be an index into the P = 3 parts of M, got {part}"):
            query.softmax(M, part)
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"temperature must be a finite number > 0"):
            query.softmax(M, 0, temperature=temperature)
    for threshold in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"threshold must be a number in \[0, 1\]"):
            query.softmax(M, 0, threshold=threshold)
    with pytest.raises(ValueError, match="rho_mode must be one of 'released', 'paper', got 'released code'"):
        query.sequential(M, 1.0, 0.1, rho_mode="released code")
    with pytest.raises(ValueError, match=r"epsilon must be on the device of m, cpu, got meta"):
        query.sequential(M, torch.ones(3, device="meta"), 0.1)
    with pytest.raises(ValueError, match=r"cost must have the shape of m, \(3, 5\), got \(5,\)"):
        query.sequential(M, 1.0, 0.1, cost=torch.rand(5))
    with pytest.raises(ValueError, match=r"M must have shape \[P, \.\.\., C\], got \(5,\)"):
        query.softmax(M[0], 0)
    with pytest.raises(ValueError, match=r"m must have shape \[\.\.\., C\], got \(\)"):
        query.running_cost(torch.tensor(0.5))


@pytest.mark.parametrize("m", [torch.arange(4), np.arange(4), [0.5, 0.25], torch.zeros(4, dtype=torch.bool)])
def test_only_floating_tensors_and_arrays_are_contributions(m):
    with pytest.raises(TypeError, match=r"m must be (float32, .*|a torch.Tensor or a NumPy array), got (torch|list)"):
        query.sequential(m, 1.0, 0.1)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_nan_is_counted_and_located(call):
    m = torch.rand(3, 5)
    m[1, 2] = m[2, 0] = math.nan
    with pytest.raises(ValueError, match=r"must not hold NaN, got 2 of 15, the first at index \(1, 2\)"):
        call(m)
