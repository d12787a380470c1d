# SPDX-License-Identifier: Apache-2.0
"""Values of the controls of the tab Edit become requests, or errors that name the control."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from editors import catalog_of
from networks import shared

from stylefast.app.controls import Controls, PartControls, neighbours, part_names
from stylefast.app.exploring import Explorer
from stylefast.app.workspace import Workspace
from stylefast.editing import Sequential, Simultaneous, Softmax, StoredLatents


@pytest.fixture
def explorer(tmp_path: Path) -> Explorer:
    path = tmp_path / "catalog.safetensors"
    catalog_of("sg2").save(path)
    return Explorer(Workspace(shared("sg2"), path, network="toy:sg2"))


def controls(**values) -> Controls:
    """Controls of an edit of the eyes and the nose of seed 1."""
    parts = [PartControls("eyes", 7, 1), PartControls("nose", 8, 0.5)]
    return Controls(catalog_of("sg2"), **{**DEFAULTS, "parts": parts, **values})


DEFAULTS = {
    "target": 1,
    "target_file": None,
    "reference_file": None,
    "strategy": "sequential",
    "epsilon": 2,
    "rho": 0.1,
    "rgb": False,
}


def test_controls_become_a_request(explorer: Explorer):
    request = controls(rgb=True).request(explorer)
    assert request.target == explorer.seed("target", 1) and request.query == Sequential(2.0, 0.1) and request.rgb
    assert [(edit.part, edit.reference.name, edit.strength) for edit in request.parts] == [
        ("eyes", "seed0007", 1.0),
        ("nose", "seed0008", 0.5),
    ]


@pytest.mark.parametrize(
    "name, strategy", [("adaptive", Sequential()), ("simultaneous", Simultaneous()), ("softmax", Softmax())]
)
def test_only_the_sequential_strategy_reads_the_budget(name: str, strategy):
    assert controls(strategy=name, epsilon=None, rho=None).query() == strategy


def test_files_give_targets_and_references(explorer: Explorer):
    stored = StoredLatents(explorer.generator, explorer.generator.latents([1, 2]), names=["Ann", "Bob"])
    request = controls(target_file=stored).request(explorer)
    assert (request.target.name, request.parts[0].reference.name) == ("Bob", "seed0007")
    parts = [PartControls("eyes", 0, 1)]
    request = controls(reference_file=stored, parts=parts).request(explorer)
    assert (request.target.name, request.parts[0].reference.name) == ("seed0001", "Ann")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"target": None}, r"seed of target must be an integer in \[0, 2\*\*32\), got nothing"),
        ({"parts": [PartControls("eyes", -1, 1)]}, "seed of the reference of eyes must be an integer"),
        ({"parts": [PartControls("eyes", 7, None)]}, "strength must be a number, got nothing"),
        ({"epsilon": None}, "epsilon must be a number, got nothing"),
        ({"rho": "high"}, "rho must be a number, got 'high'"),
    ],
)
def test_missing_and_wrong_values_are_named(explorer: Explorer, values, message: str):
    with pytest.raises(ValueError, match=message):
        controls(**values).request(explorer)


def test_parts_without_clusters_are_not_offered():
    catalog = replace(catalog_of("sg2"), parts={"eyes": [1], "ears": []})
    assert part_names(catalog) == ["eyes"]


def test_neighbours_are_a_block_of_seeds_or_the_rows_of_a_file():
    generator = shared("sg2")
    assert neighbours(0, None) == (0, 19, 0)
    assert neighbours(47, None) == (40, 59, 47)
    assert neighbours(None, None) == (0, 19, 0)
    rows = [StoredLatents(generator, generator.latents(range(n))) for n in (1, 5)]
    assert neighbours(3, rows[1]) == (0, 4, 3)
    assert neighbours(9, rows[1]) == (0, 4, 4)
    assert neighbours(0, rows[0]) == (0, 1, 0)
