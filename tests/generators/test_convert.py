# SPDX-License-Identifier: Apache-2.0
"""Files of other code bases become files of ours that give the same images, and nothing in them is run."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from checkpoint_files import their_modules, write, write_nvlabs
from commands import run
from miniatures.lucid import lucidrains
from originals import FAMILIES, Original
from safetensors import safe_open

from stylefast.catalog import Catalog
from stylefast.generators import Generator, load, wrap
from stylefast.generators.convert import convert

FORMATS = {"nvlabs": "NVlabs stylegan2-ada-pytorch", "rosinality": "rosinality stylegan2-pytorch"}


def same(generator: Generator, original: Original) -> None:
    w = generator.latents([3, 4], truncation=0.5)
    expected = (original.image(w.double()) * 0.5 + 0.5).clamp(0, 1)
    torch.testing.assert_close(generator.synthesize(generator.styles(w), w).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_files_of_each_code_base(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    original = Original(family, clamp=0.9 if family in ("nvlabs", "hammer") else None)
    source, target = tmp_path / "their.pt", tmp_path / "ours.safetensors"
    write(source, original)
    header = convert(source, target)
    same(load(target), original)
    assert header["format"] == FORMATS.get(family, family.capitalize() if family == "hammer" else family)
    assert header["architecture"] == "skip" and header["resolution"] == 16 and header["noise"] is True
    assert header["file"] == "their.pt" and header["clamp"] == original.clamp
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ours.safetensors", "their.pt"]
    first = target.read_bytes()
    convert(source, target)
    assert target.read_bytes() == first


@pytest.mark.parametrize("protocol", range(2, 6))
def test_every_protocol_of_pickle(protocol: int, tmp_path: Path):
    original = Original("nvlabs")
    write_nvlabs(tmp_path / "a.pkl", original, protocol=protocol)
    convert(tmp_path / "a.pkl", tmp_path / "a.safetensors")
    same(load(tmp_path / "a.safetensors"), original)


def test_a_network_that_was_tuned_and_saved_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    original = Original("nvlabs", clamp=0.9)
    path, ours = tmp_path / "model_x_ann.pt", tmp_path / "ours.safetensors"
    write_nvlabs(path, original, tuned=True)
    assert convert(path, ours)["format"] == FORMATS["nvlabs"]
    same(load(ours), original)
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    (pickled,) = (name for name in entries if name.endswith("data.pkl"))
    first = next(name for name in entries if name.endswith("data/0"))
    for change, method, message in (
        ({first: entries[first][:-4]}, zipfile.ZIP_STORED, "ends at element"),
        ({first: entries[first] + b"xyz"}, zipfile.ZIP_STORED, "must be a multiple of element size"),
        ({}, zipfile.ZIP_DEFLATED, "is compressed, which torch does not do"),
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
            convert(path, ours)
    assert {file.name for file in tmp_path.iterdir()} == {path.name, ours.name}


def test_what_the_file_says_is_kept(tmp_path: Path):
    write(tmp_path / "a.pkl", Original("nvlabs"))
    header = convert(tmp_path / "a.pkl", tmp_path / "a.safetensors")
    assert header["network"] == "G_ema" and header["training_set_kwargs"] == {"path": "a.zip", "xflip": True}
    assert header["kwargs"] == {"z_dim": 7, "synthesis_kwargs": {"channel_max": 8}}
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        (stored,) = (json.loads(text) for text in file.metadata().values())
    assert {name: stored[name] for name in header} == header


@pytest.mark.parametrize("kind", ["decoder", "plain", "old format", "half", "rows"])
def test_where_rosinality_networks_lie(kind: str, tmp_path: Path):
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
        same(generator, original)
    known = (
        original.mean
        if kind in ("decoder", "rows")
        else generator.network.mapping(torch.randn(20000, 5, generator=torch.Generator().manual_seed(0))).mean(0)
    )
    torch.testing.assert_close(generator.w_mean.expand(6, 5), known.expand(6, 5), rtol=0, atol=0.05)


@pytest.mark.parametrize("rate", [0.1, 0.02])
def test_files_of_lucidrains(rate: float, tmp_path: Path):
    path, ours = tmp_path / "model_0.pt", tmp_path / "ours.safetensors"
    torch.manual_seed(0)
    module = lucidrains(rate).eval()
    saved(path, {"GAN": module.state_dict(), "version": "1.9.0"})
    if rate != 0.1:
        (tmp_path / ".config.json").write_text(json.dumps({"image_size": 16, "lr_mlp": rate}))
    header = convert(path, ours)
    assert header["format"] == "lucidrains stylegan2_pytorch" and header["network"] == "GAN"
    assert (header["architecture"], header["resolution"], header["noise"]) == ("skip", 16, True)
    generator, theirs = load(ours), wrap(module)
    assert generator.name == "ours"
    assert [(site.name, site.kind) for site in generator.sites] == [(site.name, site.kind) for site in theirs.sites]
    w = generator.latents([3, 4, 5])
    torch.testing.assert_close(w, theirs.latents([3, 4, 5]), rtol=0, atol=1e-6)
    styles = generator.styles(w)
    torch.testing.assert_close(styles, theirs.styles(w), rtol=0, atol=1e-6)
    image, expected = generator.synthesize(styles, w), theirs.synthesize(styles, w)
    assert expected.std() > 0.1
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)
    state = module.state_dict()
    for name, value, message in (
        ("GE.attns.1.weight", torch.ones(2), "it has attention or no constant"),
        ("GE.blocks.0.to_rgb.upsample.1.f", torch.ones(3), r"must have shape nothing in this network, got \[3\]"),
        ("GE.blocks.2.to_rgb.conv.weight", torch.ones(4, 6, 1, 1), r"shape \[3, 6, 1, 1\] in this network, got \[4, 6"),
    ):
        saved(path, {"GAN": {**state, name: value}})
        with pytest.raises(ValueError, match=f"cannot be used: .*{message}"):
            convert(path, ours)
    saved(path, {"GAN": {name: x for name, x in state.items() if not name.startswith("SE.")}})
    with pytest.raises(ValueError, match="tensor SE.net.0.weight is missing"):
        convert(path, ours)


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
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


def saved(path: Path, what: object) -> Path:
    torch.save(what, path)
    return path


def test_files_that_are_refused(tmp_path: Path):
    path, ours = tmp_path / "a.pt", tmp_path / "ours.safetensors"

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: {message}"):
            convert(path, ours)
        assert not ours.exists()

    for checkpoint, message in (
        ({"GAN": {"GE.to_initial_block.weight": torch.ones(2)}}, "it has attention or no constant"),
        (
            {"state_dict": {"encoder.a": torch.ones(2), "encoder.b": torch.ones(2)}},
            "it holds no .* with encoder.a, encoder.b",
        ),
        ({"g_ema": {}}, "it holds no StyleGAN2 that is known"),
        ([1, 2], "it holds list, not a checkpoint"),
        (torch.ones(3), "it holds Tensor, not a checkpoint"),
    ):
        saved(path, checkpoint)
        refused(message)
    for family, name in (("rosinality", "convs.1.activate.bias"), ("genforce", "synthesis.layer1.style.bias")):
        original = Original(family)
        del original.state[name]
        write(path, original)
        refused(f"it lacks '{name}'")
    original = Original("genforce")
    original.state["mapping.label_weight"] = torch.ones(3, 7)
    write(path, original)
    refused("it is conditional on a label")
    original = Original("hammer")
    original.state["mapping.embedding.weight"] = torch.ones(3, 7)
    write(path, original)
    refused("it is conditional on a label")
    original = Original("rosinality")
    original.state |= {f"again{i}": torch.zeros(1).expand(1 << 20) for i in range(9)}
    write(path, original)
    refused("its tensors have 377[0-9]* bytes, more than the file")
    original = Original("rosinality")
    original.state["to_rgb1.bias"] = torch.ones(1, 4, 1, 1)
    write(path, original)
    refused(r"tensor synthesis.b4.torgb.bias must have shape \[3\] in this network, got \[4\]")


def test_snapshots_that_are_refused(tmp_path: Path):
    path = tmp_path / "a.pkl"

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: {message}"):
            convert(path, tmp_path / "ours.safetensors")

    def snapshot(**entries: object) -> None:
        path.write_bytes(pickle.dumps(entries))

    snapshot(G=None)
    refused("it lacks 'G_ema'")
    snapshot(G_ema={"a": 1})
    refused("the network must be a module of its own, got dict")
    path.write_bytes(pickle.dumps([1]))
    refused("a dictionary was expected, got list")
    with their_modules() as (Module, _):
        child = Module("Linear")
        shared = Module("Generator", _modules={"a": child, "b": child})
        other = Module("Generator", _modules={"synthesis": Module("S", _parameters={"w": torch.ones(2)})})
        for tree, message in (
            (shared, "b. must be a module of its own"),
            (other, "it holds no StyleGAN2; its tensors begin with synthesis.w"),
        ):
            snapshot(G_ema=tree)
            refused(message)
    original, shared = Original("nvlabs"), torch.zeros(1 << 10)
    original.state |= {f"again{i}.w_avg": shared for i in range(99)}
    write(path, original)
    refused("its tensors have [0-9]* bytes, more than the file")
    original = Original("nvlabs")
    del original.options["synthesis.b8.torgb.weight_gain"]
    write(path, original)
    refused("it lacks 'synthesis.b8.torgb.weight_gain'")
    original = Original("nvlabs")
    original.options["synthesis.b8.conv0.activation"] = "relu"
    write(path, original)
    refused("it has layers clamped at {None} and activations {'.*relu'.*}: one and lrelu are known")
    with pytest.raises(ValueError, match=r"target must be a \.safetensors file, got .*ours\.pt"):
        convert(path, tmp_path / "ours.pt")
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "absent.pkl", tmp_path / "ours.safetensors")


def test_converted_files_that_are_damaged(tmp_path: Path):
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
