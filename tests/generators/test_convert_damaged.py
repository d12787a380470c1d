# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile files are converted, or refused with the name of the file. No code in them is executed."""

from __future__ import annotations

import pickletools
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import write
from originals import Original
from originals3 import Original3
from pickles import forbid_execution

from stylefast.generators.convert import convert


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_execution(monkeypatch)


def test_options_that_grow_without_end_are_refused(tmp_path: Path):
    path, nested = tmp_path / "a.pkl", list[Any]([0])
    for _ in range(40):
        nested = [nested, nested]
    write(path, Original("nvlabs"), training_set_kwargs=nested)
    with pytest.raises(ValueError, match="its options hold more than 10,000 values"):
        convert(path, tmp_path / "target.safetensors")


def mutated(data: bytes, positions: list[int], rng: random.Random) -> bytes:
    """Data with one to four changes, mostly at an opcode: a replaced byte, or a piece removed, repeated or moved."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        begin = min(rng.choice(positions) + rng.choice((0, 0, 0, 1, 2, 5)), len(changed) - 1)
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
            source = rng.choice(positions)
            changed[begin:end] = data[source : source + rng.randint(1, 30)]
    return bytes(changed)


def survives(data: bytes, path: Path, read: Callable[[], object]) -> bool:
    """Whether the file can be read. If not, the error must name the file."""
    path.write_bytes(data)
    try:
        read()
    except ValueError as error:
        assert str(error).startswith(f"{path} cannot be used: ")
        return False
    return True


@pytest.fixture
def little_memory():
    """Limit further memory to 256 MiB, because torch trusts the sizes that a file states.

    There is no limit on systems without /proc.
    """
    before, status = resource.getrlimit(resource.RLIMIT_AS), Path("/proc/self/statm")
    if status.exists():
        used = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("family", ["nvlabs", "rosinality", "old rosinality", "tuned nvlabs", "stylegan3"])
def test_files_with_changes_are_read_or_refused(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    path, rng = tmp_path / "a.pkl", random.Random(0)
    original = Original3() if family == "stylegan3" else Original(family.split()[-1])
    write(path, original)
    if family.startswith("old"):
        torch.save({"g_ema": original.state}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    positions = list(range(0, len(data), 5))
    if family.startswith("tuned"):
        write(path, original, tuned=True)
        data = path.read_bytes()
    if family in ("nvlabs", "stylegan3"):
        opcodes = [position for _, _, position in pickletools.genops(data) if position is not None]
        positions = opcodes + rng.choices(positions, k=len(opcodes))  # half of them in the tensors
    outcomes = [
        survives(mutated(data, positions, rng), path, lambda: convert(path, tmp_path / "target.safetensors"))
        for _ in range(150)
    ]
    assert 0 < sum(outcomes) < len(outcomes)
    assert {file.name for file in tmp_path.iterdir()} <= {"a.pkl", "target.safetensors"}
