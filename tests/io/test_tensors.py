# SPDX-License-Identifier: Apache-2.0
"""Own safetensors files: the checksum covers all, and headers and tensors of every format are checked."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import write
from networks import shared
from originals import Original
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from stylefast import Catalog, SphericalKMeans, generators
from stylefast.catalog import BuildOptions, Clustering
from stylefast.editing import StoredLatents
from stylefast.generators.convert import FORMAT as NETWORK
from stylefast.generators.convert import convert
from stylefast.io.schema import TensorSpec, check_tensor_table, decode
from stylefast.io.tensors import read_tensors, write_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3), "c": torch.ones(2, dtype=torch.bfloat16)}


def metadata(path: Path) -> dict[str, str]:
    return safe_open(path, "pt").metadata()


def test_files_give_back_tensors_and_header(tmp_path: Path):
    header = {"x": [1, 2.5, -0.0, 1e-300, None, True, "ü\ud800"], "y": {"z": {}}, "infinite": float("inf")}
    write_tensors(tmp_path / "a", "kind-1", TENSORS, provenance={"p": (1, 2)}, **header)
    tensors, read = read_tensors(tmp_path / "a", "kind-1", provenance={"p": [1, 2]})
    assert read == header and list(tensors) == list(TENSORS)
    assert all(torch.equal(tensors[name], x) and tensors[name].dtype == x.dtype for name, x in TENSORS.items())


@pytest.mark.parametrize(
    "change", ["kind", "entry", "order of entries", "name", "shape", "dtype", "value", "swap", "of"]
)
def test_every_change_of_a_file_is_found(change: str, tmp_path: Path):
    path, kind = tmp_path / "a", "kind-1"
    write_tensors(path, kind, {**TENSORS, "d": TENSORS["a"] + 1}, provenance={"p": 1}, x=1, y=2)
    tensors, header = load_file(path), json.loads(metadata(path)[kind])
    if change == "kind":
        kind = "kind-2"
    elif change == "entry":
        header["x"] = 3
    elif change == "order of entries":
        header = dict(reversed(header.items()))
    elif change == "name":
        tensors["e"] = tensors.pop("d")
    elif change == "shape":
        tensors["a"] = tensors["a"].view(3, 2)
    elif change == "dtype":
        tensors["a"] = tensors["a"].view(torch.int32)
    elif change == "value":
        tensors["b"] = tensors["b"] + 1
    elif change == "swap":
        tensors["a"], tensors["d"] = tensors["d"], tensors["a"]
    else:
        header["of"] = {"p": 2}
    save_file(tensors, path, {kind: json.dumps(header)})
    with pytest.raises(ValueError, match="^.* cannot be used: its contents do not match its checksum"):
        read_tensors(path, kind)


@pytest.mark.parametrize(
    "checksums", [{}, {"checksum": 1, "crc32": 1}, {"cHecksum": 1}, {"crc32": 1}, {"checksum": None}]
)
def test_a_damaged_or_missing_checksum_is_refused(checksums: dict[str, Any], tmp_path: Path):
    save_file(TENSORS, tmp_path / "a", {"kind-1": json.dumps({**checksums, "of": None})})
    with pytest.raises(
        ValueError, match="cannot be used: its (header is not one of this format|contents do not match)"
    ):
        read_tensors(tmp_path / "a", "kind-1")


def test_errors_quote_little_of_a_damaged_header(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    header = json.dumps({"a": {"dtype": "F" + "9" * 5000, "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    for read in (lambda: read_tensors(path, "kind-1"), lambda: StoredLatents.load(path, shared("sg2"))):
        with pytest.raises(ValueError, match=re.escape(f"{path} cannot be used: ") + ".*invalid JSON") as error:
            read()
        assert len(str(error.value)) < len(str(path)) + 350


def test_errors_quote_little_of_another_provenance(tmp_path: Path):
    path = tmp_path / "a"
    write_tensors(path, "kind-1", TENSORS, provenance={"p": "1" * 5000})
    with pytest.raises(ValueError, match=r"another provenance: its p is '1+\.\.\., not 2$") as error:
        read_tensors(path, "kind-1", provenance={"p": 2})
    assert len(str(error.value)) < len(str(path)) + 350


@pytest.mark.parametrize(
    "name", ["mapping.fc1.weight", "synthesis.b4.conv1.weight", "synthesis.b16.torgb.affine.weight"]
)
def test_a_network_that_cannot_draw_is_refused_by_name(name: str, tmp_path: Path):
    source, path = tmp_path / "a.pkl", tmp_path / "a.safetensors"
    write(source, Original("nvlabs"))
    convert(source, path)
    tensors, header = read_tensors(path, NETWORK)
    write_tensors(path, NETWORK, {**tensors, name: tensors[name][..., :-1]}, **header)
    with pytest.raises(ValueError, match=re.escape(f"{path} cannot be used: ")):
        generators.load(path)


def test_a_header_that_is_too_long_is_not_written(tmp_path: Path):
    with pytest.raises(ValueError, match="the header of a file must have at most 8388608 bytes"):
        write_tensors(tmp_path / "a", "kind-1", TENSORS, x="a" * (1 << 23))
    assert not list(tmp_path.iterdir())


NESTED = {"a": 1}
for _ in range(40):
    NESTED = {"a": NESTED}


@pytest.mark.parametrize(
    "hint, value, message",
    [
        (int, True, "x must be int, got True"),
        (int, 1.0, "x must be int, got 1.0"),
        (float, "1", "x must be float, got '1'"),
        (float, True, "x must be float, got True"),
        (float | None, [], r"x must be float, got \[\]"),
        (bool, 1, "x must be bool, got 1"),
        (list[int], [1, None], r"x\[1\] must be int, got None"),
        (dict[str, list[int]], {"a": [1], "b": [[2]]}, r"x\['b'\]\[0\] must be int"),
        (tuple[int, str], [1], r"x must be tuple\[int, str\], got \[1\]"),
        (Any, NESTED, "x must be nested at most 32 levels deep, got more"),
    ],
)
def test_values_of_other_types_are_refused(hint: Any, value: Any, message: str):
    with pytest.raises(ValueError, match=f"^{message}"):
        decode(hint, value, "x")


def test_values_are_decoded_as_declared():
    assert decode(float | None, None, "x") is None and decode(float | None, 3, "x") == 3
    assert decode(dict[str, tuple[int, str]], {"a": [1, "b"]}, "x") == {"a": (1, "b")}
    assert decode(Any, {"a": [1, {"b": None}]}, "x") == {"a": [1, {"b": None}]}


def test_tensors_are_compared_with_their_declarations():
    specs = {"a": TensorSpec("K C"), "b": TensorSpec("K", (torch.int64,))}
    good: dict[str, Tensor] = {"a": torch.ones(2, 3), "b": torch.ones(2).long()}
    assert check_tensor_table(specs, good, C=3) == {"K": 2, "C": 3}
    for tensors, message in (
        ({"a": good["a"]}, "tensor b is missing"),
        ({**good, "c": good["a"]}, "tensor 'c' is unknown"),
        ({**good, "b": good["b"][:1]}, r"b must have shape \[K\] with K = 2, got \(1,\)"),
        ({**good, "a": good["a"].half()}, "a must be float32, got torch.float16"),
        ({**good, "a": good["a"] / 0}, r"a must be finite, got inf at index \(0, 0\)"),
    ):
        with pytest.raises(ValueError, match=message):
            check_tensor_table(specs, tensors)


@pytest.mark.parametrize("clamp", ["256", [1], True, {}])
def test_networks_with_other_headers_are_refused(clamp: Any, tmp_path: Path):
    source, path = tmp_path / "a.pt", tmp_path / "a.safetensors"
    write(source, Original("rosinality"))
    convert(source, path)
    tensors, header = read_tensors(path, NETWORK)
    write_tensors(path, NETWORK, tensors, **{**header, "clamp": clamp})
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: clamp must be float"):
        generators.load(path)


def build(workdir: Path) -> Catalog:
    options = BuildOptions(workdir=workdir, shard_images=2)
    clustering = Clustering(n_clusters=3, n_init=2, resolution=8)
    return Catalog.build(shared("sg2"), shared("sg2").latents([1, 2, 3]), clustering, options, progress=False)


CHANGES: list[tuple[str, str, Any, str]] = [
    (
        "activations-00000-of-00002",
        "activations",
        lambda x: x[:, :1],
        r"activations must have shape \[n, C, h, w\] with",
    ),
    ("activations-00001-of-00002", "activations", lambda x: x.half(), "activations must be float32, got torch.float16"),
    ("contributions-00000-of-00002", "occupancy", lambda x: x.float(), "occupancy must be int64, got torch.float32"),
    ("contributions-00000-of-00002", "contributions", lambda x: x[:1], r"contributions must have shape \[K, S\]"),
    ("contributions-00001-of-00002", "contributions", lambda x: x / 0, "contributions must be finite"),
    ("contributions-00001-of-00002", "contributions", None, "tensor contributions is missing"),
    ("kmeans", "centroids.1", lambda x: x / 0, "centroids.1 must be finite"),
    ("kmeans", "counts.0", lambda x: x.float(), "counts.0 must be int64"),
    (
        "kmeans",
        "sums.0",
        lambda x: x[:1],
        r"sums.0 must have shape|counts.0 must have shape|centroids.1 must have shape",
    ),
    ("kmeans", "counts.1", None, "tensor counts.1 is missing"),
]


@pytest.mark.parametrize("file, name, change, message", CHANGES)
def test_states_of_builds_with_other_tensors_are_refused(
    file: str, name: str, change: Any, message: str, tmp_path: Path
):
    workdir = tmp_path / "workdir"
    expected = build(workdir)
    path = workdir / f"{file}.safetensors"
    (kind,) = metadata(path)
    provenance = json.loads(metadata(path)[kind])["of"]
    tensors, header = read_tensors(path, kind)
    intact = path.read_bytes()
    tensors |= {name: change(tensors[name])} if change else {}
    if change is None:
        del tensors[name]
    write_tensors(path, kind, tensors, provenance=provenance, **header)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: ({message})"):
        build(workdir)
    path.write_bytes(intact)
    assert torch.equal(build(workdir).contributions, expected.contributions)
    shutil.rmtree(workdir)


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"going": [7]}, r"going must be different restarts of 2, got \[7\]"),
        ({"going": "a"}, "header.going must be list"),
        ({"runs": 1}, "header.runs must be list"),
        ({"runs": [{"objective": 1}]}, r"header.runs\[0\] lacks n_iter"),
        ({"other": 1}, "header has the unknown entry 'other'"),
    ],
)
def test_checkpoints_with_other_headers_are_refused(entries: dict[str, Any], message: str, tmp_path: Path):
    path, x = tmp_path / "a", torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    SphericalKMeans(3, n_init=2).fit(x, checkpoint=path, progress=False)
    (kind,) = metadata(path)
    provenance = json.loads(metadata(path)[kind])["of"]
    tensors, header = read_tensors(path, kind)
    write_tensors(path, kind, tensors, provenance=provenance, **header | entries)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: {message}"):
        SphericalKMeans(3, n_init=2).fit(x, checkpoint=path, progress=False)
