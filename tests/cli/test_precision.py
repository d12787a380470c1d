# SPDX-License-Identifier: Apache-2.0
"""Precision of convolutions on a GPU: the command line sets it, and manifests, catalogs and shards record it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from catalogs import build_catalog
from commands import run
from forked import printed
from jobs import manifest
from jobs import run as run_job

from stylefast import Catalog
from stylefast.generators import Generator
from stylefast.generators.toy import toy


@pytest.fixture
def restored() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch, restored: None) -> None:
    """Let generators report the precision that they would report on a GPU."""
    precision: Any = Generator.precision.fget
    gpu = SimpleNamespace(device=torch.device("cuda", 1), network=torch.nn.Identity())
    monkeypatch.setattr(Generator, "precision", property(lambda self: precision(gpu)))


def test_no_precision_is_recorded_on_a_cpu():
    assert toy("sg2").precision == {}


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("tf32", [True, False])
def test_the_command_line_sets_and_records_the_precision(tf32: bool, tmp_path: Path):
    option, network = "--tf32" if tf32 else "--no-tf32", ["--network", "toy:sg2"]
    catalog = tmp_path / "catalog.safetensors"
    torch.backends.cudnn.allow_tf32 = not tf32
    run("catalog", "build", *network, "--seeds", "0-3", "--clusters", "6", "--out", catalog, option)
    assert torch.backends.cudnn.allow_tf32 == Catalog.load(catalog).provenance["tf32"] == tf32
    run("catalog", "annotate", catalog, "--part", "eyes=1")
    torch.backends.cudnn.allow_tf32 = not tf32
    edit = ["edit", *network, "--catalog", catalog, "--seeds", "1", "--references", "2", "--parts", "eyes"]
    run(*edit, "--outdir", tmp_path / "out", option)
    assert [line["tf32"] for line in manifest(tmp_path / "out")] == [tf32]


@pytest.mark.usefixtures("on_a_gpu")
def test_edits_of_another_precision_are_replaced_only_if_asked(tmp_path: Path):
    counts = []
    for tf32 in (True, True, False):
        torch.backends.cudnn.allow_tf32 = tf32
        job = run_job(tmp_path, overwrite=not tf32)
        counts.append((job.n_existing, job.n_written))
    assert counts == [(0, job.total), (job.total, 0), (0, job.total)]
    torch.backends.cudnn.allow_tf32 = True
    with pytest.raises(ValueError, match="its tf32 is false, not true"):
        run_job(tmp_path)


@pytest.mark.usefixtures("on_a_gpu")
def test_shards_of_another_precision_are_refused(tmp_path: Path):
    generator = toy("sg2")
    torch.backends.cudnn.allow_tf32 = True
    arguments = {"n_clusters": 4, "n_init": 1, "resolution": 8, "workdir": tmp_path, "progress": False}
    build_catalog(generator, [generator.latents(range(2))], **arguments)
    torch.backends.cudnn.allow_tf32 = False
    with pytest.raises(ValueError, match="activations.*its tf32 is True, not False"):
        build_catalog(generator, [generator.latents(range(2))], **arguments)


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_the_fp32_precision_setting_of_torch_is_recorded(precision: str):
    script = f"""
import torch
from types import SimpleNamespace
from stylefast.generators import Generator
torch.backends.cudnn.conv.fp32_precision = {precision!r}
print(Generator.precision.fget(SimpleNamespace(device=torch.device("cuda"), network=torch.nn.Identity())))
"""
    assert printed(script) == [str({"tf32": precision == "tf32"})]
