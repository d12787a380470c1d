# SPDX-License-Identifier: Apache-2.0
"""Tests of the test tools: every planted fault is reported by the check meant for it and by no other."""

from __future__ import annotations

from typing import Any

import agreement
import pytest
import torch
from agreement import agree, findings
from cells import outputs
from torch import Tensor

from stylefast.core.dtypes import accumulator
from stylefast.ops import OPS
from stylefast.ops.assign import ASSIGN, clustered
from stylefast.ops.blend import BLEND
from stylefast.ops.lloyd_step import LLOYD_STEP
from stylefast.ops.op import Op

ASSIGNING = [op for op in OPS if op.from_labels is not None]


def problem(k: int = 5, h: int = 6, w: int = 6) -> dict[str, Any]:
    activations, centroids = clustered(2, 8, h, w, k, torch.float32)
    return {"activations": activations, "centroids": centroids, "features": "raw"}


def inputs_of(op: Op) -> dict[str, Any]:
    return next(op.samples())[1]


def failed_checks(op: Op, got: Any, inputs: dict[str, Any], **options: Any) -> list[str]:
    return [finding.check for finding in findings(op, got, inputs, **options)]


def relabelled(op: Op, labels: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, ...]:
    """The given labels, and the correct other outputs for them."""
    assert op.from_labels is not None
    return labels, *op.from_labels(labels, *inputs.values())


