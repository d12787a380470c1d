# SPDX-License-Identifier: Apache-2.0
"""Results of the commands with the toy generator."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from catalogs import build_catalog
from commands import BUILD, NETWORK, run, strict
from networks import shared
from PIL import Image
from typer.testing import CliRunner

from stylefast import __version__
from stylefast.backends import BACKENDS
from stylefast.catalog import FFHQ_REGIONS, Catalog
from stylefast.cli import app as cli
from stylefast.editing import Edit, SeedLatents, Sequential, StyleEditor
from stylefast.editing.writer import ImageWriter
from stylefast.ops import LAYERS, OPS, SOFT, STEPS


def test_catalog_build_equals_a_build_in_python(built):
    generator = shared("sg2")
    loaded = Catalog.load(built, generator)
    w = generator.latents(range(6), truncation=0.9)
    expected = build_catalog(generator, w, n_clusters=6, n_init=2, seed=4, batch_size=3, regions=FFHQ_REGIONS)
    assert torch.equal(loaded.centroids, expected.centroids) and loaded.layer == expected.layer
    assert torch.equal(loaded.contributions, expected.contributions)
    assert loaded.parts == expected.parts and loaded.provenance["overlaps"] == expected.provenance["overlaps"]
    assert loaded.provenance["seeds"] == "0-5" and loaded.provenance["truncation"] == 0.9


def test_catalog_build_passes_every_option_on(tmp_path):
    out = tmp_path / "folder" / "c.safetensors"
    options = [
        "--layer",
        "convs.3",
        "--run",
        "0",
        "--features",
        "squared",
        "--contribution-images",
        "2",
        "--boxes",
        "none",
    ]
    text = run(*BUILD, "--out", out, *options)
    loaded = Catalog.load(out)
    assert (loaded.layer, loaded.features, loaded.parts) == ("torgbs.1", "squared", {})  # convs.3 reads this tensor too
    assert loaded.provenance["run"] == 0 and loaded.provenance["contribution_images"] == 2
    assert text.endswith(f"{out}: K = 6, parts: none\n")


def test_catalog_show_prints_and_draws_the_catalog(catalog, tmp_path):
    text = run("catalog", "show", catalog)
    assert "toy:sg2, layer" in text and "K = 6, 11 sites" in text and "parts: eyes [0, 3], nose [1]" in text
    assert "seeds of the images: 0-5" in text and "torch: " in text
    run("catalog", "show", catalog, *NETWORK, "--outdir", tmp_path / "figures", "--seeds", "0")
    named = {name: Image.open(tmp_path / "figures" / name) for name in ("clusters.png", "contributions.png")}
    Catalog.load(catalog).annotate({}).save(catalog)
    run("catalog", "show", catalog, *NETWORK, "--outdir", tmp_path / "unnamed", "--seeds", "0")
    # One row per cluster instead of one row per part
    assert Image.open(tmp_path / "unnamed" / "contributions.png").height > named["contributions.png"].height


def test_catalog_show_prints_lists_as_text(catalog):
    loaded = Catalog.load(catalog)
    overlaps = [{"eyes": 0.25, "nose": 0.123456789}, {"eyes": 0.5, "nose": 0.0}]
    loaded.provenance |= {"objectives": [0.123456789, 1.0], "overlaps": overlaps}
    loaded.save(catalog)
    text = run("catalog", "show", catalog)
    assert "objectives of the restarts: 0.12346, 1\n" in text
    assert "by restart: eyes 0.25, nose 0.12346; eyes 0.5, nose 0\n" in text


def test_a_catalog_of_a_factorisation_is_built_and_drawn(tmp_path):
    out, expected = tmp_path / "nmf.safetensors", shared("sg2").latents(range(3), truncation=0.7)
    options = ["--method", "nmf", "--clusters", "5", "--seeds", "0-2", "--out", out]
    run("catalog", "build", *NETWORK, *options, "--boxes", "none")
    catalog = build_catalog(shared("sg2"), expected, n_clusters=5, method="nmf")
    assert Catalog.load(out).method == "nmf" and torch.equal(Catalog.load(out).centroids, catalog.centroids)
    text = run("catalog", "show", out, *NETWORK, "--outdir", tmp_path / "figures", "--seeds", "0,1")
    assert "clusters.png, contributions.png and memberships.png are in" in text and "method: nmf" in text
    assert Image.open(tmp_path / "figures" / "memberships.png").width > 6 * 128  # the image and five maps


def test_catalog_annotate_replaces_the_names(catalog):
    text = run("catalog", "annotate", catalog, "--part", "eyes=5", "--part", "hair=1,2")
    assert Catalog.load(catalog).parts == {"eyes": [5], "hair": [1, 2]} and text == "eyes [5], hair [1, 2]\n"
    run("catalog", "annotate", catalog, "--boxes", "ffhq", "--part", "hair=0")
    expected = Catalog.load(catalog).annotate({**FFHQ_REGIONS, "hair": [0]}).parts
    assert Catalog.load(catalog).parts == expected and expected["hair"] == [0]


def test_edit_writes_the_images_of_the_same_edits_in_python(catalog, tmp_path):
    out = tmp_path / "out"
    text = run(
        *["edit", "--catalog", catalog, "--seeds", "1,3-4", "--references", "7", "--parts", "eyes,nose", *NETWORK],
        *["--epsilon", "0.5,2", "--rho", "0.05", "--strength", "0.75", "--trunc", "0.8", "--batch-size", "5"],
        *["--outdir", out, "--rgb"],
    )
    assert text.endswith(f"12 edits and manifest.jsonl are in {out}/\n`stylefast gallery {out}` shows them\n")
    lines = [strict(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    order = [Edit(t, 7, p, Sequential(e, 0.05), 0.75) for t in (1, 3, 4) for p in ("eyes", "nose") for e in (0.5, 2.0)]
    names = [f"seed{edit.target:04}_{edit.part}_seed0007_{edit.label}.png" for edit in order]
    assert [line["file"] for line in lines] == names and names[1].startswith("seed0001_eyes_seed0007_sequential_2-")
    assert {path.name for path in out.iterdir()} == {"manifest.jsonl", "originals", *(line["file"] for line in lines)}
    originals = {str(path.relative_to(out / "originals")) for path in out.glob("originals/*/*.png")}
    assert originals == {*(f"targets/seed{seed:04}.png" for seed in (1, 3, 4)), "references/seed0007.png"}
    generator = shared("sg2")
    targets, references = (SeedLatents(generator, seeds, truncation=0.8) for seeds in ([1, 3, 4], [7]))
    queries = [Sequential(0.5, 0.05), Sequential(2.0, 0.05)]
    editor = StyleEditor(generator, Catalog.load(catalog), rgb=True)
    batches = editor.edit(
        targets, references, ["eyes", "nose"], queries=queries, strength=0.75, measure=True, batch_size=5
    )
    images, ratios = zip(
        *((image, x) for b in batches for image, x in zip(b.images, b.locality.ratio, strict=True)), strict=True
    )
    for line, image, ratio in zip(lines, images, ratios, strict=True):
        pixels = torch.from_numpy(np.array(Image.open(out / line["file"]))).permute(2, 0, 1)
        assert (pixels - image * 255).abs().max() < 0.51
        if line["locality"]["delta_e_inside"] > 0.01:  # otherwise the edit moves nothing, and the ratio is of roundings
            assert line["locality"]["ratio"] == pytest.approx(float(ratio), rel=1e-4)
        assert line["strength"] == 0.75 and line["query"]["rho"] == 0.05
        assert line["truncation"] == 0.8 and line["rgb"] is True and line["network"] == "toy:sg2"
    assert sum(line["locality"]["delta_e_inside"] > 0.01 for line in lines) >= 6


@pytest.mark.parametrize("query", ["simultaneous", "softmax"])
def test_edit_takes_another_query_and_format(catalog, tmp_path, query):
    base = ["edit", "--catalog", catalog, "--seeds", "1", "--references", "7", "--parts", "eyes", *NETWORK]
    text = run(*base, "--outdir", tmp_path / "out", "--query", query, "--format", "webp", "--no-measure")
    assert f"1 edit and manifest.jsonl are in {tmp_path / 'out'}/\n" in text and text.endswith("shows it\n")
    (line,) = (strict(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines())
    assert line["query"]["kind"] == query and line["locality"] is None and line["rgb"] is False
    assert Image.open(tmp_path / "out" / line["file"]).format == "WEBP"


def test_edit_by_shards_keeps_existing_images(catalog, tmp_path):
    base = ["edit", "--catalog", catalog, "--seeds", "1-3", "--references", "7,8", "--parts", "eyes", *NETWORK]
    base += ["--no-measure", "--batch-size", "2"]
    single, sharded = tmp_path / "whole", tmp_path / "parts"
    assert f"6 edits and manifest.jsonl are in {single}/\n" in run(*base, "--outdir", single)
    text = run(*base, "--outdir", sharded, "--shard", "2/3")
    assert f"2 edits of shard 2/3 are in {sharded}/\n" in text and "the same command without --shard" in text
    text = run(*base, "--outdir", sharded)
    assert f"6 edits (2 were there) and manifest.jsonl are in {sharded}/\n" in text
    contents = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")} for folder in (sharded, single)
    ]
    assert contents[0] == contents[1] and len(contents[0]) == 6 + 1 + (3 + 1) + (2 + 1)


def test_edit_takes_a_file_of_pairs_and_a_file_of_latents(catalog, tmp_path):
    (tmp_path / "pairs.csv").write_text("target,reference,part\n1,faces-0001,eyes\n9,0,ear\n3,0,nose\n")
    np.save(tmp_path / "faces.npy", shared("sg2").latents([7, 8]).numpy())
    command = ["edit", "--catalog", catalog, "--pairs", tmp_path / "pairs.csv", "--references", tmp_path / "faces.npy"]
    result = CliRunner().invoke(
        cli.app, list(map(str, [*command, *NETWORK, "--outdir", tmp_path / "out", "--skip-bad"]))
    )
    assert result.exit_code == 0 and f"2 edits and manifest.jsonl are in {tmp_path / 'out'}/" in result.output
    assert (
        "skipped 1 bad line of" in result.stderr
        and "line 3: part must be one of 'eyes', 'nose', got 'ear'" in result.stderr
    )
    lines = [strict(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    named = [(line["target"], line["reference"], line["part"]) for line in lines]
    assert named == [("seed0001", "faces-0001", "eyes"), ("seed0003", "faces-0000", "nose")]
    for line in lines:
        assert line["locality"]["ratio"] is not None


def test_a_build_with_a_workdir_gives_the_same_catalog(built, tmp_path):
    for dtype, is_equal in (("float32", True), ("bfloat16", False)):
        options = ["--trunc", "0.9", "--seed", "4", "--workdir", tmp_path / dtype, "--dtype", dtype]
        for _ in range(2):  # the second build reads the workdir
            run(*BUILD, "--out", tmp_path / "c.safetensors", *options)
            catalog, expected = Catalog.load(tmp_path / "c.safetensors"), Catalog.load(built)
            assert torch.allclose(catalog.centroids, expected.centroids, atol=1e-6) == is_equal
            torch.testing.assert_close(catalog.centroids, expected.centroids, rtol=0, atol=0.1)
        assert sorted(path.name[:4] for path in (tmp_path / dtype).iterdir()) == ["acti", "cont", "kmea"]


def test_an_interruption_says_how_to_resume(catalog, tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    base = ["edit", "--catalog", catalog, "--seeds", "1-3", "--references", "7", "--parts", "eyes", *NETWORK]
    monkeypatch.setattr(ImageWriter, "_write", interrupt)
    result = CliRunner().invoke(cli.app, [str(argument) for argument in [*base, "--outdir", tmp_path / "out"]])
    assert result.exit_code == 130
    assert f"interrupted: {tmp_path / 'out'}/ has 0 of 3 edits; the same command makes the rest" in result.stderr
    monkeypatch.setattr(Catalog, "build", interrupt)
    for options, hint in (([], "without --workdir nothing"), (["--workdir", "w"], "the same command resumes from w/")):
        result = CliRunner().invoke(cli.app, [*BUILD, "--out", "x.safetensors", *options])
        assert result.exit_code == 130 and f"interrupted: {hint}" in result.stderr


def test_info_prints_the_table_of_ops_and_backends():
    text = run("info")
    assert __version__ in text and torch.__version__ in text
    header = next(line for line in text.splitlines() if line.split() == list(BACKENDS))
    for op in (*OPS, *SOFT, *STEPS, *LAYERS):
        (row,) = (line for line in text.splitlines() if line.split()[:1] == [op.name])
        marks = {name: row[header.index(name) :][: len(name)].strip() for name in BACKENDS}
        assert {name for name, mark in marks.items() if mark} == {*op.backends}
        assert set(marks.values()) <= {"x", "-", ""} and marks["reference"] == "x"


HUGE = """
import re, sys, torch
from stylefast import cli
sys.argv = ["stylefast", "--help"]
try:
    cli.main()
except SystemExit:
    x = torch.empty(200 << 20, dtype=torch.uint8)
    for mapping in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read())[1:]:
        begin, end = (int(part, 16) for part in mapping.split()[0].split("-"))
        if begin <= x.data_ptr() + (100 << 20) < end:
            print("flags", *re.search("VmFlags: (.*)", mapping)[1].split())
"""


def test_commands_compute_on_huge_pages():
    """Memory has the flag "hg" if the system has huge pages."""
    is_supported = Path("/sys/kernel/mm/transparent_hugepage").exists()
    clean = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    process = subprocess.run([sys.executable, "-c", HUGE], env=clean, check=True, capture_output=True, text=True)
    flags = process.stdout.splitlines()[-1].split()
    assert flags[:2] == ["flags", "rd"] and ("hg" in flags) == is_supported


def test_users_can_disable_huge_pages(monkeypatch):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    monkeypatch.setattr(sys, "argv", ["stylefast", "--version"])
    with pytest.raises(SystemExit):
        cli.main()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
