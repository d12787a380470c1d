# SPDX-License-Identifier: Apache-2.0
"""Correctness of an op's outputs: an error budget for values, regret for labels, equality for counts."""

from __future__ import annotations

import typing
from typing import Any, NamedTuple

import torch
from cells import outputs
from torch import Tensor

from stylefast.core.dtypes import accumulator
from stylefast.ops import assign as assignment
from stylefast.ops.op import Op

# At most this fraction of the labels, plus one label, may differ from the best; each must be within its budget.
FLIPS = 1e-3


class Finding(NamedTuple):
    """A fault in the outputs, and the check that found it."""

    check: str
    message: str


def agree(op: Op, got: Any, inputs: dict[str, Any], *, exact: bool = False) -> None:
    """Raise AssertionError with all findings, if there are any."""
    all_findings = findings(op, got, inputs, exact=exact)
    assert not all_findings, "\n".join(f"{op.name} ({check}): {message}" for check, message in all_findings)


def findings(op: Op, got: Any, inputs: dict[str, Any], *, exact: bool = False) -> list[Finding]:
    """Compare the outputs `got` of an op with its reference, for inputs on the CPU.

    Values must satisfy `error(got) <= 2 error(plain) + floor`. Errors are distances to the reference in float64;
    `plain` is the reference at the working dtype. Labels are judged by their float64 scores. The other outputs of an op
    that assigns labels are compared with the reference for the labels in `got`. If `exact`, every sum is exact in the
    working dtype, and ties must go to the lowest label.
    """
    got, names = outputs(got), _names(op)
    arguments, wide = list(inputs.values()), [_widen(x) for x in inputs.values()]
    result = [
        Finding("form", f"{name} must be {like.dtype} {tuple(like.shape)}, got {x.dtype} {tuple(x.shape)}")
        for name, x, like in zip(names, got, outputs(op.fake(*arguments)), strict=True)
        if x.dtype != like.dtype or x.shape != like.shape
    ]
    if result:
        return result
    if op.from_labels is None:
        got_labels, compute = (), op.reference
    else:
        got_labels, compute = got[:1], op.from_labels
        result = _judge_labels(got[0], inputs, exact)
        if any(finding.check == "range" for finding in result):
            return result
    truth, plain = outputs(compute(*got_labels, *wide)), outputs(compute(*got_labels, *arguments))
    eps = torch.finfo(accumulator(arguments[0].dtype)).eps
    first = len(got_labels)
    for name, g, t, p in zip(names[first:], got[first:], truth, plain, strict=True):
        result += _judge_values(name, g, t, p, eps) if g.is_floating_point() else _judge_integers(name, g, t)
    return result


def floor(eps: float, truth: Tensor) -> float:
    """Return four ulps of the largest finite magnitude, in the dtype that the op computes in; 64 ulps for float64.

    The last operations of an op (a square root, a division, a product, the store) round by half an ulp each, and plain
    torch may happen to make none of these errors: two ulps. The order of the last additions accounts for another two.
    In float64, plain torch is the truth, so that its error appears to be zero; the real error of sums of some thousand
    terms is tens of ulps.
    """
    finite = truth[truth.isfinite()]
    ulps = 64 if eps == torch.finfo(torch.float64).eps else 4
    return ulps * eps * float(finite.abs().max()) if finite.numel() else 0.0


def budget(eps: float, truth: Tensor, plain: Tensor) -> Tensor:
    """Return the allowed error of every element: `2 error(plain) + floor`, with the largest error of plain torch.

    If the output has a lower precision than the dtype that the op computes in (`eps`), the error of plain torch is the
    rounding of the store, half an ulp of each element. Then twice this error is allowed, not twice the largest error.
    """
    worst = float(_distance(plain, truth).max()) if truth.numel() else 0.0
    allowed = torch.full(truth.shape, 2 * worst + floor(eps, truth), dtype=torch.float64)
    stored = torch.finfo(plain.dtype).eps
    return torch.minimum(allowed, stored * truth.abs() + floor(eps, truth)) if stored > eps else allowed


def _judge_values(name: str, got: Tensor, truth: Tensor, plain: Tensor, eps: float) -> list[Finding]:
    error, allowed = _distance(got, truth), budget(eps, truth.double(), plain)
    result = []
    if (differs := got.isnan() != truth.isnan()).any():
        i = _first(differs)
        message = f"{name}{list(i)}: got {got[i]:g}, truth {truth[i]:g} ({int(differs.sum())} such)"
        result.append(Finding("nan", message))
    if (over := error > allowed).any():
        i = _first(over & (error == error[over].max()))
        worst = _distance(plain, truth).max()
        excess = f"error {error[i]:g} > {allowed[i]:g} (plain {worst:g}, {int(over.sum())} such)"
        result.append(Finding("budget", f"{name}{list(i)}: got {got[i]:.9g}, truth {truth[i]:.9g}, {excess}"))
    return result


