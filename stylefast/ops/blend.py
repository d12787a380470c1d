# SPDX-License-Identifier: Apache-2.0
"""Per-channel blending of styles. A batch of edits is three columns of row indices."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..core.checks import check_choice, check_tensor
from ..core.dtypes import DTYPES, accumulator, in_accumulator
from ..core.private_torch import transforms_are_active
from .blend_gradient import Transformed, backward, setup_context
from .blend_norms import norm_preserving
from .blend_out import check_out, check_overlap
from .blend_rows import as_rows, check_edits, count_edits, count_rows, gathered, paired
from .op import BadCall, Cost, Op

MODES = ("linear", "norm_preserving")


def blend(
    target: Tensor,
    reference: Tensor,
    query: Tensor,
    *,
    edits: Tensor | None = None,
    strength: float | Tensor | None = None,
    mode: str = "linear",
    out: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Move each style channel of the targets towards the references by the fraction that the query gives.

    For edit e, with `t = target[edits[e, 0]]`, `r = reference[edits[e, 1]]`, `q = query[edits[e, 2]]` and
    `a = strength[e]`, per channel::

        out[e] = t + a q (r - t)

    Channels with `a q = 0` equal the target bit for bit, and channels with `a q = 1` equal the reference bit for bit.
    The styles of all sites lie end to end in one row, so one call edits all sites of a generator.

    The mode "norm_preserving" replaces r by a scaled reference. The norms are over all S channels and do not include
    the strength. The scaled references, [E, S], are allocated before the kernel is launched::

        r |q t| / |q r|    (0 if |q r| = 0)

    The op has first and second derivatives with respect to target, reference, query and strength. Autograd and the
    reverse- and forward-mode transforms of `torch.func` compute them. `torch.func.vmap` of the blend itself runs a
    loop. `torch.autograd.forward_ad` and `torch.compile` of a `torch.func` transform are not supported. Under
    `torch.compile` and `torch.export` the op is one node of the graph. Autocast does not change the computation.

    Args:
        target: Styles of shape [T, S] or [S]; float32, float64, float16 or bfloat16.
        reference: Styles of shape [R, S] or [S], of the same dtype.
        query: Queries of shape [Q, S] or [S], in any of these dtypes.
        edits: Row indices into target, reference and query, [E, 3]; int64 or int32. On devices other than the CPU
            their values are not checked. By default, edit e uses row e of target, reference and query, and a single
            row serves all edits.
        strength: Strength of the edits: a number, or a tensor of shape [E]. The default is 1.
        mode: "linear" or "norm_preserving".
        out: Contiguous tensor [E, S] of the target's dtype, to which the result is written and which is returned.
            Reusing a tensor avoids the page faults of a new allocation. Without edits, it may be target, reference or
            query itself if that has E rows. Otherwise it must not share memory with an input.
        backend: Name of a backend, as in `stylefast.assign`.

    Returns:
        Blended styles of shape [E, S] in the target's dtype. They are computed in float32 (float64 for float64 styles).

    Raises:
        TypeError: If an argument has a wrong type or dtype.
        ValueError: If a shape, a device, an index, the number of rows, `mode` or the name of the backend is invalid,
            or if `out` shares memory with an input, is used with inputs that require gradients, requires gradients
            itself, or is given under a transform of `torch.func`.
        RuntimeError: If `backend` cannot run on this machine or on the device of the tensors.
        NotImplementedError: If `torch.autograd.forward_ad` has given a tensor a tangent.

    References:
        Collins et al., "Editing in Style: Uncovering the Local Semantics of GANs", CVPR 2020, equation 3 (equation 2 is
        the case of the same query for all channels).
        Chong et al., "Retrieve in Style: Unsupervised Facial Feature Transfer and Retrieval", ICCV 2021, for the mode
        "norm_preserving", with a strength of 1.3.

    Example:
        >>> import torch
        >>> import stylefast
        >>> target, reference, query = torch.randn(4, 9088), torch.randn(2, 9088), torch.rand(3, 9088)
        >>> edits = torch.tensor([[0, 1, 0], [3, 0, 2]])  # rows of target, reference and query
        >>> stylefast.blend(target, reference, query, edits=edits).shape
        torch.Size([2, 9088])
    """
    check_choice("mode", mode, MODES)
    rows = check(target, reference, query, edits, strength, out)
    target, reference, query = as_rows(target), as_rows(reference), as_rows(query)
    query = in_accumulator(query, target.dtype)
    if edits is not None and edits.dtype != torch.int64:
        edits = edits.to(torch.int64)
    if mode == "norm_preserving":
        reference, edits = norm_preserving(target, reference, query, edits)
    if strength is not None:
        if not isinstance(strength, Tensor):
            strength = query.new_full((), strength)
        strength = strength.to(target.device, query.dtype).expand(rows)
    if out is None:
        if transforms_are_active():
            return Transformed.apply(partial(BLEND, backend), target, reference, query, edits, strength)
        return BLEND(backend, target, reference, query, edits, strength)
    BLEND.write(backend, target, reference, query, edits, strength, out=out)
    return out


