# SPDX-License-Identifier: Apache-2.0
"""Jobs and builds that are killed, interrupted or lose a rank leave complete files and resume to the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from catalogs import build
from editors import catalog_of
from forked import SECONDS, redirect, start
from jobs import files as files_of
from jobs import grid, run

from stylefast import Catalog
from stylefast.cli import app as cli
from stylefast.editing import StyleEditor
from stylefast.generators.toy import toy

KILLS = 10
N_EDITS = 200
TARGETS = f"0-{N_EDITS - 1}"


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("catalog") / "toy.safetensors"
    catalog_of("sg2").save(path)
    return path


def edit(directory: Path, catalog: Path) -> None:
    generator = toy("sg2")
    editor = StyleEditor(generator, Catalog.load(catalog, generator))
    run(directory, grid(tuple(range(8)), (11, 12, 13)), editor=editor, batch_size=3)


def make_catalog(directory: Path, catalog: Path) -> None:
    build(toy("sg2"), workdir=directory / "work", shard_images=2).save(directory / catalog.name)


def finish(function: Callable[..., None], *arguments: Path) -> float:
    """Run a function in another process until it ends; return the duration in seconds."""
    begin = time.monotonic()
    process = start(function, *arguments)
    process.join(SECONDS)
    assert process.exitcode == 0
    return time.monotonic() - begin


@pytest.mark.parametrize("function", [edit, make_catalog])
def test_jobs_and_builds_resume_after_random_kills(tmp_path: Path, catalog: Path, function: Callable[..., None]):
    seconds = min(finish(function, tmp_path / name, catalog) for name in ("whole", "again"))
    expected, rng = files(tmp_path / "whole"), random.Random(0)
    assert files(tmp_path / "again") == expected
    kills, jobs, moments = 0, 0, set[int]()
    while kills < KILLS or len(moments) < 2:
        assert kills < 10 * KILLS, "all kills left the same number of files"
        directory = tmp_path / str(jobs)
        process = start(function, directory, catalog)
        process.join(rng.uniform(0, seconds))
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
            left = files(directory).items()
            private = (".stylefast", "manifest.0", "kmeans")
            final = {name: x for name, x in left if not any(word in name for word in private)}
            assert final.items() <= expected.items()
            moments.add(len(final))
        else:
            assert process.exitcode == 0 and files(directory) == expected
            jobs += 1
    finish(function, directory, catalog)
    assert files(directory) == expected


def command(directory: Path, catalog: Path, targets: str) -> None:
    """Run `stylefast edit` in this process with standard error redirected to a file."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with SIGINT ignored
    redirect(2, directory.with_suffix(".err"))
    sys.argv = ["stylefast", *edit_arguments(directory, catalog, targets)]
    cli.main()


def edit_arguments(directory: Path, catalog: Path, targets: str) -> list[str]:
    given = {"catalog": catalog, "outdir": directory, "seeds": targets, "references": "7", "parts": "nose"}
    options = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    return ["edit", *options, "--network", "toy:sg2", "--no-measure", "--batch-size", "2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, catalog: Path) -> Path:
    """Folder of a job that nothing has stopped."""
    directory = tmp_path_factory.mktemp("jobs") / "whole"
    finish(command, directory, catalog, TARGETS)
    return directory


def images_in(directory: Path) -> list[Path]:
    return list(directory.glob("[!.]*.png"))


def wait_for_journal(directory: Path) -> None:
    """Wait until an entry was written, which is later than its image."""
    for _ in range(100 * SECONDS):
        if any(path.read_bytes().count(b"\n") > 1 for path in directory.glob("manifest.0*.jsonl")):
            return
        time.sleep(0.01)
    raise AssertionError("no entry was written in time")


def test_an_interrupt_stops_a_job_soon_and_says_how_to_resume(tmp_path: Path, catalog: Path, whole: Path):
    process = start(command, tmp_path / "out", catalog, TARGETS)
    wait_for_journal(tmp_path / "out")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)  # so that it writes nothing between the count and the interrupt
    before = len(images_in(tmp_path / "out"))
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    process.join(SECONDS)
    after = len(images_in(tmp_path / "out"))
    assert process.exitcode == 130
    assert (
        f"interrupted: {tmp_path / 'out'}/ has {after} of {N_EDITS} edits; the same"
        in (tmp_path / "out.err").read_text()
    )
    # A batch, the images that wait for the two writers, and the images that they are writing.
    assert after <= before + 2 + 2 * 2 + 2 and after < N_EDITS
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".stylefast")]
    finish(command, tmp_path / "out", catalog, TARGETS)
    assert files_of(tmp_path / "out") == files_of(whole)


def torchrun(size: int, *arguments: str) -> subprocess.Popen[str]:
    address = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size), *address]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command_line = [*launcher, "-m", "stylefast", *arguments]
    return subprocess.Popen(command_line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def children(parent: int) -> list[int]:
    pids = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = status.parent.name, status.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):  # the process has ended meanwhile
            continue
        pids += [int(name)] if int(fields[1]) == parent else []
    return pids


def test_a_rank_that_dies_ends_the_job_and_another_resumes_it(tmp_path: Path, catalog: Path, whole: Path):
    expected = files_of(whole)
    job = torchrun(2, *edit_arguments(tmp_path / "out", catalog, TARGETS))
    wait_for_journal(tmp_path / "out")
    os.kill(max(children(job.pid)), signal.SIGKILL)
    text, _ = job.communicate(timeout=SECONDS)
    assert job.returncode != 0 and "SIGKILL" in text
    left = {name: content for name, content in files_of(tmp_path / "out").items() if Path(name).name[0] != "."}
    journals = [name for name in left if Path(name).name.startswith("manifest.0")]
    assert {name: x for name, x in left.items() if name not in journals}.items() < expected.items()
    assert "manifest.jsonl" not in left and journals
    written = {path: path.stat().st_mtime_ns for path in images_in(tmp_path / "out")}
    finish(command, tmp_path / "out", catalog, TARGETS)
    assert any(path.stat().st_mtime_ns == time_ns for path, time_ns in written.items())  # images that were kept
    assert files_of(tmp_path / "out") == expected
