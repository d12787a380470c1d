# SPDX-License-Identifier: Apache-2.0
"""Choice of the k-means run by the overlaps of the clusters with the areas of the parts."""

import pytest
import torch
from catalogs import build

from stylefast.catalog.regions import overlaps
from stylefast.catalog.runs import best_overlap, choose_run
from stylefast.generators.toy import toy

REGIONS = {"left": [(0.0, 0.0, 0.5, 1.0)], "top": [(0.5, 0.0, 1.0, 0.5)], "all": [(0.0, 0.0, 1.0, 1.0)]}


def test_overlaps_are_intersections_over_unions():
    occupancy = torch.zeros(3, 4, 4)
    occupancy[0, :, :2] = 0.75  # three quarters of the images, on the left
    occupancy[1, :2, 2:] = 1
    occupancy[1, 2, 2] = 0.5
    occupancy[2] = 1 - occupancy[:2].sum(0)
    assert overlaps(REGIONS, occupancy, 0.5) == pytest.approx({"left": 6 / 8, "top": 4 / 4.5})
    assert overlaps({"top": REGIONS["top"]}, occupancy, 0.9) == {"top": 0}  # no cluster exceeds the threshold
    assert overlaps({"all": REGIONS["all"], "a": [0]}, occupancy, 0.5) == pytest.approx({"all": 10 / 16})


def test_equal_areas_count_and_empty_areas_do_not():
    occupancy = torch.zeros(2, 4, 4)
    occupancy[0, :, :2], occupancy[1, :, 2:] = 0.75, 0.5
    left = REGIONS["left"]
    assert overlaps({"left": left, "none": torch.zeros(4, 4)}, occupancy, 0.5) == pytest.approx({"left": 6 / 8})
    assert overlaps({"left": left, "same": left}, occupancy, 0.5) == pytest.approx({"left": 6 / 8, "same": 0})
    assert overlaps({"a": REGIONS["all"], "b": left, "c": left}, occupancy, 0.5).keys() == {"b", "c"}
    assert overlaps({"none": torch.zeros(4, 4)}, occupancy, 0.5) == {}


@pytest.mark.parametrize(
    "per_run, objectives, best",
    [
        ([{"a": 0.9, "b": 0.0}, {"a": 0.1, "b": 0.1}], [2, 1], 1),
        ([{"a": 0.25, "b": 0.25}, {"a": 0.5, "b": 0.125}], [2, 1], 1),
        ([{"a": 0.25, "b": 0.5}, {"a": 0.5, "b": 0.25}], [1, 2], 1),
        ([{"a": 0.5}, {"a": 0.25}, {"a": 0.5}], [1, 2, 1], 0),
        ([{"a": 0.0}, {"a": 0.0}], [1, 2], 1),
        ([{}, {}], [1, 2], 1),
    ],
)
def test_parts_count_before_overlaps_before_objectives(
    per_run: list[dict[str, float]], objectives: list[float], best: int
):
    assert best_overlap(per_run, objectives) == best


def test_the_objective_decides_if_no_area_counts():
    def occupancies(runs: torch.Tensor) -> torch.Tensor:
        return torch.full((len(runs), 2, 4, 4), 0.5)

    choice = choose_run(torch.zeros(3, 2, 4), [0.1, 0.3, 0.2], None, {"none": torch.zeros(4, 4)}, occupancies)
    assert choice == {"run": 1, "objectives": [0.1, 0.3, 0.2]}


@pytest.mark.parametrize("run, regions", [(1, REGIONS), (None, None), (None, {"a": [0]})])
def test_occupancies_are_not_computed_without_need(run: int | None, regions: dict | None):
    def occupancies(runs: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the regions must not decide")

    choice = choose_run(torch.zeros(3, 2, 4), [0.1, 0.2, 0.3], run, regions, occupancies)
    assert choice == {"run": 2 if run is None else run, "objectives": [0.1, 0.2, 0.3]}


def test_a_build_takes_the_run_that_fits_the_regions(tmp_path):
    generator, seeded = toy("sg2"), {"n_init": 4, "seed": 1}
    chosen = build(generator, **seeded, regions=REGIONS)
    each = [build(generator, **seeded, regions=REGIONS, run=run) for run in range(4)]
    expected = [overlaps(REGIONS, catalog.occupancy, 0.5) for catalog in each]
    assert [pytest.approx(of_run) for of_run in expected] == chosen.provenance["overlaps"]
    run = best_overlap(expected, chosen.provenance["objectives"])
    assert chosen.provenance["run"] == run and torch.equal(chosen.centroids, each[run].centroids)
    assert run != max(range(4), key=chosen.provenance["objectives"].__getitem__)  # so the test tells them apart
    assert chosen.parts == each[run].parts and list(chosen.parts) == list(REGIONS)
    assert torch.equal(chosen.contributions, each[run].contributions)
    assert all("overlaps" not in catalog.provenance for catalog in each)
    sharded = build(generator, **seeded, regions=REGIONS, workdir=tmp_path, shard_images=2)
    for one, two in zip(sharded.provenance["overlaps"], chosen.provenance["overlaps"], strict=True):
        assert one == pytest.approx(two, abs=0.02)
