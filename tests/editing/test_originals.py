# SPDX-License-Identifier: Apache-2.0
"""Unedited targets and references that a job keeps beside its edits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from editors import editor_of
from forked import in_ranks
from jobs import grid, job, manifest, run
from networks import shared

from stylefast.editing import Grid, JobOptions, Pairs, SeedLatents, Sequential, StoredLatents
from stylefast.editing.originals import find_original
from stylefast.generators import Generator
from stylefast.io.images import encode, to_uint8

QUERY = Sequential(2.0)


def contents(directory: Path) -> dict[str, bytes]:
    """Contents of all files below a folder."""
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*.*")}


def originals(directory: Path) -> dict[str, bytes]:
    """Contents of the images below `originals`."""
    return {name: data for name, data in contents(directory).items() if name.startswith("originals/") and "png" in name}


def unedited(source: Any, row: int) -> bytes:
    generator = source.generator
    return encode(to_uint8(generator.synthesize(source.styles(row), source.w(row)))[0], ".png")


def sparse() -> Grid:
    """Six edits of three targets by two references, of which one is a target too."""
    return grid((1, 2, 7), (7, 8), "nose", QUERY)


@pytest.fixture
def synthesised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images of the calls of `synthesize`."""
    sizes, synthesize = [], Generator.synthesize

    def counted(self: Generator, styles: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        sizes.append(len(styles))
        return synthesize(self, styles, w)

    monkeypatch.setattr(Generator, "synthesize", counted)
    return sizes


@pytest.mark.parametrize("measure", [False, True])
def test_every_original_is_the_unedited_image(tmp_path: Path, measure: bool):
    plan = sparse()
    run(tmp_path, plan, originals=True, measure=measure)
    expected = {f"originals/targets/{plan.targets.name(row)}.png": unedited(plan.targets, row) for row in range(3)}
    expected |= {
        f"originals/references/{plan.references.name(row)}.png": unedited(plan.references, row) for row in range(2)
    }
    assert originals(tmp_path) == expected
    assert [line["file"] for line in manifest(tmp_path / "originals" / "targets")] == [
        f"seed{seed:04}.png" for seed in (1, 2, 7)
    ]
    assert not list(tmp_path.rglob("manifest.0*"))


def test_edits_are_the_same_with_and_without_originals(tmp_path: Path):
    run(tmp_path / "without", sparse(), measure=True)
    run(tmp_path / "with", sparse(), measure=True, originals=True)
    kept = {name: data for name, data in contents(tmp_path / "with").items() if not name.startswith("originals/")}
    assert kept == contents(tmp_path / "without") and JobOptions().originals is False


def test_a_measured_job_reuses_the_images_of_targets(tmp_path: Path, synthesised: list[int]):
    run(tmp_path / "without", sparse(), measure=True)
    before = sum(synthesised)
    synthesised.clear()
    run(tmp_path / "with", sparse(), measure=True, originals=True)
    assert sum(synthesised) == before + 2  # the two references


def test_a_target_and_a_reference_of_one_name_are_kept_apart(tmp_path: Path):
    generator = shared("sg2")
    sources = (SeedLatents(generator, [1], truncation=psi) for psi in (1.0, 0.5))
    run(tmp_path, Grid(*sources, "nose", QUERY), originals=True)
    target, reference = (originals(tmp_path)[f"originals/{kind}/seed0001.png"] for kind in ("targets", "references"))
    assert target != reference


def test_a_finished_job_makes_no_original_again(tmp_path: Path, synthesised: list[int]):
    run(tmp_path, sparse(), originals=True)
    before, times = contents(tmp_path), {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    synthesised.clear()
    run(tmp_path, sparse(), originals=True)
    assert synthesised == [] and contents(tmp_path) == before
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}


def test_missing_and_damaged_originals_are_made_again(tmp_path: Path, synthesised: list[int]):
    run(tmp_path, sparse(), originals=True)
    before = contents(tmp_path)
    (tmp_path / "originals" / "targets" / "seed0002.png").unlink()
    (tmp_path / "originals" / "references" / "seed0008.png").write_bytes(b"damaged")
    synthesised.clear()
    run(tmp_path, sparse(), originals=True)
    assert synthesised == [1, 1] and contents(tmp_path) == before


def test_originals_are_added_to_a_finished_job(tmp_path: Path):
    run(tmp_path, sparse())
    edits = contents(tmp_path)
    resumed = run(tmp_path, sparse(), originals=True)
    assert resumed.n_written == 0 and len(originals(tmp_path)) == 5 and edits.items() <= contents(tmp_path).items()


@pytest.mark.parametrize("after", range(4))
def test_a_stopped_job_resumes_to_the_same_files(tmp_path: Path, after: int):
    run(tmp_path / "whole", sparse(), originals=True, measure=True)
    batches = iter(job(tmp_path / "stopped", sparse(), originals=True, measure=True))
    for _ in range(after):
        next(batches, None)
    batches.close()  # type: ignore[attr-defined]
    run(tmp_path / "stopped", sparse(), originals=True, measure=True)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_shards_write_every_original_once(tmp_path: Path):
    run(tmp_path / "whole", sparse(), originals=True, batch_size=1)
    written: list[str] = []
    for shard in range(3):
        before = set(originals(tmp_path / "shards"))
        times = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").rglob("*.png")}
        run(tmp_path / "shards", sparse(), originals=True, batch_size=1, shard=(shard, 3))
        written += set(originals(tmp_path / "shards")) - before
        assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert len(written) == 5
    run(tmp_path / "shards", sparse(), originals=True, batch_size=1)
    assert contents(tmp_path / "shards") == contents(tmp_path / "whole")


def run_rank(rank: int, directory: Path) -> int:
    run(directory, sparse(), originals=True, measure=True, batch_size=1, group=dist.group.WORLD)
    return rank


def test_ranks_write_the_originals_of_one_process(tmp_path: Path):
    in_ranks(1, run_rank, tmp_path / "1")
    in_ranks(3, run_rank, tmp_path / "3")
    assert contents(tmp_path / "3") == contents(tmp_path / "1") and len(originals(tmp_path / "1")) == 5


def test_pairs_keep_the_images_that_they_name(tmp_path: Path):
    (tmp_path / "pairs.csv").write_text("target,reference,part\n5,9,nose\n3,9,nose\n5,4,eyes\n")
    sources = (SeedLatents(shared("sg2"), range(100)) for _ in range(2))
    plan = Pairs(tmp_path / "pairs.csv", *sources, query=QUERY)
    editor_of("sg2").check(plan)
    run(tmp_path / "out", plan, originals=True)
    expected = {f"targets/seed{seed:04}.png" for seed in (3, 5)} | {f"references/seed{seed:04}.png" for seed in (4, 9)}
    assert {name.removeprefix("originals/") for name in originals(tmp_path / "out")} == expected


def test_references_of_known_styles_only_have_no_image(tmp_path: Path):
    generator = shared("sg2")
    references = StoredLatents(generator, styles=generator.styles(generator.latents([7])))
    run(tmp_path, Grid(SeedLatents(generator, [1]), references, "nose", QUERY), originals=True)
    assert list(originals(tmp_path)) == ["originals/targets/seed0001.png"]


def of_truncation(psi: float, query: Sequential = QUERY) -> Grid:
    return Grid(*(SeedLatents(shared("sg2"), [1], truncation=psi) for _ in range(2)), "nose", query)


def test_originals_with_other_settings_are_not_replaced(tmp_path: Path):
    run(tmp_path, of_truncation(1.0), originals=True)
    before, other = contents(tmp_path), of_truncation(0.5, Sequential(3.0))
    with pytest.raises(ValueError, match=r"unedited images .*targets/seed0001\.png: its generator.*--no-originals"):
        run(tmp_path, other, originals=True)
    assert contents(tmp_path) == before
    assert run(tmp_path, other).n_written == 1 and originals(tmp_path) == {
        name: data for name, data in before.items() if name in originals(tmp_path)
    }
    run(tmp_path, other, originals=True, overwrite=True)
    assert originals(tmp_path)["originals/targets/seed0001.png"] == unedited(other.targets, 0)


def test_other_catalogs_and_options_keep_the_originals(tmp_path: Path, synthesised: list[int]):
    run(tmp_path, of_truncation(1.0), originals=True)
    synthesised.clear()
    run(tmp_path, of_truncation(1.0, Sequential(3.0)), originals=True, editor=editor_of("sg2", rgb=True))
    assert sum(synthesised) == 1


def test_an_original_is_found_in_any_format(tmp_path: Path):
    assert find_original(tmp_path, "targets", "seed0001", "png") is None
    run(tmp_path, of_truncation(1.0), originals=True, image_format="webp")
    for image_format in ("png", "webp"):
        found = find_original(tmp_path, "targets", "seed0001", image_format)
        assert found == tmp_path / "originals" / "targets" / "seed0001.webp"


def test_a_measured_edit_records_the_box_of_its_part(tmp_path: Path):
    batches = list(job(tmp_path, sparse(), measure=True))
    boxes = {line["file"]: line["box"] for line in manifest(tmp_path)}
    for batch in batches:
        for edit, region in zip(batch.edits, batch.roi, strict=True):  # type: ignore[arg-type]
            box, (h, w) = boxes[f"{sparse().name(edit)}.png"], region.shape
            if box is None:
                assert not region.any()
                continue
            left, top, right, bottom = (round(edge * size) for edge, size in zip(box, (w, h, w, h), strict=True))
            assert region[top:bottom, left:right].sum() >= 0.85 * region.sum()
    assert any(box is not None for box in boxes.values())
    run(tmp_path / "unmeasured", sparse())
    assert all("box" not in line for line in manifest(tmp_path / "unmeasured"))
