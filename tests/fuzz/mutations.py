# SPDX-License-Identifier: Apache-2.0
"""Random mutations of files: of bytes, of text, inside of zip archives, and of headers of safetensors files."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from typing import Any

from drawing import chance, choose
from numpy.random import Generator

_INTEGERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
_NUMBERS = ("0", "-1", "1e999", "-0.5", "9" * 30, "9" * 5000, "NaN", "null", "true", '"a"', "[]", "{}", "1" + "0" * 12)
_VALUES: tuple[Any, ...] = (None, True, -1, 0, 3, 2**70, 1.5, "", "a" * 300, "\n", [], {}, [[0]], {"a": 1})
_PIECES = (
    *('"', "'", "\\", ",", ":", "\n", "\r", "\0", "[", "{", "]", "}", "\ufeff", "\ud7ff", "\\ud800", "é", "../", "/"),
    *("[" * 5000, '{"a":' * 5000, "x" * 5000, "\x1b[31m", "null", "%s", "=1+1"),
)


def mutate(rng: Generator, data: bytes) -> bytes:
    """Return the contents of a file with one or a few mutations that suit its format."""
    for _ in range(choose(rng, (1, 1, 1, 2, 4))):
        if data[:4] == b"PK\x03\x04" and chance(rng, 0.7):
            data = _inside_zip(rng, data)
        elif data[8:9] == b"{" and chance(rng, 0.6):
            data = _safetensors_header(rng, data)
        elif _is_text(data) and chance(rng, 0.7):
            data = _text(rng, data)
        else:
            data = _bytes(rng, data)
    return data


def mutate_json(rng: Generator, value: Any) -> Any:
    """Return a JSON value of which one entry, at a random depth, is replaced, removed, renamed or repeated."""
    if not isinstance(value, dict | list) or not value or chance(rng, 0.15):
        return choose(rng, (*_VALUES, [value, value]))
    if isinstance(value, list):
        i = int(rng.integers(len(value)))
        return choose(rng, (value[:i], value[i:], value + value[i:], [*value[:i], mutate_json(rng, value[i])]))
    key = choose(rng, list(value))
    rest = {name: entry for name, entry in value.items() if name != key}
    if chance(rng, 0.15):
        return rest
    if chance(rng, 0.15):
        return {**rest, choose(rng, ("x", "", "w", key + " ")): value[key]}
    return {**value, key: mutate_json(rng, value[key])}


def _is_text(data: bytes) -> bool:
    return b"\0" not in data[:1000] and data[:1].isascii()


def _span(rng: Generator, size: int) -> tuple[int, int]:
    start = int(rng.integers(size + 1))
    return start, min(size, start + int(2 ** rng.uniform(0, 9)))


def _bytes(rng: Generator, data: bytes) -> bytes:
    start, stop = _span(rng, min(len(data), choose(rng, (64, 1024, len(data)))))
    kind = int(rng.integers(7))
    if kind == 0 and start < len(data):  # flip a bit
        return data[:start] + bytes([data[start] ^ 1 << int(rng.integers(8))]) + data[start + 1 :]
    if kind == 1:  # overwrite by an integer
        number = choose(rng, _INTEGERS).to_bytes(8, choose(rng, ("little", "big")))[: choose(rng, (1, 2, 4, 8))]
        return data[:start] + number + data[start + len(number) :]
    if kind == 2:
        return data[: int(rng.integers(len(data) + 1))]  # cut off
    if kind == 3:
        return data[:start] + data[stop:]
    if kind == 4:
        return data[:stop] + data[start:]
    if kind == 5:
        return data[:start] + rng.bytes(stop - start) + data[stop:]
    other, end = _span(rng, len(data))
    return data[:start] + data[other:end] + data[stop:]


def _text(rng: Generator, data: bytes) -> bytes:
    text = data.decode("utf-8", "surrogateescape")
    numbers = list(re.finditer(r"-?\d+(\.\d+)?", text))
    if numbers and chance(rng, 0.4):
        match = choose(rng, numbers)
        text = text[: match.start()] + choose(rng, _NUMBERS) + text[match.end() :]
    elif chance(rng, 0.5):
        start, stop = _span(rng, len(text))
        text = text[:start] + choose(rng, _PIECES) + text[choose(rng, (start, stop)) :]
    else:
        lines = text.splitlines(keepends=True) or [""]
        i, j = (int(k) for k in rng.integers(len(lines), size=2))
        lines[i] = choose(rng, (lines[j], lines[i] + lines[i], "", lines[i].strip() + lines[j], lines[i][::-1]))
        text = "".join(lines)
    return text.encode("utf-8", "surrogatepass" if "\ud800" in text else "surrogateescape")


def _inside_zip(rng: Generator, data: bytes) -> bytes:
    """Mutate an entry of an archive, and write the archive again with valid checksums."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError, OSError):
        return _bytes(rng, data)
    if not entries:
        return _bytes(rng, data)
    i = int(rng.integers(len(entries)))
    main = [j for j, (name, _) in enumerate(entries) if name.endswith("data.pkl")]
    i = main[0] if main and chance(rng, 0.6) else i
    name, content = entries[i]
    entries[i] = (name, _bytes(rng, content))
    if chance(rng, 0.15):
        entries[i] = (choose(rng, ("", "a/../b.npy", name + "x", entries[0][0])), content)
    elif chance(rng, 0.1):
        del entries[i]
    output = io.BytesIO()
    compression = choose(rng, (zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(output, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name or "a", content)
    return output.getvalue()


def _safetensors_header(rng: Generator, data: bytes) -> bytes:
    """Mutate the JSON header, and correct its length."""
    size = int.from_bytes(data[:8], "little")
    header = _text(rng, data[8 : 8 + size])
    if chance(rng, 0.9):
        header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]
