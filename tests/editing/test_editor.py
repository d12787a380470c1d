# SPDX-License-Identifier: Apache-2.0
"""Single edits compared with the formula, and queries compared with their definitions."""

import pytest
import torch
from editors import Everything, catalog_of, editor_of, latents
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import own_images, shared

from stylefast import query
from stylefast.catalog import Catalog
from stylefast.editing import Edit, Random, Sequential, Simultaneous, Softmax, StyleEditor


def m_of(editor, part):
    return editor.catalog.contributions[editor.catalog.parts[part]].sum(0)  # [S]


def rgb_columns(generator):
    columns = torch.zeros(generator.style_width, dtype=torch.bool)
    for site in generator.sites:
        columns[site.slice] = site.kind == "rgb"
    return columns


@pytest.mark.parametrize("epsilon, rho, fractional", [(1.0, 0.1, False), (3.0, 0.05, False), (4.0, 0.1, True)])
def test_an_edit_follows_the_formula(editor, epsilon, rho, fractional):
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
def test_a_query_of_ones_gives_the_styles_of_the_reference(kind):
    editor = editor_of(kind, rgb=True)
    t, r = latents(editor, 10), latents(editor, 11)
    (batch,) = editor.edit(t, r, "eyes", queries=Everything())
    assert torch.equal(batch.styles, editor.generator.styles(r))
    own, theirs = own_images(editor.generator, t), own_images(editor.generator, r)
    assert torch.equal(batch.images, theirs) == (kind == "sg2")  # in sg1 and sg3, w has effects besides the styles
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


@pytest.mark.parametrize("kind", ["sg2", "sg3"])
@pytest.mark.parametrize(
    "setting", [Sequential(9.0, 0.01), Simultaneous(1e9), Softmax(0.1, 0.3), Random(Sequential(9.0))]
)
def test_torgb_sites_change_only_with_rgb(kind, setting):
    columns = rgb_columns(shared(kind))
    q, with_rgb = (editor_of(kind, rgb=rgb).query("nose", setting) for rgb in (False, True))
    assert not q[columns].any() and q[~columns].any() and with_rgb[columns].any()
    if not isinstance(setting, Random):  # Random permutes the channels of all sites together
        assert torch.equal(q[~columns], with_rgb[~columns])
    editor = editor_of(kind)
    t, r = latents(editor, 10), latents(editor, 11)
    (batch,) = editor.edit(t, r, "nose", queries=setting)
    assert torch.equal(batch.styles[:, columns], editor.generator.styles(t)[:, columns])


def test_sequential_takes_a_budget_and_a_threshold_per_site(editor):
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


def test_softmax_follows_its_definition():
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


def test_random_takes_as_many_channels_as_sequential(editor):
    like = Sequential(4.0, 0.05)
    q, drawn = editor.query("nose", like), [editor.query("nose", Random(like, seed)) for seed in (0, 0, 1)]
    edited = torch.cat([torch.arange(site.start, site.stop) for site in editor.sites])
    for other in drawn:
        assert sorted(other[edited].tolist()) == sorted(q[edited].tolist())
        assert other.sum() == q.sum() > 0
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], q)


def test_a_strategy_is_named_by_its_kind_and_a_single_epsilon():
    named = [Sequential(0.25), Sequential(1), Sequential((1.0, 2.0)), Simultaneous(), Softmax(), Random()]
    expected = ["sequential_0.25", "sequential_1", "sequential", "simultaneous", "softmax", "random"]
    assert [setting.name for setting in named] == expected
