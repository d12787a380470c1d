# SPDX-License-Identifier: Apache-2.0
"""Files of the former version, in tests/data/former, load, and builds and jobs resume from them.

The former version wrote them with a StyleGAN2 of 8 x 8 pixels (network.safetensors) and the latents of six images.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from stylefast import Catalog, StyleEditor, generators
from stylefast.catalog import BuildOptions, Clustering
from stylefast.catalog.files import FORMAT
from stylefast.editing import Grid, Job, JobOptions, SeedLatents, Sequential, Simultaneous, Softmax, StoredLatents
from stylefast.generators import Generator

FORMER = Path(__file__).parents[1] / "data" / "former"
TENSORS = ("centroids", "runs", "contributions", "occupancy")


@pytest.fixture(scope="module")
def generator() -> Generator:
    return generators.load(FORMER / "network.safetensors")


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return torch.from_numpy(np.load(FORMER / "latents.npz")["w"])


@pytest.fixture(scope="module")
def editor(generator: Generator) -> StyleEditor:
    return StyleEditor(generator, Catalog.load(FORMER / "catalog.safetensors", generator))


def build(generator: Generator, w: torch.Tensor, workdir: Path) -> Catalog:
    """Run the build whose state is in FORMER / "workdir"."""
    clustering = Clustering(n_clusters=3, resolution=8, n_init=2)
    options = BuildOptions(batch_size=2, shard_images=3, workdir=workdir, dtype="float16")
    return Catalog.build(generator, w, clustering, options, progress=False)


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_catalog_loads_and_is_saved_with_a_checksum_of_all(generator: Generator, tmp_path: Path):
    catalog, path = Catalog.load(FORMER / "catalog.safetensors", generator), tmp_path / "catalog.safetensors"
    catalog.save(path)
    former, current = (
        json.loads(safe_open(file, "pt").metadata()[FORMAT]) for file in (FORMER / "catalog.safetensors", path)
    )
    assert "checksum" not in former and "crc32" not in current
    assert {**former, "crc32": 0} == {"crc32": 0, **{key: x for key, x in current.items() if key != "checksum"}}
    for name, tensor in load_file(FORMER / "catalog.safetensors").items():
        assert torch.equal(load_file(path)[name], tensor), name
    assert catalog.parts == {"eyes": [0], "mouth": [1, 2]} and catalog.provenance["images"] == 6


def test_a_finished_build_is_read_from_its_workdir(
    generator: Generator, latents: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def run(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the generator must not run")

    shutil.copytree(FORMER / "workdir", tmp_path / "workdir")
    monkeypatch.setattr(generator, "activations", run)
    monkeypatch.setattr(generator, "visit", run)
    catalog, former = build(generator, latents, tmp_path / "workdir"), Catalog.load(FORMER / "catalog.safetensors")
    for name in TENSORS:
        assert torch.equal(getattr(catalog, name), getattr(former, name)), name
    assert catalog.provenance == former.provenance | {"torch": torch.__version__}
    assert files(tmp_path / "workdir") == files(FORMER / "workdir")


def test_a_stopped_build_resumes(generator: Generator, latents: torch.Tensor, tmp_path: Path):
    shutil.copytree(FORMER / "workdir", tmp_path / "workdir")
    (tmp_path / "workdir" / "contributions-00001-of-00002.safetensors").unlink()
    catalog, former = build(generator, latents, tmp_path / "workdir"), Catalog.load(FORMER / "catalog.safetensors")
    for name in TENSORS:
        torch.testing.assert_close(getattr(catalog, name), getattr(former, name))


def test_a_finished_job_is_kept(editor: StyleEditor, latents: torch.Tensor, tmp_path: Path):
    shutil.copytree(FORMER / "edits", tmp_path / "edits")
    targets = StoredLatents(editor.generator, latents[:2], names=["ann", "bob"])
    references = StoredLatents(editor.generator, latents[2:4])
    plan = Grid(targets, references, ["eyes", "mouth"], (Sequential(1.0), Simultaneous(0.5)), strength=0.75)
    metadata = {"network": "network", "truncation": 0.7, "rgb": False}
    for verify in (False, True):
        options = JobOptions(batch_size=2, measure=True, verify=verify)
        job = Job(editor, plan, tmp_path / "edits", options, metadata=metadata, progress=False)
        assert list(job) == [] and (job.n_existing, job.n_written) == (16, 0)
    assert files(tmp_path / "edits") == files(FORMER / "edits")


def test_a_stopped_job_resumes(editor: StyleEditor, latents: torch.Tensor, tmp_path: Path):
    shutil.copytree(FORMER / "stopped", tmp_path / "stopped")
    targets = StoredLatents(editor.generator, latents[:2], names=["ann", "bob"])
    plan = Grid(targets, SeedLatents(editor.generator, [5, 9], truncation=0.5), ["eyes"], Softmax())
    job = Job(editor, plan, tmp_path / "stopped", JobOptions(image_format="jpg", batch_size=1), progress=False)
    assert len(list(job)) == 1 and (job.n_existing, job.n_written) == (3, 1)
    former, current = files(FORMER / "stopped"), files(tmp_path / "stopped")
    journal = former.pop("manifest.0001.jsonl")
    manifest = current.pop("manifest.jsonl")
    assert manifest.startswith(journal) and manifest.count(b"\n") == 4 and former.items() <= current.items()


@pytest.mark.parametrize("name", ["latents.npz", "latents.pt", "styles.safetensors"])
def test_latents_load(generator: Generator, latents: torch.Tensor, name: str):
    source = StoredLatents.load(FORMER / name, generator)
    assert torch.equal(torch.cat([source.w(row) for row in range(len(source))]), latents)
