# SPDX-License-Identifier: Apache-2.0
"""Small files that declare large contents are refused within seconds, and without the memory that they declare."""

from __future__ import annotations

import io
import json
import re
import resource
import signal
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from catalogs import built
from checkpoint_files import write
from networks import shared
from originals import Original
from pickles import STOP, Call, call, dumped, name, text

from stylefast import Catalog
from stylefast.catalog import read_clusters
from stylefast.editing import StoredLatents
from stylefast.generators import load
from stylefast.generators.convert import convert

MARK, EMPTY_DICT, SETITEM, DUP, TUPLE2 = b"(", b"}", b"s", b"2", b"\x86"


@pytest.fixture(autouse=True)
def little_memory_and_time() -> Iterator[None]:
    """Limit further memory to 1 GiB (on systems with /proc) and the time of a test to 20 seconds."""

    def fail(*_: object) -> None:
        raise AssertionError("the file was not refused within 20 seconds")

    shared("sg2")
    before, status = resource.getrlimit(resource.RLIMIT_AS), Path("/proc/self/statm")
    if status.exists():
        used = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), before[1]))
    former = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)
    resource.setrlimit(resource.RLIMIT_AS, before)


def nested(item: Any, levels: int = 30) -> Any:
    """Return lists of ten, nested; the elements of a list are one object."""
    value = [item]
    for _ in range(levels):
        value = [value] * 10
    return value


def npy(shape: tuple[int, ...], data: bytes = bytes(64), dtype: str = "<f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def tuple_key(set_key: bytes) -> bytes:
    """Return a pickle with a key of tuples in tuples, 100 levels deep; its hash would take 2**100 steps."""
    return EMPTY_DICT + text("a") + (DUP + TUPLE2) * 100 + set_key + STOP


def npz(path: Path, entries: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)


def old_torch(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def compressed(path: Path) -> None:
    torch.save({"w": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    npz(path, {entry: b"N0" * (1 << 24) if entry.endswith("data.pkl") else data for entry, data in entries.items()})


def sparse(path: Path, head: bytes, size: int) -> None:
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(size)


def safetensors_head(shape: list[int]) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * int(np.prod(shape))]}}).encode()
    return struct.pack("<Q", len(header)) + header


