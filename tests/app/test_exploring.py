# SPDX-License-Identifier: Apache-2.0
"""Edits of the page equal those of jobs, combine several parts, and are not synthesised twice."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from editors import catalog_of, editor_of
from jobs import manifest, run
from networks import shared
from PIL import Image

from stylefast.app.edits import EditRequest, PartEdit
from stylefast.app.exploring import Explorer, blend_parts
from stylefast.app.heat import MOST, heat_pixels, heat_size
from stylefast.app.workspace import Workspace
from stylefast.editing import Grid, SeedLatents, Sequential, Simultaneous, Softmax, StoredLatents
from stylefast.ops.blend import blend

STRATEGIES = (Sequential(2.0), Sequential(0.3, 0.02), Simultaneous(), Softmax(threshold=0.2))


@pytest.fixture
def explorer(tmp_path: Path) -> Explorer:
    path = tmp_path / "catalog.safetensors"
    catalog_of("sg2").save(path)
    return Explorer(Workspace(shared("sg2"), path, network="toy:sg2", truncation=1.0))


def request_of(explorer: Explorer, *parts: str, target: int = 1, strength: float = 1.0, **options) -> EditRequest:
    """Edit of a target by parts from the references with the seeds 7, 8, ..."""
    edits = (PartEdit(part, explorer.seed("reference", 7 + i), strength) for i, part in enumerate(parts))
    return EditRequest(explorer.seed("target", target), tuple(edits), **{"query": Sequential(2.0), **options})


def without_synthesis(monkeypatch: pytest.MonkeyPatch, explorer: Explorer) -> None:
    """Fail the test if an image is synthesised from now on."""

    def synthesize(*arguments) -> None:
        raise AssertionError("an image was synthesised")

    monkeypatch.setattr(explorer.generator, "synthesize", synthesize)


@pytest.mark.parametrize("strength", [1.0, 0.7, 0.0])
@pytest.mark.parametrize("rgb", [False, True])
def test_one_part_has_the_bytes_and_locality_of_a_job(explorer, tmp_path, rgb, strength):
    sources = (SeedLatents(explorer.generator, [seed]) for seed in (1, 7))
    plan = Grid(*sources, ["eyes", "nose"], STRATEGIES, strength=strength)
    run(tmp_path / "out", plan, editor=editor_of("sg2", rgb=rgb), batch_size=1, measure=True)
    entries = {entry["file"]: entry for entry in manifest(tmp_path / "out")}
    assert len(entries) == 8
    for part in ("eyes", "nose"):
        for strategy in STRATEGIES:
            request = request_of(explorer, part, query=strategy, rgb=rgb, strength=strength)
            edited = explorer.edit(catalog_of("sg2"), request)
            assert edited.png == (tmp_path / "out" / request.file_name).read_bytes()
            assert (edited.n_moved > 0) == (edited.png != explorer.image(request.target))
            measured = explorer.change(catalog_of("sg2"), edited).locality._asdict()
            expected = entries[request.file_name]["locality"]
            assert {name: float(v) if v.isfinite() else None for name, v in measured.items()} == expected


def test_pictures_of_a_file_give_the_edits_of_their_latents(explorer, tmp_path):
    np.save(tmp_path / "people.npy", explorer.generator.latents([1, 7]).numpy())
    stored = StoredLatents.load(tmp_path / "people.npy", explorer.generator)
    target, reference = (explorer.row("target", stored, row) for row in (0, 1))
    request = EditRequest(target, (PartEdit("eyes", reference),), Sequential(2.0))
    assert request.file_name == "people-0000_eyes_people-0001_sequential_2.png"
    assert (
        explorer.edit(catalog_of("sg2"), request).png
        == explorer.edit(catalog_of("sg2"), request_of(explorer, "eyes")).png
    )


def test_queries_of_several_parts_share_the_channels():
    rng = torch.Generator().manual_seed(0)
    target, references = torch.randn(1, 50, generator=rng), torch.randn(3, 50, generator=rng)
    queries = torch.rand(3, 50, generator=rng)
    queries[:, :10] = torch.eye(3)[:, [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]]  # one part each
    queries[:, 10:20] = 0
    strengths = [1.0, 0.5, 1.3]
    shares = queries.double() / queries.double().sum(0).clamp(min=1)
    assert shares.sum(0).max() <= 1
    moves = [s * q * (r - target[0]) for s, q, r in zip(strengths, shares, references, strict=True)]
    blended = blend_parts(target, references, queries, strengths)
    torch.testing.assert_close(blended[0].double(), target[0] + sum(moves), rtol=0, atol=1e-6)
    assert torch.equal(blended[:, 10:20], target[:, 10:20])
    for part in range(3):
        only = queries[part, :10] > 0
        alone = blend(target, references[part], queries[part], strength=strengths[part])
        assert torch.equal(blended[0, :10][only], alone[0, :10][only])


def test_an_edit_of_two_parts_moves_both(explorer):
    one, other = (explorer.edit(catalog_of("sg2"), request_of(explorer, part)) for part in ("eyes", "nose"))
    both = explorer.edit(catalog_of("sg2"), request_of(explorer, "eyes", "nose"))
    assert both.n_channels == (one.n_moved, other.n_moved)
    assert max(both.n_channels) < both.n_moved <= sum(both.n_channels)
    assert both.png not in (one.png, other.png)
    assert both.request.file_name == "seed0001_eyes_seed0007_nose_seed0008_sequential_2.png"
    many = tuple(replace(edit, part="x" * 100 + edit.part) for edit in both.request.parts * 2)
    assert replace(both.request, parts=many).file_name == "seed0001_4-parts_sequential_2.png"


def test_cached_costs_give_the_queries_of_the_editor(explorer):
    for rgb in (False, True):
        for epsilon in (0.0, 0.1, 1.0, 3.7, 100.0):
            for rho in (0.0, 0.1, 0.4):
                strategy = Sequential(epsilon, rho)
                expected = editor_of("sg2", rgb=rgb).query("nose", strategy)
                assert torch.equal(explorer.query(catalog_of("sg2"), "nose", strategy, rgb=rgb), expected)


def test_parts_of_another_catalog_are_not_confused(explorer):
    catalog = replace(catalog_of("sg2"), parts={"eyes": [3, 5]})
    first = explorer.query(catalog_of("sg2"), "eyes", Sequential(2.0))
    assert not torch.equal(explorer.query(catalog, "eyes", Sequential(2.0)), first)
    catalog.parts["eyes"] = [0]
    assert torch.equal(explorer.query(catalog, "eyes", Sequential(2.0)), first)


def test_an_unchanged_query_is_not_synthesised_again(explorer, monkeypatch):
    catalog, request = catalog_of("sg2"), request_of(explorer, "eyes")
    first = explorer.edit(catalog, request)
    change = explorer.change(catalog, first)
    assert first.is_new
    without_synthesis(monkeypatch, explorer)
    again = explorer.edit(catalog, replace(request, query=Sequential(2.0 + 1e-9)))
    assert not again.is_new and again.png == first.png
    assert explorer.change(catalog, again) is change
    with pytest.raises(AssertionError, match="an image was synthesised"):
        explorer.edit(catalog, replace(request, query=Sequential(9.0)))


def test_a_part_without_channels_is_explained(explorer):
    request = request_of(explorer, "eyes", "nose", query=Sequential(2.0, rho=1.0))
    edited = explorer.edit(catalog_of("sg2"), request)
    assert edited.n_channels == (0, 0) and edited.png == explorer.image(request.target)
    assert edited.notes == [
        f"No channel of {part!r} has a contribution above rho = 1 within epsilon = 2; lower rho or raise epsilon."
        for part in ("eyes", "nose")
    ]
    assert explorer.edit(catalog_of("sg2"), request_of(explorer, "eyes")).notes == []
    assert explorer.edit(catalog_of("sg2"), request_of(explorer, "eyes", strength=0.0)).notes == []
    (note,) = explorer.edit(catalog_of("sg2"), request_of(explorer, "eyes", query=Softmax(threshold=1.0))).notes
    assert note.startswith("No channel of 'eyes' is selected; choose another strategy")


@pytest.mark.parametrize("seed", [None, -1, 1.5, 1 << 32, "seven"])
def test_bad_seeds_are_named(explorer, seed):
    with pytest.raises(ValueError, match=r"seed of target must be an integer in \[0, 2\*\*32\), got "):
        explorer.seed("target", seed)


def test_bad_rows_and_parts_are_named(explorer):
    stored = StoredLatents(explorer.generator, explorer.generator.latents([1, 2]))
    for row in (None, -1, 2):
        with pytest.raises(ValueError, match=r"row of reference must be an integer in \[0, 2\), got"):
            explorer.row("reference", stored, row)
    styles = StoredLatents(explorer.generator, styles=torch.ones(1, explorer.generator.style_width))
    with pytest.raises(ValueError, match="latents w of these images must be known"):
        explorer.row("reference", styles, 0)
    twice = "parts must be different, got 'eyes', 'eyes'"
    for parts, message in (
        ((), "got none"),
        (("eyes",) * 2, twice),
        (("ears",), "part must be one"),
    ):
        with pytest.raises(ValueError, match=message):
            explorer.edit(catalog_of("sg2"), request_of(explorer, *parts))
    with pytest.raises(ValueError, match="strength must be a finite number"):
        explorer.edit(catalog_of("sg2"), request_of(explorer, "eyes", strength=float("nan")))
    with pytest.raises(ValueError, match="epsilon must be a finite number >= 0, got -1.0"):
        explorer.edit(catalog_of("sg2"), request_of(explorer, "eyes", query=Sequential(-1.0)))


@pytest.mark.parametrize("part", ["eyes", "nose", "mouth"])
def test_the_zoom_is_a_square_within_the_image(explorer, part):
    request = request_of(explorer, part)
    left, top, side = explorer.zoom(catalog_of("sg2"), request.target, request.parts[0])
    assert 1 / 3 <= side <= 1 / 2
    assert min(left, top) >= 0 and max(left, top) + side <= 1 + 1e-9


def test_the_zoom_is_around_the_part(explorer, monkeypatch):
    labels = torch.full((1, 32, 32), 5, dtype=torch.int32)
    labels[:, 16:20, 8:12] = 0  # the cluster of the eyes
    monkeypatch.setattr(explorer, "_labels", lambda *arguments: labels)
    request = request_of(explorer, "eyes")
    left, top, side = explorer.zoom(catalog_of("sg2"), request.target, request.parts[0])
    assert side == pytest.approx(1 / 3)
    assert left + side / 2 == pytest.approx(1 / 4 + 1 / 16, abs=0.02)
    assert top + side / 2 == pytest.approx(1 / 2 + 1 / 16, abs=0.02)


def test_heat_maps_have_a_fixed_scale():
    errors, region = torch.zeros(8, 8), torch.zeros(8, 8, dtype=torch.bool)
    errors[0, 0], errors[0, 1], errors[0, 2] = MOST / 2, MOST, 5 * MOST
    pixels = heat_pixels(errors, region).astype(int)
    assert (pixels[0, 1] == pixels[0, 2]).all() and pixels[0, 1].sum() > pixels[0, 0].sum() > pixels[0, 3].sum()
    assert (pixels[1:] == pixels[0, 3]).all()
    region[4:] = True
    assert (heat_pixels(errors, region)[3] == (92, 224, 255)).all()


def test_the_heat_map_shows_where_the_edit_differs(explorer):
    request = request_of(explorer, "eyes")
    change = explorer.change(catalog_of("sg2"), explorer.edit(catalog_of("sg2"), request))
    heat = np.asarray(Image.open(io.BytesIO(change.heat)))
    assert heat.shape == (*heat_size(explorer.generator.image_size), 3)
    still = explorer.change(
        catalog_of("sg2"), explorer.edit(catalog_of("sg2"), replace(request, query=Sequential(0.0)))
    )
    assert float(still.locality.delta_e_inside) == 0 < float(change.locality.delta_e_inside)
    assert still.heat != change.heat
