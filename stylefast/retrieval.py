# SPDX-License-Identifier: Apache-2.0
"""Search a gallery of styles for the parts that look alike: eyes like these eyes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .core.checks import check_tensor
from .core.dtypes import accumulator, without_autocast

__all__ = ["Nearest", "nearest"]

CHUNK = 1 << 22  # elements of the gallery that are worked on at a time


class Nearest(NamedTuple):
    """Rows of the gallery [E, k] int64, the most similar first, and their cosines [E, k]."""

    indices: Tensor
    similarity: Tensor


@without_autocast
def nearest(styles: Tensor, query: Tensor, gallery: Tensor, k: int, *, gallery_query: Tensor | None = None) -> Nearest:
    """Finds, for each style, the k rows of a gallery whose queried channels have the most similar direction.

    similarity[e,g] = <q_e o s_e, p_eg o x_g> / (|q_e o s_e| |p_eg o x_g|), p_eg = q_e, or the gallery's own query of g

    The gallery is read once, in pieces; its product with a query is never made, nor are all similarities kept.

    Args:
        styles: s [E, S], or [S] for E = 1; float32, float64, float16 or bfloat16.
        query: q [E, S] or [S], floating: of each style, or of all.
        gallery: x [G, S] of any of these dtypes.
        k: how many, from 1 to G.
        gallery_query: [G, S], floating or bool: of each row, as its own M gives it; None takes the style's.

    Returns:
        indices, similarity (float32; float64 for float64 styles). Of equal similarities the first comes first. Where
        nothing is selected the similarity is 0; rows with NaN come last, with similarity -inf.

    Raises:
        TypeError, ValueError: wrong type, dtype, rank, shape or device; k out of range.

    Source: "Retrieve in Style" (Chong et al., ICCV 2021), section 3.3.
    """
    _check(styles, query, gallery, k, gallery_query)
    dtype = accumulator(styles.dtype)
    s, q = torch.broadcast_tensors(*(x.to(dtype).reshape(-1, gallery.shape[1]) for x in (styles, query)))  # [E, S]
    own = torch.linalg.vector_norm(q * s, dim=1)[:, None]  # [E, 1]
    inner, squares = (q * s if gallery_query is not None else q.square() * s), q.square()
    best = s.new_empty(len(s), 0)
    found = torch.empty(len(s), 0, dtype=torch.int64, device=s.device)
    rows = max(1, CHUNK // gallery.shape[1])
    for begin in range(0, len(gallery), rows):
        x = gallery[begin : begin + rows].to(dtype)
        if gallery_query is None:
            norm = (squares @ x.square().T).sqrt()  # [E, rows]
        else:
            x = x * gallery_query[begin : begin + rows].to(dtype)
            norm = torch.linalg.vector_norm(x, dim=1)[None]
        length = own * norm
        cosine = torch.where(length == 0, 0, inner @ x.T / length)
        places = torch.arange(begin, begin + len(x), device=s.device).expand(len(s), -1)
        cosine = torch.cat((best, cosine.masked_fill(cosine.isnan(), -torch.inf)), 1)
        best, order = cosine.sort(dim=1, descending=True, stable=True)
        best, found = best[:, :k], torch.cat((found, places), 1).gather(1, order[:, :k])
    return Nearest(found, best)


def _check(styles: Tensor, query: Tensor, gallery: Tensor, k: int, gallery_query: Tensor | None) -> None:
    check_tensor("styles", styles, "[E, S] or [S]", 1, 2)
    check_tensor("query", query, "[E, S] or [S]", 1, 2, like=styles)
    check_tensor("gallery", gallery, "[G, S]", 2, like=styles)
    width, count = gallery.shape[1], len(styles) if styles.dim() == 2 else 1
    if styles.shape[-1] != width or query.shape[-1] != width:
        raise ValueError(
            f"styles and query must have S = {width} channels to match gallery [G, S], got {tuple(styles.shape)} and "
            f"{tuple(query.shape)}"
        )
    if query.dim() == 2 and len(query) not in (1, count):
        raise ValueError(f"query must have one row or E = {count}, one a style, got {tuple(query.shape)}")
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(gallery):
        raise ValueError(f"k must be an int from 1 to the gallery's G = {len(gallery)}, got {k!r}")
    if gallery_query is not None and gallery_query.shape != gallery.shape:
        raise ValueError(
            f"gallery_query must have gallery's shape {tuple(gallery.shape)}, got {tuple(gallery_query.shape)}"
        )
