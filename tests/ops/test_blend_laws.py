# SPDX-License-Identifier: Apache-2.0
"""Laws of the blend, on every backend."""

from __future__ import annotations

import pytest
import torch
from cells import backends, bits, call, place
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import stylefast
from stylefast.core.dtypes import DTYPES

pytestmark = pytest.mark.parametrize("backend", backends())

Styles = tuple[Tensor, Tensor, Tensor, Tensor]


@st.composite
def grids(draw: st.DrawFn) -> Styles:
    """Random target [T, S], reference [R, S], query [Q, S] and edits [E, 3]."""
    *rows, width, edits = draw(st.tuples(*(st.integers(1, maximum) for maximum in (5, 5, 5, 70, 30))))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    target, reference = (torch.randn(n, width, generator=rng) for n in rows[:2])
    query = torch.rand(rows[2], width, generator=rng)
    return target, reference, query, torch.stack([torch.randint(n, (edits,), generator=rng) for n in rows], 1)


# 0, -0, 1, inf, -inf; quiet NaN, signalling NaN, NaN with all bits set; the smallest and the largest positive number.
SPECIAL = torch.tensor(
    [0, -(2**31), 0x3F800000, 0x7F800000, -0x800000, 0x7FC01234, 0x7F801234, -1, 1, 0x7F7FFFFF], dtype=torch.int32
).view(torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("strength, zero, one", [(None, 0.0, 1.0), (None, -0.0, 1.0), (2.0, 0.0, 0.5), (0.5, 0.0, 2.0)])
def test_queries_of_0_and_1_return_an_operand_bit_for_bit(
    backend: str, strength: float | None, zero: float, one: float, dtype: torch.dtype
):
    target, reference = (x.flatten().to(dtype) for x in torch.meshgrid(SPECIAL, SPECIAL, indexing="ij"))
    for width in (100, 99, 7):
        t, r = target[:width], reference[-width:]
        for end, value in ((t, zero), (r, one)):
            got = call(stylefast.blend, backend, t, r, torch.full((width,), value), strength=strength)[0]
            if dtype.itemsize == 2:  # NaN stays NaN, but conversions to and from float32 may lose its payload
                assert torch.equal(got.isnan(), end.isnan())
                got, end = got.nan_to_num(5, torch.inf, -torch.inf), end.nan_to_num(5, torch.inf, -torch.inf)
            assert torch.equal(bits(got), bits(end))


@given(styles=grids())
def test_many_edits_equal_single_edits(backend: str, styles: Styles):
    target, reference, query, edits = styles
    together = call(stylefast.blend, backend, target, reference, query, edits=edits)
    for e, (i, j, k) in enumerate(edits.tolist()):
        assert torch.equal(together[e], call(stylefast.blend, backend, target[i], reference[j], query[k])[0])


def test_a_grid_of_edits_in_any_order_equals_pairs(backend: str):
    """Consecutive edits share rows in the order of the grid; few do in another order."""
    rng = torch.Generator().manual_seed(0)
    target, reference, query = (torch.randn(n, 33, generator=rng) for n in (2, 9, 5))
    grid = torch.cartesian_prod(*(torch.arange(n) for n in (2, 9, 5)))  # [90, 3]
    for edits in (grid, grid[torch.randperm(90, generator=rng)], grid.flip(0), grid[:, :1].expand(-1, 3)):
        rows = [x[edits[:, i]] for i, x in enumerate((target, reference, query))]
        got = call(stylefast.blend, backend, target, reference, query, edits=edits)
        assert torch.equal(got, call(stylefast.blend, backend, *rows))


@given(styles=grids())
def test_rows_without_edits_are_paired_or_broadcast(backend: str, styles: Styles):
    target, reference, query, edits = styles
    rows = [x[edits[:, i]] for i, x in enumerate((target, reference, query))]
    expected = call(stylefast.blend, backend, target, reference, query, edits=edits)
    assert torch.equal(call(stylefast.blend, backend, *rows), expected)
    one = call(stylefast.blend, backend, target[0], rows[1], query[:1])
    assert torch.equal(one, call(stylefast.blend, backend, target[:1].expand(len(edits), -1), rows[1], query[0]))


@given(styles=grids(), strength=st.floats(0, 3, width=32))
def test_strength_multiplies_the_query(backend: str, styles: Styles, strength: float):
    target, reference, query, edits = styles
    expected = call(stylefast.blend, backend, target, reference, query * strength, edits=edits)
    for factor in (strength, torch.tensor(strength), torch.full((len(edits),), strength)):
        got = call(stylefast.blend, backend, target, reference, query, edits=edits, strength=factor)
        assert torch.equal(got, expected)


@given(styles=grids())
def test_swapping_target_and_reference_equals_1_minus_query(backend: str, styles: Styles):
    target, reference, query, edits = styles
    got = call(stylefast.blend, backend, target, reference, query, edits=edits)
    swapped = call(stylefast.blend, backend, reference, target, 1 - query, edits=edits[:, [1, 0, 2]])
    assert_close(got, swapped, rtol=1e-5, atol=1e-5)


def test_a_blend_by_hand(backend: str):
    target, reference = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]), torch.tensor([[5.0, 6.0, 7.0]])
    query = torch.tensor([[0.0, 0.5, 1.0], [0.25, 0.0, 2.0]])
    edits = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.int32)
    got = call(stylefast.blend, backend, target, reference, query, edits=edits, strength=torch.tensor([1.0, 1.0, 0.5]))
    assert got.tolist() == [[10.0, 13.0, 7.0], [2.0, 2.0, 11.0], [1.0, 3.0, 5.0]]


