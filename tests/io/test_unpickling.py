# SPDX-License-Identifier: Apache-2.0
"""Hostile pickles are refused, with the forbidden name if they ask for one, and none of their code is run."""

from __future__ import annotations

import pickle
import re
import struct
import subprocess
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from pickles import STOP, Call, call, dumped, forbid_execution, name, text

from stylefast.io.unpickling import ARRAYS, DICTIONARIES, TENSORS, InertObject, read_pickle

ALLOWED = {*ARRAYS, *DICTIONARIES, *TENSORS}


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_execution(monkeypatch)


ORDERED = name("collections", "OrderedDict")
HOSTILE: dict[str, tuple[bytes, str]] = {
    "os.system": (b"cos\nsystem\n(S'echo'\ntR.", "it asks for os.system,"),
    "posix.system": (call(name("posix", "system"), text("echo")) + STOP, "it asks for posix.system,"),
    "eval": (call(name("builtins", "eval"), text("1")) + STOP, "it asks for builtins.eval,"),
    "exec of Python 2": (b"c__builtin__\nexec\n(S'1'\ntR.", "it asks for __builtin__.exec,"),
    "getattr": (call(name("builtins", "getattr"), ORDERED, text("x")) + STOP, "it asks for builtins.getattr,"),
    "import": (call(name("importlib", "import_module"), text("os")) + STOP, "it asks for importlib.import_module,"),
    "popen": (dumped(Call(subprocess.Popen, ["echo"])), "it asks for subprocess.Popen,"),
    "pickle in pickle": (dumped(Call(pickle.loads, b"cos\nsystem\n.")), "it asks for _pickle.loads,"),
    "torch.load": (dumped(Call(torch.load, "x.pt")), "it asks for torch.serialization.load,"),
    "dotted name": (
        name("collections", "OrderedDict.__init__.__globals__") + STOP,
        "it asks for collections.OrderedDict.__init__",
    ),
    "dotted name of torch": (
        name("torch", "_utils._rebuild_tensor_v2.__globals__") + STOP,
        "it asks for torch._utils._rebuild_t",
    ),
    "a call of a call": (call(call(ORDERED), text("x")) + STOP, "'InertObject' object is not callable"),
    "attribute of a class": (
        ORDERED + b"}" + text("__new__") + text("x") + b"s" + b"b.",
        "missing 1 required positional",
    ),
    "slot of a class": (ORDERED + b"N}" + text("name") + text("x") + b"s\x86b.", "missing 1 required positional"),
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
    "nothing": (b"", "it is empty"),
    "no end": (b"\x80\x04N", "pickle exhausted before seeing STOP"),
    "no pickle": (b"<html>", "at position 0"),
    "unhashable": (b"}]Ns.", "unhashable"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles_are_refused_by_name(kind: str, tmp_path: Path):
    path = tmp_path / "a.pkl"
    data, message = HOSTILE[kind]
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} cannot be used: ')}.*{re.escape(message)}"):
        read_pickle(path, ALLOWED)
    assert InertObject.name == "" and isinstance(OrderedDict(), dict)


def test_deeply_nested_lists_are_read(tmp_path: Path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"]" * 50_000 + b"a" * 49_999 + STOP)
    assert isinstance(read_pickle(path, ALLOWED), list)


def test_names_that_match_the_pattern_are_read(tmp_path: Path):
    path = tmp_path / "a.pkl"
    path.write_bytes(call(name("sklearn.cluster", "KMeans"), text("a")) + b"}" + text("k") + b"K\x05sb.")
    record = read_pickle(path, ALLOWED, allowed_pattern=r"sklearn\.\w+\.KMeans")
    assert record.name == "sklearn.cluster.KMeans" and record.args == ("a",) and record.state == {"k": 5}
    with pytest.raises(ValueError, match=r"it asks for sklearn\.cluster\.KMeans"):
        read_pickle(path, ALLOWED, allowed_pattern=r"sklearn\.KMeans")
