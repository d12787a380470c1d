# SPDX-License-Identifier: Apache-2.0
"""Edits by hand, the grid and its laziness, queries by their definitions, refusals, locality, memory."""

import itertools
import tracemalloc
import weakref
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import calls, own_images, shared

from stylefast import query
from stylefast.catalog import Catalog
from stylefast.editing import Edit, Random, Sequential, Simultaneous, Softmax, StyleEditor
from stylefast.locality import locality

LAYERS = {"sg1": 16, "sg2": 16, "sg3": 36}  # rows of the layer to cluster


class Everything:
    """A query of a user: ones at all edited sites."""

    name = "everything"

    def __call__(self, catalog, part, sites):
        q = torch.zeros(catalog.contributions.shape[1])
        for site in sites:
            q[site.slice] = 1
        return q


@cache
def catalog_of(kind):
    generator = shared(kind)
    w = generator.latents(range(6))
    catalog = Catalog.build(generator, w, n_clusters=6, resolution=LAYERS[kind], n_init=1, progress=False)
    return catalog.annotate({"eyes": [0], "nose": [1, 4], "mouth": [2]})


def editor_of(kind, **options):
    return StyleEditor(shared(kind), catalog_of(kind), **options)


@pytest.fixture(params=["sg1", "sg2", "sg3"])
def editor(request):
    return editor_of(request.param)


def latents(editor, *seeds):
    return editor.generator.latents(seeds)


def m_of(editor, part):
    return editor.catalog.contributions[editor.catalog.parts[part]].sum(0)  # [S]


def rgb_columns(generator):
    columns = torch.zeros(generator.style_width, dtype=torch.bool)
    for site in generator.sites:
        columns[site.slice] = site.kind == "rgb"
    return columns


# One edit


@pytest.mark.parametrize("epsilon, rho, fractional", [(1.0, 0.1, False), (3.0, 0.05, False), (4.0, 0.1, True)])
def test_an_edit_by_hand(editor, epsilon, rho, fractional):
    generator, (t, r) = editor.generator, (latents(editor, 10), latents(editor, 11))
    q, m = torch.zeros(generator.style_width), m_of(editor, "nose")
    for site in generator.sites:
        if site.kind == "conv":
            q[site.slice] = query.sequential(m[site.slice], epsilon, rho, fractional=fractional)
    own, theirs = generator.styles(t)[0], generator.styles(r)[0]
    styles = torch.where(q == 1, theirs, own + q * (theirs - own))[None]
    (batch,) = editor.edit(t, r, "nose", queries=Sequential(epsilon, rho, fractional))
    assert 0 < q.count_nonzero() < len(q) and not torch.equal(styles[0], own)
    if fractional:  # a fused multiply-add rounds once
        torch.testing.assert_close(batch.styles, styles, rtol=1e-6, atol=1e-6)
        styles = batch.styles
    assert torch.equal(batch.styles, styles)
    assert torch.equal(batch.images, generator.synthesize(styles, t))
    assert batch.edits == [Edit(0, 0, "nose", Sequential(epsilon, rho, fractional))]
    assert batch.targets is batch.roi is batch.locality is None


def test_strength_scales_the_query(editor):
    t, r = latents(editor, 10), latents(editor, 11)
    own, theirs = editor.generator.styles(t), editor.generator.styles(r)
    (batch,) = editor.edit(t, r, "eyes", queries=Simultaneous(0.5), strength=0.25)
    expected = own + 0.25 * (0.5 * m_of(editor, "eyes")).clamp(max=1) * (theirs - own)
    expected[:, rgb_columns(editor.generator)] = own[:, rgb_columns(editor.generator)]
    torch.testing.assert_close(batch.styles, expected, rtol=1e-6, atol=1e-6)
    assert (batch.styles - own).abs().max() > 1e-3


def test_strength_zero_gives_the_target_image_bit_for_bit(editor):
    t, r = latents(editor, 10), latents(editor, 11)
    for setting in (Sequential(5.0), Simultaneous(3.0), Everything()):
        (batch,) = editor.edit(t, r, "eyes", queries=setting, strength=0.0)
        assert torch.equal(batch.styles, editor.generator.styles(t))
        assert torch.equal(batch.images, own_images(editor.generator, t))


@pytest.mark.parametrize("kind", ["sg1", "sg2", "sg3"])
def test_all_ones_at_all_sites_give_the_reference(kind):
    editor = editor_of(kind, rgb=True)
    t, r = latents(editor, 10), latents(editor, 11)
    (batch,) = editor.edit(t, r, "eyes", queries=Everything())
    assert torch.equal(batch.styles, editor.generator.styles(r))
    own, theirs = own_images(editor.generator, t), own_images(editor.generator, r)
    assert torch.equal(batch.images, theirs) == (kind == "sg2")  # elsewhere w drives more than styles
    assert not torch.equal(batch.images, own)


