# SPDX-License-Identifier: Apache-2.0
"""Retrieval by part: search of a gallery of styles for parts that look alike, such as similar eyes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .core.checks import check_integer, check_shape, check_tensor
from .core.dtypes import accumulator, without_autocast

__all__ = ["Nearest", "nearest"]

CHUNK = 1 << 22  # number of elements of the gallery per step


class Nearest(NamedTuple):
    """Result of `nearest`.

    Attributes:
        indices: Rows of the gallery, the most similar first, [E, k] int64.
        similarity: Cosines of these rows, [E, k] float32 or float64.
    """

    indices: Tensor
    similarity: Tensor


@without_autocast
def nearest(styles: Tensor, query: Tensor, gallery: Tensor, k: int, *, gallery_query: Tensor | None = None) -> Nearest:
    """Find the k rows of a gallery that are most similar to each style in the channels that a query selects.

    For styles s, queries q and a gallery x, with elementwise products of vectors::

        similarity[e, g] = <q_e s_e, p_eg x_g> / (|q_e s_e| |p_eg x_g|)

    Here `p_eg` is `q_e`, or `gallery_query[g]` if it is given. The gallery is read once, in chunks. Neither its product
    with a query nor all similarities are held in memory.

    Args:
        styles: Styles of shape [E, S], or [S] for E = 1; float32, float64, float16 or bfloat16.
        query: Queries of shape [E, S], one row per style, or [S] for all styles, in any of these dtypes.
        gallery: Styles of shape [G, S], in any of these dtypes.
        k: Number of rows per style, from 1 to G.
        gallery_query: One query per row of the gallery, computed from the M of the image in that row, of shape [G, S];
            floating-point or bool. The default is the query of the style.

    Returns:
        `Nearest(indices, similarity)`, both of shape [E, k]. Similarity is float32 (float64 for float64 styles). Rows
        of equal similarity keep their order. If no channel is selected, the similarity is 0. Rows with NaN come last,
        with similarity -inf.

    Raises:
        TypeError: If `styles`, `query` or `gallery` is not a dense tensor of one of these dtypes.
        ValueError: If a shape, a device or k is invalid.

    References:
        Chong et al., "Retrieve in Style: Unsupervised Facial Feature Transfer and Retrieval", ICCV 2021, section 3.3.

    Example:
        >>> import torch
        >>> from stylefast.retrieval import nearest
        >>> gallery, query = torch.randn(1000, 9088), torch.rand(9088)
        >>> nearest(gallery[:2], query, gallery, k=5).indices[:, 0]  # each style is most similar to itself
        tensor([0, 1])
    """
    _check(styles, query, gallery, k, gallery_query)
    dtype = accumulator(styles.dtype)
    s, q = torch.broadcast_tensors(*(x.to(dtype).reshape(-1, gallery.shape[1]) for x in (styles, query)))  # [E, S]
    style_norms = torch.linalg.vector_norm(q * s, dim=1)[:, None]  # [E, 1]
    weighted, squares = (q * s if gallery_query is not None else q.square() * s), q.square()
    similarity = s.new_empty(len(s), 0)
    indices = torch.empty(len(s), 0, dtype=torch.int64, device=s.device)
    n_rows = max(1, CHUNK // gallery.shape[1])
    for begin in range(0, len(gallery), n_rows):
        x = gallery[begin : begin + n_rows].to(dtype)
        if gallery_query is None:
            norms = (squares @ x.square().T).sqrt()  # [E, rows]
        else:
            x = x * gallery_query[begin : begin + n_rows].to(dtype)
            norms = torch.linalg.vector_norm(x, dim=1)[None]
        length = style_norms * norms
        cosine = torch.where(length == 0, 0, weighted @ x.T / length)
        rows = torch.arange(begin, begin + len(x), device=s.device).expand(len(s), -1)
        cosine = torch.cat((similarity, cosine.masked_fill(cosine.isnan(), -torch.inf)), 1)
        similarity, order = cosine.sort(dim=1, descending=True, stable=True)
        similarity, indices = similarity[:, :k], torch.cat((indices, rows), 1).gather(1, order[:, :k])
    return Nearest(indices, similarity)


def _check(styles: Tensor, query: Tensor, gallery: Tensor, k: int, gallery_query: Tensor | None) -> None:
    check_tensor("styles", styles, "[E, S] or [S]", 1, 2)
    check_tensor("query", query, "[E, S] or [S]", 1, 2, like=styles)
    check_tensor("gallery", gallery, "[G, S]", 2, like=styles)
    n_rows, n_channels = gallery.shape
    for name, tensor in (("styles", styles), ("query", query)):
        if tensor.shape[-1] != n_channels:
            expected = f"S = {n_channels} channels to match gallery [G, S]"
            raise ValueError(f"{name} must have {expected}, got {tuple(tensor.shape)}")
    n_styles = len(styles) if styles.dim() == 2 else 1
    if query.dim() == 2 and len(query) not in (1, n_styles):
        raise ValueError(f"query must have one row or E = {n_styles}, one per style, got {tuple(query.shape)}")
    if check_integer("k", k, 1) > n_rows:
        raise ValueError(f"k must be at most the gallery's G = {n_rows}, got {k}")
    if gallery_query is not None:
        check_shape("gallery_query", gallery_query, G=n_rows, S=n_channels)
