# SPDX-License-Identifier: Apache-2.0
"""The demo with the toy generator."""

import math

import pytest
import torch
from commands import run, strict
from networks import shared
from PIL import Image

from stylefast import generators
from stylefast.catalog import Catalog
from stylefast.cli import demo
from stylefast.editing import Edit, EditBatch, Sequential
from stylefast.locality import Locality

QUERIES = ["sequential_1", "sequential", "simultaneous", "random"]


def check_demo(out, summary, targets, references):
    assert strict((out / "summary.json").read_text()) == summary
    assert list(summary["locality"]) == ["eyes", "nose", "mouth"]
    lines = [strict(line) for line in (out / "edits" / "manifest.jsonl").read_text().splitlines()]
    assert len(lines) == 3 * 4 * len(targets) * len(references)
    for part, queries in summary["locality"].items():
        assert list(queries) == QUERIES
        for name, values in queries.items():
            kind, _, epsilon = name.partition("_")
            localities = [
                line["locality"]
                for line in lines
                if (line["part"], line["query"]["kind"]) == (part, kind)
                and (not epsilon or line["query"]["epsilon"] == float(epsilon))
                and (name != "sequential" or "share" in line["query"])
            ]
            assert list(values) == ["inside", "outside", "ratio"] and len(localities) == len(targets) * len(references)
            for side in ("inside", "outside"):
                differences = [line[f"delta_e_{side}"] for line in localities if line[f"delta_e_{side}"] is not None]
                assert values[side] == pytest.approx(sum(differences) / len(differences))
            assert values["outside"] == 0 or values["ratio"] == pytest.approx(values["inside"] / values["outside"])
    stages = [
        "load",
        "catalog",
        "edits",
        "figures",
        *(f"catalog_{s}" for s in ("generator", "clustering", "contribution")),
    ]
    assert sorted(summary["seconds"]) == sorted(stages) and all(s >= 0 for s in summary["seconds"].values())
    assert summary["targets"] == list(targets) and summary["references"] == list(references)
    for name in ("clusters.png", "contributions.png", "grid.jpg", "epsilon.jpg", "heat.png"):
        Image.open(out / name).load()
    edited = {line["file"] for line in lines}
    assert {path.name for path in (out / "edits").iterdir()} == {"manifest.jsonl", *edited}
    assert Catalog.load(out / "catalog.safetensors", shared("sg2")).parts == summary["parts"]


def test_a_demo_with_few_images_writes_all_files(tmp_path):
    summary = demo.run(
        tmp_path, network="toy:sg2", images=8, contribution_images=4, targets=(1, 2), references=(3,), batch_size=5
    )
    check_demo(tmp_path, summary, (1, 2), (3,))
    assert summary["network"] == "toy:sg2"
    lines = demo.table(summary).splitlines()
    assert lines[0].split() == ["part", *QUERIES] and [line.split()[0] for line in lines[1:]] == [
        "eyes",
        "nose",
        "mouth",
    ]


def test_the_demo_command_falls_back_to_the_toy(tmp_path, monkeypatch):
    load = generators.load

    def no_network(network):
        if network == "random-face":
            raise ConnectionError("random-face cannot be downloaded")
        return load(network)

    monkeypatch.setattr(generators, "load", no_network)
    few = {"images": 8, "contribution_images": 4, "references": (2,)}
    monkeypatch.setattr(demo.run, "__kwdefaults__", demo.run.__kwdefaults__ | few)
    text = run("demo", "--outdir", tmp_path / "out")
    assert "random-face cannot be downloaded" in text and "toy generator, without faces" in text
    check_demo(tmp_path / "out", strict((tmp_path / "out" / "summary.json").read_text()), (1004, 1011, 1027), (2,))


def test_the_summary_averages_only_measured_values():
    result, nan = demo.Result(1, 1), math.nan
    columns = torch.tensor([[4.0, 1.0], [nan, 3.0], [2.0, nan]], dtype=torch.float64).T
    for part, rows in (("eyes", slice(0, 3)), ("nose", slice(1, 2)), ("mouth", slice(2, 3))):
        inside, outside = (column[rows] for column in columns)
        measured = Locality(inside, inside, inside, outside, inside / outside)
        images = torch.zeros(len(inside), 3, 2, 2)
        edits = [Edit(0, 0, part, query) for query in [Sequential()] * len(inside)]
        result.add(EditBatch(edits, torch.zeros(1), images, images, torch.zeros(len(inside), 2, 2).bool(), measured))
    assert result.locality() == {
        "eyes": {"sequential": {"inside": 3.0, "outside": 2.0, "ratio": 1.5}},
        "nose": {"sequential": {"inside": None, "outside": 3.0, "ratio": None}},
        "mouth": {"sequential": {"inside": 2.0, "outside": None, "ratio": None}},
    }
    summary = {"locality": {"nose": {name: {"inside": None, "outside": 3.0, "ratio": None} for name in QUERIES}}}
    assert "- / 3.00 = -x" in demo.table(summary)