def truth(op: Op, inputs: dict[str, Any]) -> tuple[Tensor, ...]:
    """Outputs in float64, for the labels that the reference chooses in the working dtype."""
    wide = [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs.values()]
    if op.from_labels is None:
        return outputs(op.reference(*wide))
    labels = outputs(op.reference(*inputs.values()))[0]
    return labels, *op.from_labels(labels, *wide)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_the_reference_passes_on_every_sample(op: Op):
    for _, inputs in op.samples():
        agree(op, op.reference(*inputs.values()), inputs)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_rounding_errors_of_another_summation_order_pass(op: Op):
    rng = torch.Generator().manual_seed(0)
    for _, inputs in op.samples():
        eps = torch.finfo(accumulator(next(iter(inputs.values())).dtype)).eps
        got = []
        for x, like in zip(truth(op, inputs), outputs(op.fake(*inputs.values())), strict=True):
            if x.is_floating_point():
                noise = torch.rand(x.shape, generator=rng, dtype=torch.float64) * 2 - 1
                x = x + 2 * eps * noise * (x.abs().max() if x.numel() else 1)
            got.append(x.to(like.dtype))
        agree(op, tuple(got), inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_computing_in_half_precision_is_over_budget(dtype: torch.dtype):
    inputs = {name: x.to(dtype) if name == "query" else x for name, x in dict(BLEND.samples())[f"{dtype}"[6:]].items()}
    target, reference, query = (inputs[name][inputs["edits"][:, i]] for i, name in enumerate(list(inputs)[:3]))
    inputs["query"] = inputs["query"].float()
    assert failed_checks(BLEND, target + query * (reference - target), inputs) == ["budget"]


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_a_wrong_sign_is_over_budget(op: Op):
    inputs = inputs_of(op)
    *rest, last = outputs(op.reference(*inputs.values()))
    assert failed_checks(op, (*rest, -last), inputs) == ["budget"]


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_one_value_three_times_over_budget_is_reported(op: Op):
    inputs = inputs_of(op)
    got, exact = list(outputs(op.reference(*inputs.values()))), truth(op, inputs)[-1].double()
    wrong = exact.flatten().clone()
    wrong[-1] += 3 * agreement.budget(torch.finfo(torch.float32).eps, exact, got[-1]).flatten()[-1]
    got[-1] = wrong.reshape(exact.shape).to(got[-1].dtype)
    assert failed_checks(op, tuple(got), inputs) == ["budget"]
    with pytest.raises(AssertionError, match=rf"{op.name} \(budget\): \w+\[.*\]: got .*, truth .*, error .* > .*plain"):
        agree(op, tuple(got), inputs)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_one_nan_is_reported(op: Op):
    inputs = inputs_of(op)
    got = [x.clone() for x in outputs(op.reference(*inputs.values()))]
    got[-1].view(-1)[0] = torch.nan
    assert failed_checks(op, tuple(got), inputs) == ["nan"]


def test_a_number_instead_of_nan_is_reported():
    inputs = problem()
    inputs["activations"][0, 2, 3, 3] = torch.nan
    labels, similarity = ASSIGN.reference(*inputs.values())
    assert failed_checks(ASSIGN, (labels, similarity), inputs) == []
    assert failed_checks(ASSIGN, (labels, similarity.nan_to_num()), inputs) == ["nan"]


def test_other_infinities_are_reported():
    inputs = inputs_of(BLEND)
    inputs["reference"][0] = torch.inf
    inputs["query"].fill_(0.5)
    expected = BLEND.reference(*inputs.values())
    assert expected.isinf().any()
    assert failed_checks(BLEND, expected, inputs) == []
    assert failed_checks(BLEND, -expected, inputs) == ["budget"]
    assert failed_checks(BLEND, expected.clamp(max=1e38), inputs) == ["budget"]


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_a_wrong_shape_or_dtype_is_reported(op: Op):
    inputs = inputs_of(op)
    *rest, last = outputs(op.reference(*inputs.values()))
    assert failed_checks(op, (*rest, last[:-1]), inputs) == ["form"]
    assert failed_checks(op, (*rest, last.half()), inputs) == ["form"]


def test_a_swapped_axis_is_reported():
    inputs = problem()
    labels, similarity = ASSIGN.reference(*inputs.values())
    assert failed_checks(ASSIGN, (labels, similarity.transpose(1, 2)), inputs) == ["budget"]
    assert "regret" in failed_checks(ASSIGN, (labels.transpose(1, 2), similarity), inputs)
    oblong = problem(h=3)
    swapped = tuple(x.transpose(1, 2) for x in ASSIGN.reference(*oblong.values()))
    assert failed_checks(ASSIGN, swapped, oblong) == ["form", "form"]


@pytest.mark.parametrize("op", ASSIGNING, ids=lambda op: op.name)
def test_labels_off_by_one_are_reported(op: Op):
    inputs = inputs_of(op)
    labels = outputs(op.reference(*inputs.values()))[0]
    off = torch.where(labels > 0, labels - 1, labels)
    assert failed_checks(op, relabelled(op, off, inputs), inputs) == ["regret"]


@pytest.mark.parametrize("op", ASSIGNING, ids=lambda op: op.name)
def test_one_label_of_a_worse_centroid_is_reported(op: Op):
    inputs = inputs_of(op)
    labels = outputs(op.reference(*inputs.values()))[0].clone()
    labels.view(-1)[7] = (labels.view(-1)[7] + 1) % 4
    assert failed_checks(op, relabelled(op, labels, inputs), inputs) == ["regret"]


@pytest.mark.parametrize("op", ASSIGNING, ids=lambda op: op.name)
@pytest.mark.parametrize("label", [-1, 4, 2**31 - 1])
def test_a_label_outside_the_clusters_is_reported(op: Op, label: int):
    inputs = inputs_of(op)
    got = list(outputs(op.reference(*inputs.values())))
    got[0].view(-1)[3] = label
    assert failed_checks(op, tuple(got), inputs) == ["range"]


def test_a_zero_point_with_a_label_other_than_zero_is_reported():
    inputs = problem()
    labels, similarity = ASSIGN.reference(*inputs.values())
    assert not inputs["activations"][0, :, 0, 1].any()
    labels[0, 0, 1] = 1
    assert failed_checks(ASSIGN, (labels, similarity), inputs) == ["zero"]


def near_ties(k: int = 2) -> dict[str, Any]:
    """Inputs for which centroid 1 is better than centroid 0 by one ulp of one channel, less than rounding errors."""
    inputs = problem(k)
    inputs["activations"] = inputs["activations"].abs() + 1
    inputs["centroids"] = torch.full((k, 8), 8**-0.5)
    inputs["centroids"][1, 0] = torch.nextafter(inputs["centroids"][1, 0], torch.tensor(1.0))
    return inputs


def test_too_many_flips_within_budget_are_reported():
    inputs = near_ties()
    best = torch.ones(2, 6, 6, dtype=torch.int32)
    one_flip = best.clone()
    one_flip[0, 0, 0] = 0
    assert failed_checks(ASSIGN, relabelled(ASSIGN, one_flip, inputs), inputs) == []
    assert failed_checks(ASSIGN, relabelled(ASSIGN, torch.zeros_like(best), inputs), inputs) == ["flips"]


def test_an_exact_tie_that_goes_to_a_higher_index_is_reported():
    inputs = problem(3)
    inputs["activations"] = inputs["activations"].round() + 3
    inputs["centroids"] = torch.ones(3, 8)
    lowest = torch.zeros(2, 6, 6, dtype=torch.int32)
    assert failed_checks(ASSIGN, relabelled(ASSIGN, lowest, inputs), inputs, exact=True) == []
    higher = lowest.clone()
    higher[1, 2, 3] = 2
    assert failed_checks(ASSIGN, relabelled(ASSIGN, higher, inputs), inputs, exact=True) == ["tie"]
    assert failed_checks(ASSIGN, relabelled(ASSIGN, higher, inputs), inputs) == []


def test_counts_off_by_one_are_reported():
    inputs = inputs_of(LLOYD_STEP)
    labels, sums, counts, objective = LLOYD_STEP.reference(*inputs.values())
    counts[0, 1] += 1
    assert failed_checks(LLOYD_STEP, (labels, sums, counts, objective), inputs) == ["integer"]
    with pytest.raises(AssertionError, match=r"lloyd_step \(integer\): counts\[0, 1\]: got \d+, truth \d+"):
        agree(LLOYD_STEP, (labels, sums, counts, objective), inputs)


def test_all_findings_are_reported_together():
    inputs = inputs_of(LLOYD_STEP)
    labels, sums, counts, objective = LLOYD_STEP.reference(*inputs.values())
    assert failed_checks(LLOYD_STEP, (labels, -sums, counts + 1, objective), inputs) == ["budget", "integer"]