def check(
    target: Tensor,
    reference: Tensor,
    query: Tensor,
    edits: Tensor | None,
    strength: float | Tensor | None,
    out: Tensor | None,
) -> int:
    """Return the number of edits."""
    check_tensor("target", target, "[T, S] or [S]", 1, 2)
    check_tensor("reference", reference, "[R, S] or [S]", 1, 2, like=target)
    check_tensor("query", query, "[Q, S] or [S]", 1, 2, like=target)
    if reference.dtype != target.dtype:
        raise TypeError(f"reference must have target's dtype {target.dtype}, got {reference.dtype}")
    width = target.shape[-1]
    for name, tensor in (("reference", reference), ("query", query)):
        if tensor.shape[-1] != width:
            raise ValueError(f"{name} must have S = {width} channels to match target, got {tuple(tensor.shape)}")
    counts = count_rows(target), count_rows(reference), count_rows(query)
    rows = paired(counts) if edits is None else check_edits(edits, counts, target)
    if isinstance(strength, Tensor) and strength.dim() > 0 and tuple(strength.shape) != (rows,):
        raise ValueError(f"strength must be a number or have shape [E] with E = {rows}, got {tuple(strength.shape)}")
    if out is not None:
        check_out(out, rows, target, reference, query, edits, strength)
    return rows


def reference(
    target: Tensor, reference: Tensor, query: Tensor, edits: Tensor | None, strength: Tensor | None
) -> Tensor:
    t, r, q = gathered(target, reference, query, edits, strength)
    mixed = torch.where(q == 0, t, torch.where(q == 1, r, t + q * (r - t)))
    return mixed.to(target.dtype)


def fake(target: Tensor, reference: Tensor, query: Tensor, edits: Tensor | None, strength: Tensor | None) -> Tensor:
    return target.new_empty((count_edits(target, reference, query, edits), target.shape[1]))


def cost(target: Tensor, reference: Tensor, query: Tensor, edits: Tensor | None, strength: Tensor | None) -> Cost:
    """Count one read of each operand row (further reads of it come from the cache) and one write of every edit."""
    rows, width = count_edits(target, reference, query, edits), target.shape[1]
    read = sum(x.nbytes for x in (target, reference, query)) + (0 if edits is None else edits.nbytes)
    return Cost(read + rows * width * target.itemsize, 3 * rows * width)


def samples() -> Iterator[tuple[str, dict[str, Any]]]:
    for width in (1, 15, 16, 17, 127, 513):
        yield f"paired-S{width}", _sample(5, 5, 5, width)
        yield f"gathered-S{width}", _sample(4, 3, 2, width, edits=19)
    yield "one-query", _sample(6, 6, 1, 40)
    yield "one-target", _sample(1, 6, 1, 40)
    yield "one-of-each", _sample(1, 1, 1, 40)
    yield "no-edits", _sample(3, 2, 2, 40, edits=0)
    yield "no-rows", _sample(0, 0, 1, 40)
    yield "strength", {**_sample(4, 3, 2, 40, edits=7), "strength": torch.linspace(0, 2, 7)}
    for dtype in DTYPES[1:]:
        yield f"{dtype}"[6:], _sample(4, 3, 2, 41, edits=9, dtype=dtype)
    wide = _sample(4, 3, 2, 100, edits=9)
    rows = {name: wide[name][:, 3:80] for name in ("target", "reference", "query")}
    yield "slice", {**wide, **rows}
    rows = {name: wide[name].t().contiguous().t() for name in ("target", "reference", "query")}
    yield "transposed", {**wide, **rows}
    yield "long", _sample(2, 3, 2, 9088, edits=6)
    yield "many-edits", _sample(4, 3, 2, 8, edits=300)
    for dtype in (torch.float32, torch.bfloat16):  # enough work for two threads
        yield f"threads-{dtype}".replace("torch.", ""), _sample(4, 3, 2, 513, edits=400, dtype=dtype)


