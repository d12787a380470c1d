# SPDX-License-Identifier: Apache-2.0
"""Atomic writes: links, permissions, temporary files, and writers in several processes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from forked import start
from PIL import Image

from stylefast.figures import figures
from stylefast.io import private
from stylefast.io.atomic import atomic_write, make_folder, remove_leftovers
from stylefast.io.private import create, is_token, new_token
from stylefast.io.tensors import read_tensors, write_tensors


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    former = os.umask(0o027)
    yield
    os.umask(former)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write(path: Path, content: bytes = b"new") -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def tensors(path: Path) -> None:
    write_tensors(path, "kind", {"x": torch.zeros(2)})


def image(path: Path) -> None:
    figures.save(Image.new("RGB", (2, 2)), path)


@pytest.mark.parametrize("writer", [write, tensors, image])
def test_a_link_stays_and_its_file_is_written(tmp_path: Path, writer):  # type: ignore[no-untyped-def]
    (tmp_path / "store").mkdir()
    real = tmp_path / "store" / "real.bin"
    (tmp_path / "chain.png").symlink_to("store/real.bin")
    (tmp_path / "link.png").symlink_to(tmp_path / "chain.png")
    writer(tmp_path / "link.png")
    first = real.read_bytes()
    assert first and mode(real) == 0o640
    real.write_bytes(b"old")
    real.chmod(0o604)
    writer(tmp_path / "link.png")
    assert real.read_bytes() == first and mode(real) == 0o604
    assert (tmp_path / "link.png").is_symlink() and (tmp_path / "chain.png").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["chain.png", "link.png", "store"] and os.listdir(real.parent) == [real.name]


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="there is no second file system")
def test_a_link_to_another_file_system_is_followed(tmp_path: Path):
    real = Path("/dev/shm") / f"stylefast-test-{new_token()}"
    (tmp_path / "link").symlink_to(real)
    try:
        write(tmp_path / "link")
        assert real.read_bytes() == b"new" and (tmp_path / "link").is_symlink()
    finally:
        real.unlink(missing_ok=True)


@pytest.mark.parametrize("permissions", [0o600, 0o644, 0o755, 0o666, 0o444])
def test_an_existing_file_keeps_its_permissions(tmp_path: Path, permissions: int):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    path.chmod(permissions)
    if os.access(path, os.W_OK):
        write(path)
        assert path.read_bytes() == b"new"
    else:
        with pytest.raises(PermissionError):
            write(path)
    assert mode(path) == permissions


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path: Path):
    write(tmp_path / "new" / "x")
    assert mode(tmp_path / "new" / "x") == 0o640 and mode(tmp_path / "new") == 0o750


def test_a_read_only_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x").write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda path, flags: False)  # a superuser may write to all files
    with pytest.raises(PermissionError, match="denied: '.*/x'"):
        write(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"old"


def test_paths_that_cannot_be_files_are_errors(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "lost").symlink_to("missing/x")
    os.mkfifo(tmp_path / "pipe")
    wrong = {
        "": IsADirectoryError,
        "file/x": NotADirectoryError,
        "loop": OSError,
        "lost": FileNotFoundError,
        "pipe": OSError,
    }
    for name, error in wrong.items():
        with pytest.raises(error, match=f"'{tmp_path / name}'"):
            write(tmp_path / name)
    with pytest.raises(OSError, match="Not a regular file, .* '/dev/null'"):
        write(Path("/dev/null"))
    assert sorted(os.listdir(tmp_path)) == ["file", "loop", "lost", "pipe"]


def test_a_link_to_a_missing_folder_is_followed(tmp_path: Path):
    (tmp_path / "out").symlink_to("real")
    write(tmp_path / "out" / "x")
    assert (tmp_path / "real" / "x").read_bytes() == b"new" and (tmp_path / "out").is_symlink()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=f"'{tmp_path / 'file'}'"):
        make_folder(tmp_path / "file")


def test_an_error_leaves_the_file_as_it_was(tmp_path: Path):
    write(tmp_path / "x", b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "x") as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert (tmp_path / "x").read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]


def test_writers_of_one_file_have_different_temporary_files(tmp_path: Path):
    with atomic_write(tmp_path / "a.png") as first:
        first.write_bytes(b"first")
        with atomic_write(tmp_path / "a.png") as second:
            assert second != first and first.suffix == second.suffix == ".png"
            second.write_bytes(b"sec")
            remove_leftovers(tmp_path)
            assert first.exists() and second.exists()
        assert (tmp_path / "a.png").read_bytes() == b"sec"
    assert (tmp_path / "a.png").read_bytes() == b"first" and os.listdir(tmp_path) == ["a.png"]


def killed_writer(path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"half")
        os._exit(1)


def test_only_leftovers_of_killed_writers_are_removed(tmp_path: Path):
    process = start(killed_writer, tmp_path / "x.png")
    process.join()
    (left,) = os.listdir(tmp_path)
    wrong_token = left[:20] + ("0" if left[20] != "0" else "1") + left[21:]
    alike = [wrong_token, ".x.part.png", ".stylefast-.part.png", ".stylefast-x.png", "stylefast" + left[10:]]
    for name in alike:
        (tmp_path / name).write_bytes(b"mine")
    folder = left.replace(left[11:35], new_token())
    (tmp_path / folder).mkdir()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*alike, folder])
    assert all((tmp_path / name).read_bytes() == b"mine" for name in alike)


def test_a_token_is_recognised():
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100 and all(map(is_token, tokens))
    assert not any(is_token(token[:-1] + ("0" if token[-1] != "0" else "1")) for token in tokens)
    assert not any(map(is_token, ("", "0" * 24, "\ud800", "x" * 24)))


def test_a_file_removed_before_its_lock_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lock, names = private.lock, []

    def removed(descriptor: int) -> bool | None:
        if len(names) == 1:
            (tmp_path / names[0]).unlink()
        return lock(descriptor)

    def name(token: str) -> Path:
        names.append(token)
        return tmp_path / token

    monkeypatch.setattr(private, "lock", removed)
    path, descriptor = create(name)
    os.close(descriptor)
    assert len(names) == 2 and path.name == names[1] and path.exists()


def test_tensors_are_read_back_through_a_link(tmp_path: Path):
    (tmp_path / "link").symlink_to("real")
    tensors(tmp_path / "link")
    assert read_tensors(tmp_path / "real", "kind")[0]["x"].tolist() == [0, 0]