def _judge_integers(name: str, got: Tensor, truth: Tensor) -> list[Finding]:
    if torch.equal(got, truth):
        return []
    i = _first(got != truth)
    return [Finding("integer", f"{name}{list(i)}: got {int(got[i])}, truth {int(truth[i])}")]


def _judge_labels(labels: Tensor, inputs: dict[str, Any], exact: bool) -> list[Finding]:
    """Judge the labels [N, H, W] of one restart or, with centroids [B, K, C], [B, N, H, W] of several.

    An inner product of C terms, summed in any order, has an error of at most `C eps/2 |x| |c|`; a difference of two
    inner products has at most `C eps |x| |c|`. The error of plain torch's scores, which includes the computation of the
    features, is allowed in addition, twice for each of the two inner products.
    """
    wide = {name: _widen(x) for name, x in inputs.items()}
    score, plain = _scores(wide), _scores(inputs).double()  # [B, N, K, H, W]
    norm = torch.linalg.vector_norm(assignment.points(wide["activations"], wide["features"]), dim=1)  # [N, H, W]
    labels = labels.reshape(score.shape[0], *norm.shape).long()
    if (outside := (labels < 0) | (labels >= score.shape[2])).any():
        i = _first(outside)
        return [Finding("range", f"label {list(i)}: got {int(labels[i])}, K = {score.shape[2]}")]
    result = []
    counted = (norm.isfinite() & (norm > 0)).expand_as(labels)
    if (not_zero := ~counted & (labels != 0)).any():
        i = _first(not_zero)
        result.append(Finding("zero", f"label {list(i)} of norm {norm[i[1:]]:g}: got {int(labels[i])}, must be 0"))
    size = norm * torch.linalg.vector_norm(wide["centroids"].nan_to_num(0, 0, 0), dim=-1).max()  # [N, H, W]
    relative = (_distance(plain, score) / size.unsqueeze(1))[counted.unsqueeze(2).expand_as(score)]
    noise = float(relative.max()) if relative.numel() else 0.0
    channels, eps = inputs["activations"].shape[1], torch.finfo(accumulator(inputs["activations"].dtype)).eps
    allowed = (size * (4 * noise + channels * eps)).expand_as(labels)
    best, winner = score.max(2)
    regret = _distance(score.gather(2, labels.unsqueeze(2)).squeeze(2), best)
    if (over := counted & (regret > allowed)).any():
        i = _first(over & (regret == regret[over].max()))
        message = f"label {list(i)}: got {int(labels[i])}, best {int(winner[i])}, regret {regret[i]:g}"
        result.append(Finding("regret", f"{message} > {allowed[i]:g} ({int(over.sum())} such)"))
    flipped = counted & (labels != winner) & (regret <= allowed)
    if exact and flipped.any():
        i = _first(flipped)
        result.append(Finding("tie", f"label {list(i)}: got {int(labels[i])}, lowest {int(winner[i])}"))
    elif not exact and int(flipped.sum()) > 1 + FLIPS * labels.numel():
        result.append(Finding("flips", f"{int(flipped.sum())} of {labels.numel()} labels differ from the best"))
    return result


def _scores(inputs: dict[str, Any]) -> Tensor:
    """Inner products of points and centroids [B, N, K, H, W]; NaN is replaced with -inf."""
    centroids = inputs["centroids"].reshape(-1, *inputs["centroids"].shape[-2:])
    scores = [assignment.scores(inputs["activations"], c, inputs["features"]) for c in centroids]
    return torch.stack(scores).nan_to_num(-torch.inf, torch.inf, -torch.inf)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """`|a - b|`; 0 for equal infinities and for NaN, which the check "nan" judges."""
    skipped = (a == b) | a.isnan() | b.isnan()
    return torch.where(skipped, 0.0, (a.double() - b.double()).abs())


def _widen(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _first(mask: Tensor) -> tuple[int, ...]:
    return tuple(mask.nonzero()[0].tolist())


def _names(op: Op) -> tuple[str, ...]:
    """Names of the outputs of the public function; the name of the op if it returns one tensor."""
    return getattr(typing.get_type_hints(op.public)["return"], "_fields", (op.name,))