def _sample(
    t: int, r: int, q: int, s: int, *, edits: int | None = None, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(0)
    target, reference = (torch.randn(n, s, generator=rng, dtype=torch.float64).to(dtype) for n in (t, r))
    query = torch.rand(q, s, generator=rng, dtype=accumulator(dtype))
    query[:, ::3] = query[:, ::3].round()  # exact zeros and ones
    index = None
    if edits is not None:
        columns = [torch.randint(n, (edits,), generator=rng) for n in (t, r, q)]
        index = torch.stack(columns, 1)
    return {"target": target, "reference": reference, "query": query, "edits": index, "strength": None}


def errors() -> Iterator[BadCall]:
    t, r, q = torch.ones(4, 6), torch.ones(4, 6), torch.ones(6)
    e = torch.zeros(3, 3, dtype=torch.int64)
    yield BadCall((t.int(), r, q), {}, TypeError, "target must be float32")
    yield BadCall((t, r.double(), q), {}, TypeError, "reference must have target's dtype torch.float32")
    yield BadCall((t[None], r, q), {}, ValueError, r"target must have shape \[T, S\] or \[S\]")
    yield BadCall((t, r[:, :5], q), {}, ValueError, "reference must have S = 6 channels")
    yield BadCall((t, r, q[:5]), {}, ValueError, r"query must have S = 6 channels .* got \(5,\)")
    yield BadCall((t, r[:3], q), {}, ValueError, r"equal numbers of rows or one row, got \(4, 3, 1\)")
    yield BadCall((t, r, q.to("meta")), {}, ValueError, "query must be on cpu")
    yield BadCall((t, r, q), {"edits": e.float()}, TypeError, "edits must be an int64 or int32 tensor")
    yield BadCall((t, r, q), {"edits": e[:, :2]}, ValueError, r"edits must have shape \[E, 3\], got \(3, 2\)")
    yield BadCall((t, r, q), {"edits": e + 4}, ValueError, "edits must index 4 targets, 4 references and 1 queries")
    yield BadCall((t, r, q), {"edits": e - 1}, ValueError, r"got rows from \[-1, -1, -1\]")
    yield BadCall(
        (t, r, q), {"mode": "norm"}, ValueError, "mode must be one of 'linear', 'norm_preserving', got 'norm'"
    )
    yield BadCall((t, r, q), {"strength": torch.ones(3)}, ValueError, r"strength must be a number .* E = 4, got \(3,\)")
    yield BadCall((t, r, q), {"out": torch.empty(4, 5)}, ValueError, r"out must be contiguous .*\(4, 6\)")
    yield BadCall((t, r, q), {"out": torch.empty(6, 4).t()}, ValueError, "out must be contiguous")
    yield BadCall((t.requires_grad_(), r, q), {"out": torch.empty(4, 6)}, ValueError, "out cannot be used with inputs")


BLEND = Op(
    name="blend",
    schema="(Tensor target, Tensor reference, Tensor query, Tensor? edits, Tensor? strength) -> Tensor",
    out_schema=(
        "(Tensor target, Tensor reference, Tensor query, Tensor? edits, Tensor? strength, *, Tensor(a!) out) -> ()"
    ),
    out_fake=check_overlap,
    public=blend,
    reference=reference,
    fake=fake,
    gradient=(setup_context, backward),
    cost=cost,
    samples=samples,
    errors=errors,
)