@given(st.floats(0, 8), st.floats(0, 5), st.floats(0, 1), st.sampled_from(["sg1", "sg2", "sg3"]))
@settings(max_examples=9)
def test_a_reference_equal_to_the_target_changes_nothing(epsilon, weight, strength, kind):
    editor = editor_of(kind, rgb=True)
    t = latents(editor, 10)
    queries = [Sequential(epsilon, 0.05, fractional=True), Simultaneous(weight), Softmax(), Everything()]
    batches = editor.edit(t, t.clone(), "eyes", queries=queries, strength=strength, measure=True, batch_size=1)
    own = own_images(editor.generator, t)
    for batch in batches:
        assert torch.equal(batch.images, own) and torch.equal(batch.targets, own)
        assert batch.locality.delta_e_inside.item() == batch.locality.delta_e_outside.item() == 0


def test_a_named_backend_computes_the_styles():
    editors = editor_of("sg2"), editor_of("sg2", backend="reference")
    t, r = latents(editors[0], 10, 12), latents(editors[0], 11)
    a, b = (next(e.edit(t, r, "nose", queries=Simultaneous(2.0), measure=True)) for e in editors)
    torch.testing.assert_close(a.styles, b.styles)
    assert torch.equal(a.roi, b.roi)
    with pytest.raises(ValueError, match="backend"):
        next(editor_of("sg2", backend="abacus").edit(t, r, "nose"))


# Queries


@pytest.mark.parametrize("kind", ["sg2", "sg3"])
@pytest.mark.parametrize(
    "setting", [Sequential(9.0, 0.01), Simultaneous(1e9), Softmax(0.1, 0.3), Random(Sequential(9.0))]
)
def test_torgb_sites_move_only_if_asked(kind, setting):
    columns = rgb_columns(shared(kind))
    q, with_rgb = (editor_of(kind, rgb=rgb).query("nose", setting) for rgb in (False, True))
    assert not q[columns].any() and q[~columns].any() and with_rgb[columns].any()
    if not isinstance(setting, Random):  # whose draws go on from site to site
        assert torch.equal(q[~columns], with_rgb[~columns])
    editor = editor_of(kind)
    t, r = latents(editor, 10), latents(editor, 11)
    (batch,) = editor.edit(t, r, "nose", queries=setting)
    assert torch.equal(batch.styles[:, columns], editor.generator.styles(t)[:, columns])


def test_sequential_takes_a_budget_and_a_threshold_for_every_edited_site(editor):
    n = len(editor.sites)
    budgets, thresholds = [0.5 + i for i in range(n)], [0.02 * (i % 3) for i in range(n)]
    q, m = editor.query("nose", Sequential(tuple(budgets), tuple(thresholds))), m_of(editor, "nose")
    for site, epsilon, rho in zip(editor.sites, budgets, thresholds, strict=True):
        assert torch.equal(q[site.slice], query.sequential(m[site.slice], epsilon, rho))
    assert not torch.equal(q, editor.query("nose", Sequential(0.5, 0.0)))
    assert torch.equal(editor.query("nose", Sequential((2.0,) * n)), editor.query("nose", Sequential(2)))
    t = latents(editor, 10)
    for wrong in (Sequential((1.0,) * (n + 1)), Sequential(1.0, (0.1,) * (n - 1))):
        with pytest.raises(ValueError, match=f"one for each of {n} edited sites"):
            editor.edit(t, t, "nose", queries=wrong)


def test_softmax_by_its_definition():
    generator, base = shared("sg2"), catalog_of("sg2")
    parts = {"eyes": [0], "nowhere": [], "nose": [1, 4], "mouth": [2]}
    fields = (
        "generator",
        "fingerprint",
        "sites",
        "layer",
        "features",
        "centroids",
        "runs",
        "contributions",
        "occupancy",
    )
    catalog = Catalog(**{name: getattr(base, name) for name in fields}, parts=parts)
    exponentials = {p: (catalog.contributions[ids].sum(0).double() / 0.2).exp() for p, ids in parts.items() if ids}
    p = exponentials["nose"] / sum(exponentials.values())
    q = StyleEditor(generator, catalog, rgb=True).query("nose", Softmax(0.2, 0.6))
    assert torch.equal(q.bool(), p > 0.6) and 0 < q.sum() < len(q)
    with pytest.raises(ValueError, match="'nowhere'"):
        StyleEditor(generator, catalog).query("nowhere", Softmax())


def test_random_takes_as_many_channels_as_its_model(editor):
    like = Sequential(4.0, 0.05)
    q, drawn = editor.query("nose", like), [editor.query("nose", Random(like, seed)) for seed in (0, 0, 1)]
    edited = torch.cat([torch.arange(site.start, site.stop) for site in editor.sites])
    for other in drawn:
        assert sorted(other[edited].tolist()) == sorted(q[edited].tolist())
        assert other.sum() == q.sum() > 0
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], q)


