# SPDX-License-Identifier: Apache-2.0
"""Retrieval by masked cosines, compared with the cosines of a masked copy, which the function never makes."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from stylefast import retrieval
from stylefast.retrieval import nearest


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "CHUNK", 7 * 20)


def drawn(e: int = 3, g: int = 50, s: int = 20, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Random styles [E, S], their queries [E, S], a gallery [G, S] and its queries [G, S]."""
    rng = torch.Generator().manual_seed(0)
    shapes = (e, s), (e, s), (g, s), (g, s)
    styles, query, gallery, gallery_queries = (
        torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes
    )
    return styles.to(dtype), query.clamp(min=0), gallery.to(dtype), (gallery_queries > 0.3).double()


def cosines(s: Tensor, q: Tensor, x: Tensor, p: Tensor) -> Tensor:
    """Cosines [G] of one style with all rows of a gallery, by a masked copy."""
    return torch.nn.functional.cosine_similarity((q * s)[None].double(), (p * x).double(), dim=1, eps=0)


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize(
    "dtype, close", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-5)], ids=str
)
def test_the_most_similar_rows_come_first(per_row: bool, dtype: torch.dtype, close: float):
    styles, query, gallery, gallery_queries = drawn(dtype=dtype)
    got = nearest(styles, query, gallery, 9, gallery_query=gallery_queries if per_row else None)
    for e in range(3):
        truth = cosines(styles[e], query[e], gallery, gallery_queries if per_row else query[e])
        assert_close(got.similarity[e].double(), truth.sort(descending=True).values[:9], rtol=0, atol=close)
        assert_close(truth[got.indices[e]], got.similarity[e].double(), rtol=0, atol=close)
    assert got.similarity.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_single_styles_and_bool_queries_are_taken():
    styles, query, gallery, gallery_queries = drawn()
    one = nearest(styles[0], query[0], gallery, 50)
    assert one.indices.shape == (1, 50) and one.indices[0].sort().values.tolist() == list(range(50))
    assert torch.equal(nearest(styles, query[0], gallery, 5).indices[:1], one.indices[:, :5])
    assert torch.equal(
        nearest(styles, query, gallery, 5, gallery_query=gallery_queries.bool()).indices,
        nearest(styles, query, gallery, 5, gallery_query=gallery_queries).indices,
    )


def test_channels_outside_the_query_and_lengths_do_not_matter():
    styles, query, gallery, _ = drawn()
    changed = gallery.clone()
    changed[:, query[0] == 0] = 1e6
    a, b = (nearest(styles[0], query[0], x, 50) for x in (gallery, 3 * changed))
    assert torch.equal(a.indices, b.indices)
    assert_close(a.similarity, b.similarity)


def test_equal_rows_keep_their_order_and_bad_ones_come_last():
    styles, query, gallery, _ = (x.abs().ceil() for x in drawn())  # whole numbers: no sum is rounded
    gallery[:] = gallery[0]
    gallery[3], gallery[30] = torch.nan, 0
    got = nearest(styles, query, gallery, 50)
    expected = [g for g in range(50) if g not in (3, 30)] + [30, 3]
    assert got.indices.tolist() == [expected] * 3
    assert got.similarity[:, 48:].tolist() == [[0, -torch.inf]] * 3
    assert torch.equal(nearest(styles, torch.zeros(20), gallery[4:30], 2).similarity, torch.zeros(3, 2).double())


def test_the_masked_copy_is_never_made(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retrieval, "CHUNK", 1 << 14)
    styles, query, gallery, gallery_queries = drawn(2, 4000, 64, torch.float32)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            tensors = [x for x in (result if isinstance(result, tuple) else (result,)) if isinstance(x, Tensor)]
            largest = max([largest, *(x.numel() for x in tensors if x._base is None and x is not gallery)])
            return result

    with Watch():
        nearest(styles, query, gallery, 5)
        nearest(styles, query, gallery, 5, gallery_query=gallery_queries)
    assert 1 << 13 <= largest <= 1 << 14


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"k": 0}, ValueError, "k must be an integer >= 1, got 0"),
        ({"k": 51}, ValueError, "k must be at most the gallery's G = 50, got 51"),
        ({"query": torch.ones(2, 20)}, ValueError, r"query must have one row or E = 3, one per style, got \(2, 20\)"),
        ({"query": torch.ones(19)}, ValueError, "query must have S = 20 channels"),
        ({"styles": torch.ones(3, 20).int()}, TypeError, "styles must be float32"),
        (
            {"gallery_query": torch.ones(20)},
            ValueError,
            r"gallery_query must have shape \[G, S\] with G = 50, S = 20, got \(20,\)",
        ),
    ],
)
def test_wrong_arguments_are_refused(change, error: type[Exception], message: str):
    styles, query, gallery, _ = drawn()
    with pytest.raises(error, match=message):
        nearest(**({"styles": styles, "query": query, "gallery": gallery, "k": 2} | change))
