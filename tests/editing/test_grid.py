# SPDX-License-Identifier: Apache-2.0
"""Grids of edits: order, batches, lazy evaluation, refusal of arguments by the call itself, locality, memory."""

import itertools
import tracemalloc
import weakref

import pytest
import torch
from editors import LAYERS, catalog_of, editor_of, latents
from networks import calls, own_images, shared

from stylefast.editing import Edit, Sequential, Simultaneous, Softmax, StyleEditor
from stylefast.locality import locality


def test_targets_run_slowest_and_queries_fastest(editor):
    t, r = latents(editor, 1, 2, 3), latents(editor, 4, 5)
    queries = [Sequential(2.0), Simultaneous(2.0)]
    batches = list(editor.edit(t, r, ["nose", "eyes"], queries=queries, batch_size=5))
    edits = [edit for batch in batches for edit in batch.edits]
    assert edits == [
        Edit(i, j, part, setting)
        for i in range(3)
        for j in range(2)
        for part in ("nose", "eyes")
        for setting in queries
    ]
    assert [len(batch.edits) for batch in batches] == [5, 5, 5, 5, 4]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_equal_single_edits(editor, batch_size):
    t, r = latents(editor, 1, 2), latents(editor, 3, 4)
    queries = (Sequential(3.0), Simultaneous(2.0))
    batches = list(editor.edit(t, r, ["nose", "mouth"], queries=queries, batch_size=batch_size))
    sizes = [len(batch.edits) for batch in batches]
    assert sizes == {1: [1] * 16, 3: [3] * 5 + [1], 100: [16]}[batch_size]
    own, theirs = (torch.cat([editor.generator.styles(row) for row in w.split(1)]) for w in (t, r))
    for batch in batches:
        for i, edit in enumerate(batch.edits):
            a, b = t[edit.target][None], r[edit.reference][None]
            (single,) = editor.edit(a, b, edit.part, queries=edit.query)
            assert torch.equal(batch.styles[i], single.styles[0])
            # matrix products of one row and of many rows differ in the last bits
            torch.testing.assert_close(batch.images[i], single.images[0], rtol=0, atol=3e-5)
            moved = editor.query(edit.part, edit.query) > 0
            assert torch.equal(batch.styles[i][~moved], own[edit.target][~moved])
            if isinstance(edit.query, Sequential):
                assert torch.equal(batch.styles[i][moved], theirs[edit.reference][moved])


@pytest.mark.parametrize("measure", [False, True])
def test_nothing_is_synthesized_before_the_first_batch_is_taken(editor, measure):
    taken = []
    t, r = latents(editor, 1, 2), latents(editor, 3)
    ran = calls(editor.generator, lambda: taken.append(editor.edit(t, r, ["nose", "eyes"], measure=measure)))
    assert all(name.endswith((".affine", ".style")) for name in ran)
    assert "" in calls(editor.generator, lambda: next(taken[0]))  # "" is the whole network, which ran to its end


def test_ten_million_edits_are_enumerated_as_they_are_taken():
    editor = editor_of("sg2")
    w = latents(editor, 1, 2)
    t, r = w[:1].expand(2500, -1, -1), w[1:].expand(2000, -1, -1)
    tracemalloc.start()
    try:
        batches = editor.edit(t, r, ["nose", "eyes"], batch_size=2)
        first = next(batches)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [edit.part for edit in first.edits] == ["nose", "eyes"]
    assert peak < 4 << 20