def test_out_is_written_and_returned(backend: str):
    target, reference, query, out = (place(x, backend) for x in (*torch.randn(3, 4, 9), torch.full((4, 9), torch.nan)))
    expected = stylefast.blend(target, reference, query, backend=backend)
    assert stylefast.blend(target, reference, query, out=out, backend=backend) is out
    assert torch.equal(out, expected)


def test_gradients_have_the_dtype_and_shape_of_their_inputs(backend: str):
    for dtype in DTYPES:
        target, reference = (place(torch.randn(n, 7).to(dtype), backend).requires_grad_() for n in (4, 1))
        query, strength = (place(x, backend).requires_grad_() for x in (torch.rand(7), torch.rand(4)))
        out = stylefast.blend(target, reference, query, strength=strength, backend=backend)
        out.sum().backward()
        for x in (target, reference, query, strength):
            assert x.grad is not None and x.grad.dtype == x.dtype and x.grad.shape == x.shape and x.grad.any()
        q = strength.detach()[:, None] * query.detach()
        assert_close(target.grad.float(), (1 - q).float(), rtol=1e-2, atol=1e-2)
        assert_close(reference.grad.float(), q.sum(0, keepdim=True).float(), rtol=1e-2, atol=2e-2)


def norm_preserving_edit(t: Tensor, r: Tensor, q: Tensor, a: float) -> Tensor:
    """One edit by the equation of "Retrieve in Style", in float64."""
    t, r, q = t.double(), r.double(), q.double()
    length = (q * r).norm()
    direction = q * r / length if length > 0 else torch.zeros_like(r)
    return t - a * q * t + a * direction * (q * t).norm()


@given(grids(), st.sampled_from([1.0, 1.3]))
def test_norm_preserving_follows_its_equation(backend: str, grid: Styles, strength: float):
    target, reference, query, edits = grid
    options = {"strength": strength, "mode": "norm_preserving"}
    got = call(stylefast.blend, backend, target, reference, query, edits=edits, **options)
    for e, (i, j, k) in enumerate(edits.tolist()):
        expected = norm_preserving_edit(target[i], reference[j], query[k], strength)
        assert_close(got[e].double().cpu(), expected, rtol=2e-5, atol=2e-5)
    rows = (x[edits[:, i]] for i, x in enumerate((target, reference, query)))
    assert_close(got, call(stylefast.blend, backend, *rows, **options), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norm_preserving_keeps_norms_and_unqueried_channels(backend: str, dtype: torch.dtype):
    rng = torch.Generator().manual_seed(0)
    target, reference = (torch.randn(3, 400, generator=rng).to(dtype) for _ in range(2))
    query = (torch.rand(400, generator=rng) > 0.7).to(torch.float32)
    got = call(stylefast.blend, backend, target, 1e3 * reference, query, mode="norm_preserving").cpu()
    assert got.dtype == dtype and torch.equal(got[:, query == 0], target[:, query == 0])
    norm, expected = (torch.linalg.vector_norm(x[:, query == 1].double(), dim=1) for x in (got, target))
    assert_close(norm, expected, rtol=4 * torch.finfo(dtype).eps, atol=0)
    empty = call(stylefast.blend, backend, target, 0 * reference, query, mode="norm_preserving").cpu()
    assert torch.equal(empty, torch.where(query == 1, 0, target))


@pytest.mark.parametrize("edits", [None, torch.tensor([[0, 1, 0], [1, 1, 0], [1, 0, 0]])], ids=["pairs", "edits"])
def test_norm_preserving_gradients_are_finite_for_a_zero_query(backend: str, edits: Tensor | None):
    rng = torch.Generator().manual_seed(0)
    target, reference = (torch.randn(2, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    query = torch.rand(1, 4, generator=rng, dtype=torch.float64)
    placed = [place(x, backend).requires_grad_() for x in (target, reference, query)]
    index = None if edits is None else place(edits, backend)

    def blended(t: Tensor, r: Tensor, q: Tensor) -> Tensor:
        return stylefast.blend(t, r, q, edits=index, mode="norm_preserving", backend=backend)

    assert torch.autograd.gradcheck(blended, placed)
    zero = torch.zeros_like(placed[2], requires_grad=True)
    grads = torch.autograd.grad(blended(*placed[:2], zero).sum(), [*placed[:2], zero])
    assert all(g.isfinite().all() for g in grads)
