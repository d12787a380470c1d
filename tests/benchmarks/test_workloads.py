# SPDX-License-Identifier: Apache-2.0
"""Tests of the workloads of the CPU benchmarks."""

from __future__ import annotations

import torch
import workloads
from small_workloads import arguments

from stylefast.ops import BLEND, OPS, SOFT


def test_every_op_has_workloads_and_every_id_is_unique():
    assert {w.op.name for w in workloads.WORKLOADS} == {op.name for op in (*OPS, *SOFT)}
    assert len({w.id for w in workloads.WORKLOADS}) == len(workloads.WORKLOADS)


def test_inputs_are_reproducible_and_labels_form_regions():
    (x, c, labels), again = (workloads.activations(2, 6, 32, 7, torch.float32, "nchw") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip((x, c, labels), again, strict=True))
    assert labels.unique().tolist() == list(range(7))
    assert (labels[:, 1:] == labels[:, :-1]).float().mean() > 0.7  # 0.14 for random labels
    assert torch.equal(torch.einsum("nchw,kc->nkhw", x, c).argmax(1)[0, :1, :1], labels[0, :1, :1].long())


def test_layouts_hold_the_same_values():
    plain, unaligned, last = (
        workloads.activations(2, 6, 8, 3, torch.float32, layout)[0] for layout in ("nchw", "unaligned", "channels_last")
    )
    assert torch.equal(plain, unaligned) and torch.equal(plain, last)
    assert (plain.data_ptr() % 16, unaligned.data_ptr() % 16) == (0, 4)
    assert last.is_contiguous(memory_format=torch.channels_last) and not last.is_contiguous()
    half = workloads.activations(2, 6, 8, 3, torch.bfloat16, "unaligned")[0]
    assert half.data_ptr() % 16 == 4 and half.dtype == torch.bfloat16


def test_edits_gathered_and_in_pairs_are_the_same():
    gathered, pairs = (BLEND.public(**arguments(name)) for name in (BLEND.name, "pairs"))
    assert gathered.shape == (6, workloads.STYLES) and torch.equal(gathered, pairs)


def test_mixtures_are_reproducible_and_differ_by_seed():
    first, again, second = (workloads.mixture(seed, 2, 8, 5) for seed in (0, 0, 1))
    assert first.shape == (2, 512, 8, 8) and first.isfinite().all()
    assert torch.equal(first, again) and not torch.equal(first, second)