EXPANDED = torch.zeros(1).expand(1 << 34)
BOMBS: dict[str, tuple[Callable[[Path], object], str]] = {
    "expanded.pt": (lambda path: torch.save({"w": EXPANDED}, path), "takes 64 GB of memory, more than the limit"),
    "old_expanded.pt": (lambda path: old_torch({"w": EXPANDED}, path), "takes 64 GB of memory"),
    "by_name.pt": (
        lambda path: torch.save({str(i): EXPANDED[: 1 << 28].view(1, -1) for i in range(9)}, path),
        r"takes 1 GB of memory \(together with the data before it, 5 GB\)",
    ),
    "expanded.pkl": (lambda path: path.write_bytes(dumped({"w": EXPANDED})), "takes 64 GB of memory"),
    "lists.pt": (lambda path: torch.save({"w": nested(torch.zeros(16))}, path), "lists of at most 4 levels"),
    "lists.pkl": (lambda path: path.write_bytes(dumped({"w": nested(np.zeros(9))})), "lists of at most 4 levels"),
    "flat.pkl": (lambda path: path.write_bytes(dumped([np.zeros(1 << 14)] * (1 << 17))), "takes 8 GB of memory"),
    "flat_names.pkl": (
        lambda path: path.write_bytes(dumped(dict.fromkeys(map(str, range(1 << 15)), np.zeros(1 << 15)))),
        "more than the limit of 4 GB",
    ),
    "cycle.pkl": (lambda path: path.write_bytes(b"](cnumpy\n" + STOP), "not enough|no newline|exhausted"),
    "itself.pkl": (lambda path: path.write_bytes(b"\x80\x02]q\x00h\x00a" + STOP), "lists of at most 4 levels"),
    "itself.pt": (lambda path: torch.save(cyclic(), path), "latents must be a tensor, .* got dict"),
    "compressed.pt": (compressed, "is compressed or encrypted"),
    "bytearray.pt": (lambda path: torch.save({"w": Call(bytearray, 1 << 40)}, path), "asks for __builtin__.bytearray"),
    "old_storage.pt": (
        lambda path: path.write_bytes(replaced_length(path)),
        "a storage of 35184372088832 elements is cut off",
    ),
    "declared.npy": (lambda path: path.write_bytes(npy((1 << 40,))), "takes 4 TB of memory"),
    "negative.npy": (lambda path: path.write_bytes(npy((-1,))), "the invalid shape"),
    "dimensions.npy": (lambda path: path.write_bytes(npy((1 << 40,) * 300)), "the invalid shape|too large"),
    "sparse.npy": (lambda path: sparse(path, npy((1 << 34,), b""), 128 + (1 << 36)), "takes 64 GB of memory"),
    "declared.npz": (lambda path: npz(path, {"w.npy": npy((1 << 34,))}), "takes 64 GB of memory"),
    "cut.npz": (lambda path: npz(path, {"w.npy": npy((1 << 24,))}), "is cut off"),
    "names.npz": (lambda path: npz(path, {f"{i}.npy": npy((1 << 30,)) for i in range(9)}), "is cut off"),
    "zeros.npz": (lambda path: npz(path, {"w.npy": npy((4, 4), bytes(1 << 26))}), "w must have shape"),
    "lzma.npz": (lambda path: lzma(path), "a compression that NumPy does not write"),
    "header.safetensors": (
        lambda path: sparse(path, struct.pack("<Q", 99 << 20) + b"{", 1 << 27),
        "its header must have at most 16777216 bytes",
    ),
    "deep.safetensors": (
        lambda path: path.write_bytes(struct.pack("<Q", 1 << 20) + b'{"a":' + b"[" * (1 << 20)),
        "Error while deserializing header",
    ),
    "sparse.safetensors": (
        lambda path: sparse(path, head := safetensors_head([1 << 34]), len(head) + (1 << 36)),
        "the file takes 64 GB of memory",
    ),
    "key.pkl": (lambda path: path.write_bytes(tuple_key(b"N" + SETITEM)), "it has a nested tuple as a key"),
    "key_of_items.pkl": (
        lambda path: path.write_bytes(EMPTY_DICT + MARK + text("a") + (DUP + TUPLE2) * 100 + b"Nu" + STOP),
        "it has a nested tuple as a key",
    ),
    "element_of_set.pkl": (
        lambda path: path.write_bytes(b"\x8f" + MARK + text("a") + (DUP + TUPLE2) * 100 + b"\x90" + STOP),
        "it has a nested tuple as a key",
    ),
    "key_of_ordered.pkl": (
        lambda path: path.write_bytes(
            call(name("collections", "OrderedDict"), b"]" + text("a") + (DUP + TUPLE2) * 100 + b"N" + TUPLE2 + b"a")
            + STOP
        ),
        "it has a nested tuple as a key",
    ),
}  # fmt: skip


def cyclic() -> Any:
    value: dict[str, Any] = {}
    value["w"] = value
    return value


def replaced_length(path: Path) -> bytes:
    old_torch({"w": torch.zeros(4)}, path)
    return path.read_bytes().replace(b"K\x04Nt", b"\x8a\x06" + struct.pack("<q", 1 << 45)[:6] + b"Nt", 1)