def test_a_grid_without_targets_has_no_batches(editor):
    w = latents(editor, 1)
    assert list(editor.edit(w[:0], w, "nose", measure=True)) == list(editor.edit(w, w[:0], "nose", measure=True)) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"parts": ["nose", "ear"]}, "part must be one of 'eyes', 'nose', 'mouth', got 'ear'"),
        ({"parts": []}, "parts and queries must each name at least one"),
        ({"queries": []}, "parts and queries must each name at least one"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1( or 'auto')?, got 0"),
        ({"strength": float("nan")}, "strength must be a finite number, got nan"),
        ({"roi_mode": "both", "measure": True}, "mode must be one of .* got 'both'"),
        ({"queries": Sequential(-1.0)}, "epsilon must be a finite number >= 0, got -1.0"),
        ({"queries": [Sequential(), Sequential(1.0, 2.0)]}, r"rho must be a number in \[0, 1\], got 2.0"),
        ({"queries": Simultaneous(-2.0)}, "strength must be a finite number >= 0, got -2.0"),
        ({"queries": Softmax(0.0)}, "temperature must be a finite number > 0, got 0.0"),
        ({"targets": torch.zeros(1, 3)}, r"w must have shape .*got \(1, 3\)"),
        ({"references": torch.zeros(1, 3)}, r"w must have shape .*got \(1, 3\)"),
    ],
)
def test_bad_arguments_are_refused_at_the_call(editor, options, message):
    w = latents(editor, 1)
    arguments = {"targets": w, "references": w, "parts": "nose"} | options
    with pytest.raises(ValueError, match=message):
        editor.edit(**arguments)


@pytest.mark.parametrize("mine, theirs", [*itertools.permutations(LAYERS, 2)])
def test_the_catalog_of_another_generator_is_refused(mine, theirs):
    with pytest.raises(ValueError, match=f"'toy:{theirs}' does not belong to generator 'toy:{mine}'"):
        StyleEditor(shared(mine), catalog_of(theirs))


@pytest.mark.parametrize("mode", ["union", "target", "reference"])
def test_locality_is_measured_in_the_requested_region(editor, mode):
    generator, catalog = editor.generator, editor.catalog
    t, r = latents(editor, 1, 2), latents(editor, 3, 4)

    def region_of(w, part):
        (a,) = generator.activations(w, [catalog.layer]).values()
        cosine = torch.einsum("kc,nchw->nkhw", catalog.centroids, torch.nn.functional.normalize(a, dim=1))
        labels = cosine.argmax(1)
        return sum((labels == k).int() for k in catalog.parts[part]) > 0  # [1, h, w]

    n_different = 0
    for batch in editor.edit(
        t, r, ["nose", "eyes"], queries=Simultaneous(3.0), measure=True, roi_mode=mode, batch_size=3
    ):
        regions, originals = [], []
        for edit in batch.edits:
            in_target = region_of(t[edit.target][None], edit.part)
            in_reference = region_of(r[edit.reference][None], edit.part)
            n_different += bool((in_target != in_reference).any())
            regions.append({"union": in_target | in_reference, "target": in_target, "reference": in_reference}[mode])
            originals.append(own_images(generator, t[edit.target][None]))
        assert torch.equal(batch.roi, torch.cat(regions)) and batch.roi.any()
        torch.testing.assert_close(batch.targets, torch.cat(originals), rtol=0, atol=3e-5)
        for got, expected in zip(
            batch.locality, locality(batch.images, batch.targets, torch.cat(regions)), strict=True
        ):
            assert got.shape == (len(batch.edits),)
            assert torch.equal(got.nan_to_num(-1.0), expected.nan_to_num(-1.0))
    assert n_different > 2


def test_targets_are_rendered_once_and_kept_for_a_batch(monkeypatch):
    editor = editor_of("sg2")
    rendered, synthesize = [], editor.generator.synthesize

    def watched(styles, w):
        images = synthesize(styles, w)
        if len(images) == 1:  # an unedited target: edits are rendered two at a time
            rendered.append(weakref.ref(images))
        return images

    monkeypatch.setattr(editor.generator, "synthesize", watched)
    alive = []
    for batch in editor.edit(
        latents(editor, *range(3)), latents(editor, *range(6, 10)), "nose", measure=True, batch_size=2
    ):
        del batch
        alive.append(sum(image() is not None for image in rendered))
    assert len(rendered) == 3 and alive == [1] * 6
    rendered.clear(), alive.clear()
    for batch in editor.edit(latents(editor, *range(6)), latents(editor, 7), "nose", measure=True, batch_size=2):
        del batch
        alive.append(sum(image() is not None for image in rendered))
    assert len(rendered) == 6 and alive == [2] * 3
