# SPDX-License-Identifier: Apache-2.0
"""Texts of the commands: escapes, errors of the system, closed pipes, locales, and the version."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import NETWORK, run
from typer.testing import CliRunner

from stylefast import Catalog, __version__
from stylefast.cli import app as cli
from stylefast.cli.terminal import name_options
from stylefast.core.text import describe

CLI = [sys.executable, "-m", "stylefast"]
SEVERAL = """
import sys
from stylefast.cli import main
commands = " ".join(sys.argv[1:]).split(" then ")
for command in commands:
    sys.argv[1:] = command.split()
    try:
        main()
    except SystemExit as end:
        print("status", end.code)
"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_errors_of_the_system_have_no_numbers(tmp_path: Path):
    with pytest.raises(OSError) as caught:
        (tmp_path / "missing").read_bytes()
    assert describe(caught.value) == f"{tmp_path / 'missing'}: no such file or directory"
    assert describe(MemoryError()) == "there is not enough memory"
    assert describe(ValueError("x must be 1")) == "x must be 1"


@pytest.mark.parametrize(
    "message, expected",
    [
        ("n_clusters must be 1", "--clusters must be 1"),
        ("n_clustersx must be 1", "n_clustersx must be 1"),
        ("the n_clusters must be 1", "the n_clusters must be 1"),
    ],
)
def test_errors_name_options_as_users_write_them(message, expected):
    error = name_options(TypeError(message), {"n_clusters": "--clusters"})
    assert type(error) is TypeError and str(error) == expected


def test_text_from_files_is_escaped(catalog, capsys):
    loaded = Catalog.load(catalog)
    loaded.provenance["seeds"] = "\x1b[2J\r0-5"
    loaded.parts = {"eyes\x07": [0]}
    loaded.save(catalog)
    shown = run("catalog", "show", catalog)
    assert "\\x1b[2J\\r0-5" in shown and "eyes\\x07" in shown and not set(shown) & set("\x1b\x07\r")


def test_the_version_is_printed():
    assert run("--version") == f"stylefast {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["edit", "--help"]])
def test_a_closed_pipe_ends_a_command_quietly(arguments):
    process = subprocess.Popen([*CLI, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() == 1 and errors == ""


def test_names_survive_a_locale_without_their_characters(catalog, tmp_path):
    annotate = ["catalog", "annotate", catalog, "--part", "bouche_é=1"]
    edit = ["edit", "--catalog", catalog, *NETWORK, "--seeds", "1", "--references", "2", "--parts", "bouche_é"]
    words = map(str, [*annotate, "then", *edit, "--outdir", tmp_path / "out"])
    process = subprocess.run([sys.executable, "-c", SEVERAL, *words], env=os.environ | ASCII, capture_output=True)
    expected = b"bouche_\\xe9 [1]\nstatus 0\nstatus stylefast: names of files must exist in this locale"
    assert process.stdout.startswith(expected), (process.stdout, process.stderr)
    assert Catalog.load(catalog).parts == {"bouche_é": [1]}
    run(*edit, "--outdir", tmp_path / "out")
    assert (tmp_path / "out" / "seed0001_bouche_é_seed0002_sequential.png").exists()


def test_formats_are_found_in_any_case(catalog, tmp_path):
    base = ["edit", "--catalog", catalog, *NETWORK, "--seeds", "1, 2", "--references", "3", "--parts", "eyes , nose"]
    for text, suffix in (("PNG", "png"), ("jpeg", "jpg"), ("JPEG", "jpg"), (" JPG ", "jpg")):
        run(*base, "--outdir", tmp_path / text, "--format", text)
        assert len(list((tmp_path / text).glob(f"*.{suffix}"))) == 4


def test_the_work_is_announced(catalog, tmp_path):
    base = ["edit", "--catalog", catalog, *NETWORK, "--seeds", "1-2", "--references", "3", "--parts", "eyes"]
    out = tmp_path / "out"
    result = CliRunner().invoke(cli.app, [*map(str, base), "--outdir", str(out)])
    assert result.exit_code == 0
    assert result.stderr == f"2 edits of images of toy:sg2 into {out}/\n`stylefast gallery {out}` shows them\n"
