# SPDX-License-Identifier: Apache-2.0
"""Pickles that want more than to be read are refused by the name of what they ask for, and nothing is run."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import pickletools
import random
import re
import resource
import struct
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import write
from originals import Original

from stylefast.generators.convert import convert
from stylefast.io.unpickling import ARRAYS, DICTIONARIES, TENSORS, Record, array, members, read_pickle, tensor

ALLOWED = {*ARRAYS, *DICTIONARIES, *TENSORS}
STOP = b"."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()  # SHORT_BINUNICODE


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"  # STACK_GLOBAL


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def dumped(value: Any, protocol: int = 4) -> bytes:
    return pickle.dumps(value, protocol=protocol)


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch):
    """Whatever would run a command or code ends the test."""

    def ran(*arguments: Any, **options: Any) -> None:
        pytest.exit(f"something was run: {arguments}")

    for module, attribute in ((os, "system"), (os, "popen"), (subprocess, "Popen"), (builtins, "eval")):
        monkeypatch.setattr(module, attribute, ran)


ORDERED = name("collections", "OrderedDict")
STORAGE = call(name("torch.storage", "_load_from_bytes"), text("x"))
HOSTILE: dict[str, tuple[bytes, str]] = {
    "os.system": (b"cos\nsystem\n(S'echo'\ntR.", "it asks for os.system,"),
    "posix.system": (call(name("posix", "system"), text("echo")) + STOP, "it asks for posix.system,"),
    "eval": (call(name("builtins", "eval"), text("1")) + STOP, "it asks for builtins.eval,"),
    "exec of old": (b"c__builtin__\nexec\n(S'1'\ntR.", "it asks for __builtin__.exec,"),
    "getattr": (call(name("builtins", "getattr"), ORDERED, text("x")) + STOP, "it asks for builtins.getattr,"),
    "import": (call(name("importlib", "import_module"), text("os")) + STOP, "it asks for importlib.import_module,"),
    "popen": (dumped(Calls(subprocess.Popen, ["echo"])), "it asks for subprocess.Popen,"),
    "pickle in pickle": (dumped(Calls(pickle.loads, b"cos\nsystem\n.")), "it asks for _pickle.loads,"),
    "torch.load": (dumped(Calls(torch.load, "x.pt")), "it asks for torch.serialization.load,"),
    "dots": (
        name("collections", "OrderedDict.__init__.__globals__") + STOP,
        "it asks for collections.OrderedDict.__init__",
    ),
    "dots of torch": (
        name("torch", "_utils._rebuild_tensor_v2.__globals__") + STOP,
        "it asks for torch._utils._rebuild_t",
    ),
    "a call of a call": (call(call(ORDERED), text("x")) + STOP, "'Record' object is not callable"),
    "a class changed": (ORDERED + b"}" + text("__new__") + text("x") + b"s" + b"b.", "missing 1 required positional"),
    "slots of a class": (ORDERED + b"N}" + text("name") + text("x") + b"s\x86b.", "missing 1 required positional"),
    "instance": (b"(S'echo'\nios\nsystem\n.", "it has the opcode INST"),
    "object": (b"(cos\nsystem\nS'echo'\no.", "it has the opcode OBJ"),
    "extension": (b"\x82\x01.", "it has the opcode EXT1"),
    "persistent text": (b"Pstorage\n.", "it has the opcode PERSID"),
    "persistent id": (text("x") + b"Q.", "it asks for something outside the file"),
    "buffer": (b"\x97.", "it has the opcode NEXT_BUFFER"),
    "memo of 16 GB": (text("x") + b"r\xff\xff\xff\x7f.", "it keeps entry 2147483647 of a table"),
    "memo of text": (text("x") + b"p99999999999\n.", "it keeps entry 99999999999 of a table"),
    "memo that is empty": (b"h\x07.", "Memo value not found at index 7"),
    "bytes of 1 EB": (b"\x8e" + struct.pack("<Q", 1 << 60) + b"x.", "expected 1152921504606846976 bytes"),
    "bytearray of 1 TB": (b"\x96" + struct.pack("<Q", 1 << 40) + b"x.", "expected 1099511627776 bytes"),
    "text of 1 EB": (b"\x8d" + struct.pack("<Q", 1 << 60) + b"x.", "expected 1152921504606846976 bytes"),
    "frame of 1 EB": (b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.", "truncated"),
    "number of 2 GB": (b"\x8b\xff\xff\xff\x7f1.", "not enough data in stream"),
    "nothing": (b"", "pickle exhausted before seeing STOP"),
    "no end": (b"\x80\x04N", "pickle exhausted before seeing STOP"),
    "no pickle": (b"<html>", "at position 0"),
    "unhashable": (b"}]Ns.", "unhashable"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles(kind: str, tmp_path: Path):
    path = tmp_path / "a.pkl"
    data, message = HOSTILE[kind]
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} cannot be used: ')}.*{re.escape(message)}"):
        read_pickle(path, ALLOWED)
    assert Record.name == "" and isinstance(OrderedDict(), dict)


def inside(path: Path, storage: bytes) -> Any:
    """A record of a tensor whose storage says it is these bytes."""
    path.write_bytes(
        dumped(Calls(torch._utils._rebuild_tensor_v2, Calls(torch.storage._load_from_bytes, storage), 0, (1,), (1,)))
    )
    return read_pickle(path, ALLOWED)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_storages_that_carry_pickles(tmp_path: Path):
    archive, old = io.BytesIO(), io.BytesIO()
    torch.save(Calls(os.getcwd), archive)
    torch.save(Calls(os.getcwd), old, _use_new_zipfile_serialization=False)
    for data, message in (
        (archive.getvalue(), r"it asks for (posix|nt)\.getcwd"),
        (old.getvalue(), r"it asks for (posix|nt)\.getcwd"),
        (b"cos\nsystem\n(S'echo'\ntR.", "a tensor's storage cannot be read"),
        (b"", "a tensor's storage cannot be read"),
        (dumped([1]), "a tensor's storage cannot be read"),
    ):
        with pytest.raises(ValueError, match=message):
            tensor(inside(tmp_path / "a.pkl", data))


@pytest.mark.parametrize(
    "changed, message",
    [
        ((3, (4, 2), (2, 1)), "ends at element 10 of 8"),
        ((0, (1 << 40,), (0,)), "more elements than its storage, 8"),
        ((0, (1 << 31, 1 << 31, 1 << 31), (0, 0, 0)), "more elements than its storage, 8"),
        ((0, (-1,), (1,)), "offset, shape and strides"),
        ((0, (2,), (-1,)), "offset, shape and strides"),
        ((-1, (2,), (1,)), "offset, shape and strides"),
        ((0, (1 << 62,), (1 << 62,)), "offset, shape and strides"),
        ((0, (2, 2), (1,)), "offset, shape and strides"),
        ((0, (2.0,), (1,)), "offset, shape and strides"),
        ((True, (2,), (1,)), "offset, shape and strides"),
    ],
)
def test_tensors_that_lie_outside_their_storage(changed: Any, message: str, tmp_path: Path):
    storage = torch.arange(8.0).untyped_storage()
    file = io.BytesIO()
    torch.save(torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True), file)
    path = tmp_path / "a.pkl"
    record = Calls(torch._utils._rebuild_tensor_v2, Calls(torch.storage._load_from_bytes, file.getvalue()), *changed)
    path.write_bytes(dumped(record))
    with pytest.raises(ValueError, match=message):
        tensor(read_pickle(path, ALLOWED))


@pytest.mark.parametrize("protocol", range(2, 6))
def test_tensors(protocol: int, tmp_path: Path):
    path = tmp_path / "a.pkl"
    base = torch.arange(24.0).reshape(4, 6)
    given = {
        "view": base[1:, ::2].T,
        "parameter": torch.nn.Parameter(torch.ones(2, 3)),
        "half": torch.randn(5).half(),
        "number": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "whole": torch.tensor([1, 2]),
        "wide": torch.ones(2, 3).to(memory_format=torch.contiguous_format).expand(2, 3),
    }
    path.write_bytes(dumped(OrderedDict(given), protocol))
    got = {key: tensor(record) for key, record in members(read_pickle(path, ALLOWED)).items()}
    assert list(got) == list(given)
    for key, expected in given.items():
        assert torch.equal(got[key], expected) and got[key].dtype == expected.dtype and got[key].is_contiguous(), key


@pytest.mark.parametrize("protocol", range(2, 6))
def test_arrays(protocol: int, tmp_path: Path):
    path = tmp_path / "a.pkl"
    matrix = np.arange(6.0).reshape(2, 3)
    given = [
        matrix,
        np.asfortranarray(matrix),
        matrix.astype(">f4"),
        matrix[:, ::2],
        np.array(True),
        np.float32(0.1),
        np.int64(-3),
        np.empty((0, 4), np.int32),
        np.array(7, np.uint16),
    ]
    path.write_bytes(dumped(given, protocol))
    for record, expected in zip(read_pickle(path, ALLOWED), given, strict=True):
        got = array(record)
        np.testing.assert_array_equal(got, expected)
        assert got.shape == expected.shape and got.dtype == expected.dtype.newbyteorder("=")
        got[...] = 0  # it may be written to


def test_arrays_that_are_none(tmp_path: Path):
    path = tmp_path / "a.pkl"
    record = lambda value: (path.write_bytes(dumped(value)), read_pickle(path, ALLOWED))[1]  # noqa: E731
    objects = record(np.array([None, 1], object))
    with pytest.raises(ValueError, match="an array must hold numbers, got elements of O8"):
        array(objects)
    for value in (np.array(["a"]), np.array([1], "m8[s]"), np.array([(1, 2)], "i4,i4"), np.array([1j])):
        with pytest.raises(ValueError, match="an array must hold numbers"):
            array(record(value))
    good = record(np.arange(6.0))
    for change, message in (
        ((1, (7,), *good.state[2:]), r"an array of shape \(7,\) of float64 needs 56 bytes"),
        ((1, (1 << 47, 1 << 47), *good.state[2:]), "needs"),
        ((1, (-6,), *good.state[2:]), r"an array has the shape \(-6,\)"),
        ((1, (6,), good.state[2], False, [1, 2]), "bytes were expected, got list"),
    ):
        good.state = change
        with pytest.raises(ValueError, match=message):
            array(good)
    for value in (None, 3, [1], record(OrderedDict())):
        with pytest.raises(ValueError, match="an array was expected, got"):
            array(value)
        with pytest.raises(ValueError, match="a tensor was expected, got"):
            tensor(value)


def test_options_that_grow_without_end(tmp_path: Path):
    path = tmp_path / "a.pkl"
    laughs: Any = [0]
    for _ in range(40):
        laughs = [laughs, laughs]
    write(path, Original("nvlabs"), training_set_kwargs=laughs)
    with pytest.raises(ValueError, match="its options are more than 10,000 values"):
        convert(path, tmp_path / "ours.safetensors")
    path.write_bytes(b"]" * 50_000 + b"a" * 49_999 + STOP)  # lists in lists
    assert isinstance(read_pickle(path, ALLOWED), list)


def test_a_name_on_a_second_list(tmp_path: Path):
    path = tmp_path / "a.pkl"
    path.write_bytes(call(name("sklearn.cluster", "KMeans"), text("a")) + b"}" + text("k") + b"K\x05sb.")
    record = read_pickle(path, ALLOWED, inert=r"sklearn\.\w+\.KMeans")
    assert record.name == "sklearn.cluster.KMeans" and record.args == ("a",) and record.state == {"k": 5}
    with pytest.raises(ValueError, match=r"it asks for sklearn\.cluster\.KMeans"):
        read_pickle(path, ALLOWED, inert=r"sklearn\.KMeans")


def mutated(data: bytes, places: list[int], rng: random.Random) -> bytes:
    """One to four changes, mostly where an opcode stands: another byte, a piece less, twice or elsewhere."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        begin = min(rng.choice(places) + rng.choice((0, 0, 0, 1, 2, 5)), len(changed) - 1)
        end = begin + rng.choice((1, 1, 2, 4, 9, 40))
        kind = rng.randrange(5)
        if kind == 0:
            changed[begin] = rng.randrange(256)
        elif kind == 1:
            changed[begin] = rng.choice(b"()]}abceghijloqrstu0123456789NQRPI\x81\x85\x86\x8c\x8e\x92\x93\x94\x95\x96")
        elif kind == 2:
            del changed[begin:end]
        elif kind == 3:
            changed[begin:begin] = changed[begin:end] * rng.choice((1, 2))
        else:
            other = rng.choice(places)
            changed[begin:end] = data[other : other + rng.randint(1, 30)]
    return bytes(changed)


