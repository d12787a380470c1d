# SPDX-License-Identifier: Apache-2.0
"""Random mutations of files: a reader returns contents or raises a ValueError with the name of the file.

If a checksum covers the file, the contents must be those of the valid file. Time and memory are bounded. Own files are
also written with mutated contents and a right checksum.
"""

from __future__ import annotations

import resource
import shutil
import time
from functools import cache
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import torch
from check import Check
from corpus import Format, formats, read_header
from drawing import chance, choose
from numpy.random import Generator

from stylefast.io.tensors import write_tensors

MAX_SECONDS = 5.0
MAX_GROWTH = 300 << 20  # bytes of memory; STYLEFAST_MAX_BYTES is 64 MB
SHAPES = ((), (0,), (1,), (3, 0), (2, 3), (1, 1, 1))


def run(rng: Generator, folder: Path, check: Check) -> None:
    fmt, valid, expected = choose(rng, _corpus(folder))
    path = _copied(valid, folder)
    is_resealed = fmt.is_sealed and chance(rng, 0.5)
    check.note(file=fmt.file, is_resealed=is_resealed)
    if is_resealed:
        _reseal(rng, valid, path)
    else:
        path.write_bytes(mutations.mutate(rng, valid.read_bytes()))
    start, memory = time.monotonic(), _peak_memory()
    try:
        content = fmt.read(path)
    except ValueError as error:
        message = str(error)
        assert fmt.file in message or str(path.parent) in message, f"the error must name the file, got: {message[:500]}"
        assert len(message) < 5000, f"an error must be short, got {len(message)} characters: {message[:700]}"
        message.encode()
    else:
        if fmt.is_sealed and not is_resealed:
            assert _fingerprint(content) == expected, "contents that differ must not match the checksum"
    seconds, growth = time.monotonic() - start, _peak_memory() - memory
    assert seconds < MAX_SECONDS, f"a file must be read within {MAX_SECONDS} s, got {seconds:.1f} s"
    assert growth < MAX_GROWTH, f"reading must take at most {MAX_GROWTH >> 20} MB, got {growth >> 20} MB"


@cache
def _corpus(folder: Path) -> list[tuple[Format, Path, str]]:
    """Write a valid file of each format, and read it."""
    corpus = []
    for fmt in formats():
        path = folder / f"valid-{fmt.file}" / fmt.file
        path.parent.mkdir(exist_ok=True)
        fmt.write(path)
        corpus.append((fmt, path, _fingerprint(fmt.read(_copied(path, folder)))))
    return corpus


def _copied(valid: Path, folder: Path) -> Path:
    """Return a copy of a file, in a copy of its folder. Reading may change the folder."""
    scratch = folder / "case"
    shutil.rmtree(scratch, ignore_errors=True)
    return Path(shutil.copytree(valid.parent, scratch)) / valid.name


def _reseal(rng: Generator, valid: Path, path: Path) -> None:
    """Write the file with a mutated header or a mutated tensor, and a right checksum."""
    kind, tensors, header = read_header(valid)
    if chance(rng, 0.6):
        name = choose(rng, list(header))
        header[name] = mutations.mutate_json(rng, header[name])
    else:
        name = choose(rng, list(tensors))
        tensor = tensors[name]
        tensors[name] = choose(
            rng,
            (
                tensor.double(),
                tensor.to(torch.int32),
                tensor * torch.nan,
                tensor[..., :-1] if tensor.ndim else tensor[None],
                tensor[None],
                torch.zeros(choose(rng, SHAPES)),
            ),
        )
        if chance(rng, 0.2):
            del tensors[name]
        if chance(rng, 0.2):
            tensors[choose(rng, ("x", name + ".0", ""))] = tensor
    write_tensors(path, kind, tensors, **header)


def _fingerprint(content: Any) -> str:
    """Return a text that tells contents apart."""
    if isinstance(content, torch.Tensor | np.ndarray):
        array = np.ascontiguousarray(content)
        return f"{array.dtype}{array.shape}{hash(array.tobytes())}"
    if isinstance(content, dict):
        return str({name: _fingerprint(value) for name, value in content.items()})
    if isinstance(content, list | tuple):
        return str([_fingerprint(item) for item in content])
    return repr(content)


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