def test_names_of_queries():
    named = [Sequential(0.25), Sequential(1), Sequential((1.0, 2.0)), Simultaneous(), Softmax(), Random()]
    expected = ["sequential_0.25", "sequential_1", "sequential", "simultaneous", "softmax", "random"]
    assert [setting.name for setting in named] == expected


# The grid


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
def test_batches_give_what_single_edits_give(editor, batch_size):
    t, r = latents(editor, 1, 2), latents(editor, 3, 4)
    queries = (Sequential(3.0), Simultaneous(2.0))
    batches = list(editor.edit(t, r, ["nose", "mouth"], queries=queries, batch_size=batch_size))
    sizes = [len(batch.edits) for batch in batches]
    assert sizes == {1: [1] * 16, 3: [3] * 5 + [1], 100: [16]}[batch_size]
    own, theirs = editor.generator.styles(t), editor.generator.styles(r)
    for batch in batches:
        for i, edit in enumerate(batch.edits):
            a, b = t[edit.target][None], r[edit.reference][None]
            (single,) = editor.edit(a, b, edit.part, queries=edit.query)
            # a matrix product of one row and one of many rows differ in the last bits
            torch.testing.assert_close(batch.styles[i], single.styles[0], rtol=1e-5, atol=1e-5)
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
    assert "" in calls(editor.generator, lambda: next(taken[0]))  # the network to its end


def test_a_grid_of_ten_million_edits_is_enumerated_as_it_is_taken():
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


# Refusals, all at the call


@pytest.mark.parametrize(
    "options, message",
    [
        ({"parts": ["nose", "ear"]}, r"got 'ear'; parts: eyes \[0\], nose \[1, 4\], mouth \[2\]"),
        ({"parts": []}, "parts and queries must each name at least one"),
        ({"queries": []}, "parts and queries must each name at least one"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"strength": float("nan")}, "strength must be a finite number, got nan"),
        ({"roi_mode": "both", "measure": True}, "mode must be .*'both'"),
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


# Locality


@pytest.mark.parametrize("mode", ["union", "target", "reference"])
def test_locality_in_a_region_found_by_hand(editor, mode):
    generator, catalog = editor.generator, editor.catalog
    t, r = latents(editor, 1, 2), latents(editor, 3, 4)

    def place(w, part):
        (a,) = generator.activations(w, [catalog.layer]).values()
        cosine = torch.einsum("kc,nchw->nkhw", catalog.centroids, torch.nn.functional.normalize(a, dim=1))
        winner = cosine.argmax(1)
        return sum((winner == k).int() for k in catalog.parts[part]) > 0  # [1, h, w]

    differ = 0
    for batch in editor.edit(
        t, r, ["nose", "eyes"], queries=Simultaneous(3.0), measure=True, roi_mode=mode, batch_size=3
    ):
        regions, originals = [], []
        for edit in batch.edits:
            here, there = place(t[edit.target][None], edit.part), place(r[edit.reference][None], edit.part)
            differ += bool((here != there).any())
            regions.append({"union": here | there, "target": here, "reference": there}[mode])
            originals.append(own_images(generator, t[edit.target][None]))
        assert torch.equal(batch.roi, torch.cat(regions)) and batch.roi.any()
        torch.testing.assert_close(batch.targets, torch.cat(originals), rtol=0, atol=3e-5)
        for got, expected in zip(
            batch.locality, locality(batch.images, batch.targets, torch.cat(regions)), strict=True
        ):
            assert got.shape == (len(batch.edits),)
            assert torch.equal(got.nan_to_num(-1.0), expected.nan_to_num(-1.0))
    assert differ > 2


def test_each_original_is_made_once_and_no_more_than_a_batch_of_them_is_kept(monkeypatch):
    editor = editor_of("sg2")
    made, synthesize = [], editor.generator.synthesize

    def watched(styles, w):
        images = synthesize(styles, w)
        if len(images) == 1:  # an original: edits come in twos
            made.append(weakref.ref(images))
        return images

    monkeypatch.setattr(editor.generator, "synthesize", watched)
    alive = []
    for batch in editor.edit(
        latents(editor, *range(3)), latents(editor, *range(6, 10)), "nose", measure=True, batch_size=2
    ):
        del batch
        alive.append(sum(image() is not None for image in made))
    assert len(made) == 3 and alive == [1] * 6
    made.clear(), alive.clear()
    for batch in editor.edit(latents(editor, *range(6)), latents(editor, 7), "nose", measure=True, batch_size=2):
        del batch
        alive.append(sum(image() is not None for image in made))
    assert len(made) == 6 and alive == [2] * 3
