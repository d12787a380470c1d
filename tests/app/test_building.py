# SPDX-License-Identifier: Apache-2.0
"""Builds of the tab Parts: progress, cancellation, and names that are carried over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from catalogs import build_catalog
from editors import catalog_of
from networks import shared

from stylefast import Catalog
from stylefast.app import building
from stylefast.app.building import (
    BuildRequest,
    Cancellation,
    CancelledError,
    carry_parts,
    measure_overlap,
    rebuild,
    resolutions,
)
from stylefast.app.workspace import Workspace

REQUEST = BuildRequest(n_clusters=4, resolution=16, n_init=2, n_images=6)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    catalog_of("sg2").save(tmp_path / "toy.safetensors")
    return Workspace(shared("sg2"), tmp_path / "toy.safetensors", network="toy:sg2", truncation=0.7)


def build(workspace: Workspace, request: BuildRequest = REQUEST, **options) -> tuple[Catalog, list[tuple[float, str]]]:
    reports: list[tuple[float, str]] = []
    report = options.get("report", lambda share, text: reports.append((share, text)))
    return rebuild(workspace, workspace.catalog, request, options.get("stop", Cancellation()), report).catalog, reports


def test_a_build_reports_its_progress(workspace: Workspace):
    catalog, reports = build(workspace)
    assert catalog.n_clusters == 4 and len(catalog.runs) == 2
    assert catalog.provenance["seeds"] == "0-5" and catalog.provenance["truncation"] == 0.7
    shares = [share for share, _ in reports]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert reports[0][1] == "2 of 12 images" and any(text.startswith("k-means, step") for _, text in reports)
    assert workspace.catalog.n_clusters == 6


@pytest.mark.parametrize("n_steps", [1, 4])
def test_a_cancelled_build_stops_at_once(workspace: Workspace, n_steps: int):
    stop, reports = Cancellation(), []

    def report(share: float, text: str) -> None:
        reports.append(text)
        stop.requested = len(reports) == n_steps

    with pytest.raises(CancelledError):
        build(workspace, stop=stop, report=report)
    assert len(reports) == n_steps
    assert build(workspace)[0].n_clusters == 4  # the lock is free


@pytest.mark.parametrize("moment", ["before", "within"])
def test_a_build_is_cancelled_in_its_last_phase(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, moment: str):
    stop, compared = Cancellation(), []

    def measure(*arguments: object) -> torch.Tensor:
        compared.append(arguments)
        stop.requested = True
        return torch.zeros(4, 6, dtype=torch.float64, device="cpu")

    def report(share: float, text: str) -> None:
        stop.requested |= moment == "before" and text == "12 of 12 images"

    monkeypatch.setattr(building, "measure_overlap", measure)
    with pytest.raises(CancelledError):
        build(workspace, stop=stop, report=report)
    assert len(compared) == (moment == "within")


def test_parts_that_were_named_during_a_build_are_carried(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    former = workspace.catalog
    built = rebuild(workspace, former, replace(REQUEST, n_clusters=6), Cancellation(), lambda share, text: None)
    overlap = torch.eye(6, dtype=torch.float64, device="cpu")
    built = replace(built, overlap=overlap)
    present = replace(former, parts={"eyes": [0], "brows": [3, 5]})
    assert built.with_parts_of(present).parts == present.parts and built.catalog.parts == {}
    other = replace(present, centroids=former.centroids.flip(0))  # such as that of another file
    monkeypatch.setattr(building, "measure_overlap", lambda *arguments: overlap.flip(0) if arguments[0] is other else 0)
    assert built.with_parts_of(other).parts == {"eyes": [5], "brows": [0, 2]}


def catalog_with(workspace: Workspace, **clustering) -> Catalog:
    """A catalog of the generator of the workspace with other options of the clustering."""
    w = workspace.generator.latents(range(4))
    return build_catalog(workspace.generator, w, n_clusters=3, **clustering)


def test_a_build_keeps_a_factorisation(workspace: Workspace):
    former = catalog_with(workspace, method="nmf", layer="convs.4")
    catalog = rebuild(workspace, former, REQUEST, Cancellation(), lambda share, text: None).catalog
    assert (catalog.method, catalog.layer, catalog.n_clusters) == ("nmf", former.layer, 4)
    n_channels = former.centroids.shape[1]
    many = replace(REQUEST, n_clusters=n_channels + 1)
    with pytest.raises(ValueError, match=f"n_clusters must be at most C = {n_channels} .*, got {n_channels + 1}"):
        rebuild(workspace, former, many, Cancellation(), lambda share, text: None)


def test_a_build_keeps_the_kind_of_points_and_the_layer(workspace: Workspace):
    former = catalog_with(workspace, features="standardized", layer="convs.4", n_init=1)
    catalog = rebuild(workspace, former, REQUEST, Cancellation(), lambda share, text: None).catalog
    assert (catalog.method, catalog.features, catalog.layer) == ("kmeans", "standardized", former.layer)
    other = rebuild(workspace, former, replace(REQUEST, resolution=8), Cancellation(), lambda share, text: None).catalog
    assert (other.features, other.occupancy.shape[1]) == ("standardized", 8)


@pytest.mark.parametrize("field", ["n_clusters", "n_init", "n_images"])
def test_bad_numbers_are_refused(workspace: Workspace, field: str):
    with pytest.raises(ValueError, match="must be an integer >= 1, got 0"):
        build(workspace, replace(REQUEST, **{field: 0}))


def test_an_unknown_resolution_is_refused(workspace: Workspace):
    assert resolutions(workspace.generator) == [4, 8, 16, 32]
    with pytest.raises(ValueError, match="resolution must be that of a layer"):
        build(workspace, replace(REQUEST, resolution=5))


def test_equal_clusters_keep_the_names_of_their_parts(workspace: Workspace):
    former, order = workspace.catalog, [3, 0, 5, 1, 2, 4]
    shuffled = replace(former, centroids=former.centroids[order], parts={})
    overlap = measure_overlap(former, shuffled, workspace.generator, workspace.generator.latents(range(3)))
    assert carry_parts(former.parts, overlap) == {
        part: sorted(order.index(k) for k in ids) for part, ids in former.parts.items()
    }


def test_a_new_cluster_belongs_to_the_part_with_most_of_it(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    labels = {2: torch.tensor([[[0, 0, 0, 1], [1, 1, 1, 1]]]), 6: torch.tensor([[[0, 0, 2, 1], [4, 5, 5, 3]]])}
    monkeypatch.setattr(Catalog, "labels", lambda catalog, *arguments, **options: labels[catalog.n_clusters])
    new = replace(workspace.catalog, centroids=workspace.catalog.centroids[:2])
    overlap = measure_overlap(workspace.catalog, new, workspace.generator, workspace.generator.latents([0]))
    assert overlap.tolist() == [[2, 0, 1, 0, 0, 0], [0, 1, 0, 1, 1, 2]]
    expected = {"eyes": [0]}  # cluster 1 lies in nose by two of five positions
    assert carry_parts(workspace.catalog.parts, overlap) == expected
    assert building.MOST == 0.5