def lzma(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("w.npy", npy((4, 4)))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("file", BOMBS)
def test_latents_that_declare_too_much_are_refused(file: str, tmp_path: Path):
    make, message = BOMBS[file]
    path = tmp_path / file
    make(path)
    assert path.stat().st_blocks < (1 << 12)  # at most 2 MB
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: .*({message})"):
        StoredLatents.load(path, shared("sg2"))


@pytest.mark.parametrize("name", ["rows.safetensors", "rows.pt"])
def test_rows_without_elements_are_refused(name: str, tmp_path: Path):
    path = tmp_path / name
    if name.endswith(".pt"):
        torch.save(torch.empty(10**12, 0), path)
    else:
        header = json.dumps({"w": {"dtype": "F32", "shape": [10**12, 0], "data_offsets": [0, 0]}}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match=r"w must have shape .*, got \(1000000000000, 1, 0\)"):
        StoredLatents.load(path, shared("sg2"))


def test_pickles_of_many_containers_are_refused(tmp_path: Path):
    path = tmp_path / "sets.pkl"
    path.write_bytes(b"\x80\x04" + b"\x8f0" * 5000 + b"N.")
    with pytest.raises(ValueError, match="a pickle with 4097 lists and other containers takes 1 MB of memory"):
        StoredLatents.load(path, shared("sg2"), max_bytes=1 << 20)


def test_expanded_latents_are_read_without_a_copy(tmp_path: Path):
    w = shared("sg2").latents([1, 2])[:, :1].contiguous()
    torch.save({"latents": w.expand(2, 8, 32)}, tmp_path / "w.pt")
    images = StoredLatents.load(tmp_path / "w.pt", shared("sg2"))
    assert torch.equal(images.w(1), w[1:].expand(1, 8, 32)) and images.w(1).stride(1) == 0


def test_nested_lists_in_annotations_are_refused(tmp_path: Path):
    path = tmp_path / "a.pkl"
    path.write_bytes(dumped({"cluster_centers_": np.eye(3), "annotations": {"a": nested(0)}}))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: annotations of a must be ids"):
        read_clusters(path)


def test_expanded_weights_are_refused(tmp_path: Path):
    path, original = tmp_path / "a.pkl", Original("nvlabs")
    original.state["synthesis.b4.conv1.weight"] = torch.zeros(1).expand(1 << 16, 1 << 16, 3, 3)
    write(path, original)
    with pytest.raises(ValueError, match="has more elements than its storage, 1"):
        convert(path, tmp_path / "target.safetensors")


def changed_header(path: Path, text: str) -> None:
    """Write a catalog whose header is another text."""
    built("sg2").save(path)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    (kind,) = header["__metadata__"]
    header["__metadata__"][kind] = text
    changed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + data[8 + length :])


@pytest.mark.parametrize(
    "text",
    ["null", "[" * 100_000, '{"a":' * 100_000, "9" * 100_000, "{}", "[]", '"a"', "1e999", '{"checksum": 1, "of": [1]}'],
    ids=lambda text: text[:9],
)
def test_headers_of_catalogs_are_refused_in_time(text: str, tmp_path: Path):
    path = tmp_path / "a.safetensors"
    changed_header(path, text)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: "):
        Catalog.load(path)


def test_catalogs_with_many_part_names_are_refused(tmp_path: Path):
    catalog = Catalog(**{**vars(built("sg2")), "parts": {f"part {i}": [0] for i in range(100_000)}})
    with pytest.raises(ValueError, match="parts must be at most 4096 names, got 100000"):
        catalog.save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_deep_provenance_is_refused_when_it_is_written(tmp_path: Path):
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    catalog = Catalog(**{**vars(built("sg2")), "provenance": {"a": deep}})
    with pytest.raises(ValueError, match=r"catalog.provenance\['a'\] must be nested at most 32 levels deep"):
        catalog.save(tmp_path / "a.safetensors")


def test_sparse_networks_are_refused(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    header = {"__metadata__": {"stylefast-stylegan2-1": "{}"}}
    header |= {"w": {"dtype": "F32", "shape": [1 << 34], "data_offsets": [0, 1 << 36]}}
    text = json.dumps(header).encode()
    sparse(path, struct.pack("<Q", len(text)) + text, 8 + len(text) + (1 << 36))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: .* takes 64 GB of memory"):
        load(path)