def survives(data: bytes, path: Path, read: Callable[[], object]) -> bool:
    """Whether a file can be read; else it must have been refused."""
    path.write_bytes(data)
    try:
        read()
    except ValueError as error:
        assert str(error).startswith(f"{path} cannot be used: ")
        return False
    return True


@pytest.fixture
def little_memory():
    """At most 256 MiB more, where the system can say so: torch believes what a damaged file says of its size."""
    before, status = resource.getrlimit(resource.RLIMIT_AS), Path("/proc/self/statm")
    if status.exists():
        used = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("family", ["nvlabs", "rosinality", "old rosinality", "tuned nvlabs"])
def test_files_with_changes_are_read_or_refused(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    path, rng = tmp_path / "a.pkl", random.Random(0)
    original = Original(family.split()[-1])
    write(path, original)
    if family.startswith("old"):
        torch.save({"g_ema": original.state}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    places = list(range(0, len(data), 5))
    if family.startswith("tuned"):
        write(path, original, tuned=True)
        data = path.read_bytes()
    if family == "nvlabs":
        opcodes = [place for _, _, place in pickletools.genops(data) if place is not None]
        places = opcodes + rng.choices(places, k=len(opcodes))  # half of them in the tensors
    outcomes = [
        survives(mutated(data, places, rng), path, lambda: convert(path, tmp_path / "ours.safetensors"))
        for _ in range(150)
    ]
    assert 0 < sum(outcomes) < len(outcomes)
    assert {file.name for file in tmp_path.iterdir()} <= {"a.pkl", "ours.safetensors"}
