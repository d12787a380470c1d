# SPDX-License-Identifier: Apache-2.0
"""Converted files of other code bases give the same images, and no code in them is executed."""

from __future__ import annotations

import json
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from checkpoint_files import write, write_nvlabs
from commands import run
from miniatures.lucid import lucidrains
from originals import FAMILIES, Original
from safetensors import safe_open

from stylefast.catalog import Catalog
from stylefast.generators import Generator, load, wrap
from stylefast.generators.convert import convert
from stylefast.io.latents import Shapes, read_latents

FORMER = Path(__file__).parents[1] / "data" / "former"
FORMATS = {"nvlabs": "NVlabs stylegan2-ada-pytorch", "rosinality": "rosinality stylegan2-pytorch"}


def assert_images(generator: Generator, original: Original) -> None:
    w = generator.latents([3, 4], truncation=0.5)
    expected = (original.image(w.double()) * 0.5 + 0.5).clamp(0, 1)
    torch.testing.assert_close(generator.synthesize(generator.styles(w), w).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_converted_files_give_the_images_of_each_code_base(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    original = Original(family, clamp=0.9 if family in ("nvlabs", "hammer") else None)
    source, target = tmp_path / "source.pt", tmp_path / "target.safetensors"
    write(source, original)
    header = convert(source, target)
    assert_images(load(target), original)
    assert header["format"] == FORMATS.get(family, family.capitalize() if family == "hammer" else family)
    assert header["architecture"] == "skip" and header["resolution"] == 16 and header["noise"] is True
    assert header["file"] == "source.pt" and header["clamp"] == original.clamp
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source.pt", "target.safetensors"]
    first = target.read_bytes()
    convert(source, target)
    assert target.read_bytes() == first


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_of_2_to_1_images_are_converted(family: str, tmp_path: Path):
    original = Original(family, start=(4, 2))  # StyleGAN-Human
    write(tmp_path / "a.pt", original)
    header = convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert header["resolution"] == [16, 8]
    assert_images(load(tmp_path / "a.safetensors"), original)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_every_pickle_protocol_is_read(protocol: int, tmp_path: Path):
    original = Original("nvlabs")
    write_nvlabs(tmp_path / "a.pkl", original, protocol=protocol)
    convert(tmp_path / "a.pkl", tmp_path / "a.safetensors")
    assert_images(load(tmp_path / "a.safetensors"), original)


def test_a_pickled_module_is_read_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    original = Original("nvlabs", clamp=0.9)
    path, target = tmp_path / "model_x_ann.pt", tmp_path / "target.safetensors"
    write_nvlabs(path, original, tuned=True)
    assert convert(path, target)["format"] == FORMATS["nvlabs"]
    assert_images(load(target), original)
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    (pickled,) = (name for name in entries if name.endswith("data.pkl"))
    first = next(name for name in entries if name.endswith("data/0"))
    for change, method, message in (
        ({first: entries[first][:-4]}, zipfile.ZIP_STORED, "ends at element"),
        ({first: entries[first] + b"xyz"}, zipfile.ZIP_STORED, "must be a multiple of element size"),
        ({}, zipfile.ZIP_DEFLATED, "is compressed or encrypted, which torch does not do"),
        (
            {pickled: entries[pickled].replace(b"FloatStorage", b"FleetStorage")},
            zipfile.ZIP_STORED,
            "asks for torch.Fle",
        ),
        ({pickled: b"cos\nsystem\n."}, zipfile.ZIP_STORED, r"asks for os\.system"),
    ):
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in (entries | change).items():
                archive.writestr(name, data)
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: .*{message}"):
            convert(path, target)
    assert {file.name for file in tmp_path.iterdir()} == {path.name, target.name}


def test_the_options_of_a_snapshot_are_kept(tmp_path: Path):
    write(tmp_path / "a.pkl", Original("nvlabs"))
    header = convert(tmp_path / "a.pkl", tmp_path / "a.safetensors")
    assert header["network"] == "G_ema" and header["training_set_kwargs"] == {"path": "a.zip", "xflip": True}
    assert header["kwargs"] == {"z_dim": 7, "synthesis_kwargs": {"channel_max": 8}}
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        (stored,) = (json.loads(text) for text in file.metadata().values())
    assert {name: stored[name] for name in header} == header


@pytest.mark.parametrize("kind", ["decoder", "plain", "old format", "half", "rows"])
def test_rosinality_networks_are_found_in_checkpoints(kind: str, tmp_path: Path):
    original = Original("rosinality")
    checkpoint = OrderedDict(original.state)
    if kind == "decoder":
        state = {f"decoder.{name}": x for name, x in original.state.items()} | {"encoder.body.0.weight": torch.ones(3)}
        checkpoint = {"state_dict": state, "latent_avg": original.mean, "opts": {"dataset_type": "ffhq_encode"}}
    if kind == "half":
        checkpoint = {"g_ema": {name: x.half() for name, x in original.state.items()}}
    if kind == "rows":
        checkpoint = {"g_ema": original.state, "latent_avg": original.mean.repeat(6, 1)}
    torch.save(checkpoint, tmp_path / "a.pt", _use_new_zipfile_serialization=kind != "old format")
    convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    generator = load(tmp_path / "a.safetensors")
    if kind == "half":
        assert {x.dtype for x in generator.network.state_dict().values()} == {torch.float32}
    else:
        assert_images(generator, original)
    mean = (
        original.mean
        if kind in ("decoder", "rows")
        else generator.network.mapping(torch.randn(20000, 5, generator=torch.Generator().manual_seed(0))).mean(0)
    )
    torch.testing.assert_close(generator.w_mean.expand(6, 5), mean.expand(6, 5), rtol=0, atol=0.05)


@pytest.mark.parametrize("rate", [0.1, 0.02])
def test_lucidrains_files_give_the_images_of_the_module(rate: float, tmp_path: Path):
    path, target = tmp_path / "model_0.pt", tmp_path / "target.safetensors"
    torch.manual_seed(0)
    module = lucidrains(rate).eval()
    torch.save({"GAN": module.state_dict(), "version": "1.9.0"}, path)
    if rate != 0.1:
        (tmp_path / ".config.json").write_text(json.dumps({"image_size": 16, "lr_mlp": rate}))
    header = convert(path, target)
    assert header["format"] == "lucidrains stylegan2_pytorch" and header["network"] == "GAN"
    assert (header["architecture"], header["resolution"], header["noise"]) == ("skip", 16, True)
    generator, wrapped = load(target), wrap(module)
    assert generator.name == "target"
    assert [(site.name, site.kind) for site in generator.sites] == [(site.name, site.kind) for site in wrapped.sites]
    w = generator.latents([3, 4, 5])
    torch.testing.assert_close(w, wrapped.latents([3, 4, 5]), rtol=0, atol=1e-6)
    styles = generator.styles(w)
    torch.testing.assert_close(styles, wrapped.styles(w), rtol=0, atol=1e-6)
    image, expected = generator.synthesize(styles, w), wrapped.synthesize(styles, w)
    assert expected.std() > 0.1
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)
    state = module.state_dict()
    for name, value, message in (
        ("GE.attns.1.weight", torch.ones(2), "it has attention or no constant"),
        ("GE.blocks.0.to_rgb.upsample.1.f", torch.ones(3), r"does not fit this network: expected nothing, got \[3\]"),
        (
            "GE.initial_block",
            torch.ones(1, 12, 8, 4),
            r"tensor GE.initial_block must have 4 x 4 pixels, got \[1, 12, 8, 4\]",
        ),
        (
            "GE.blocks.2.to_rgb.conv.weight",
            torch.ones(4, 6, 1, 1),
            r"toRGB layers must write images with C = 1 .* got C = 3, 4",
        ),
    ):
        torch.save({"GAN": {**state, name: value}}, path)
        with pytest.raises(ValueError, match=f"cannot be used: .*{message}"):
            convert(path, target)
    torch.save({"GAN": {name: x for name, x in state.items() if not name.startswith("SE.")}}, path)
    with pytest.raises(ValueError, match="tensor SE.net.0.weight is missing"):
        convert(path, target)


def test_converted_networks_work_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    original = Original("nvlabs", classes=3)
    write(Path("a.pkl"), original)
    text = run("convert", "a.pkl", "model.safetensors", "--class", 2)
    assert "architecture: skip" in text and "class: 2" in text
    network = ["--network", "model.safetensors"]
    options = ["--resolution", 8, "--clusters", 4, "--restarts", 1, "--out", "c.safetensors"]
    run("catalog", "build", *network, "--seeds", "0-3", *options)
    run("catalog", "annotate", "c.safetensors", "--part", "eyes=0,1,2")
    edit = ["edit", "--catalog", "c.safetensors", *network, "--seeds", "4", "--references", "5", "--parts", "eyes"]
    run(*edit, "--outdir", "out")
    assert Catalog.load("c.safetensors").generator == "model"
    assert len(list(Path("out").glob("*.png"))) == 1


def test_a_network_of_the_former_version_loads():
    generator, catalog = load(FORMER / "network.safetensors"), Catalog.load(FORMER / "catalog.safetensors")
    assert generator.name == "network" and generator.fingerprint == catalog.fingerprint
    assert generator.sites == catalog.sites
    stored = read_latents(FORMER / "styles.safetensors", Shapes((4, 4), 20))[0]
    torch.testing.assert_close(generator.styles(stored["w"]), stored["styles"])


def test_damaged_converted_files_are_refused(tmp_path: Path):
    source, path = tmp_path / "a.pt", tmp_path / "model.safetensors"
    write(source, Original("rosinality"))
    convert(source, path)
    data = path.read_bytes()
    for damaged, message in ((data[:-1], "cannot be used"), (data[:-1] + b"\1", "checksum"), (b"", "cannot be used")):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"model\.safetensors.*{message}"):
            load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent.safetensors")
