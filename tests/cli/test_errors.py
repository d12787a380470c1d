# SPDX-License-Identifier: Apache-2.0
"""Errors of the command line: the message is one line, and no file is written."""

import re

import pytest
from commands import BUILD, NETWORK

from stylefast.cli import app as cli

PAIRS = ["edit", "--catalog", "toy.safetensors", *NETWORK, "--pairs"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["catalog", "build", "--out", "x.safetensors", "--seeds", "6-4"], "--seeds must rise"),
        (["catalog", "build", "--out", "x.safetensors", "--network", "toy:sg9"], "--network must be one of"),
        ([*BUILD, "--out", "x.safetensors", "--clusters", "0"], "--clusters must be"),
        ([*BUILD, "--out", "x.safetensors", "--restarts", "100000000000000"], "there is not enough memory: you tried"),
        (
            [*BUILD, "--out", "x.safetensors", "--method", "nmf", "--features", "squared"],
            "--method nmf does not run k-means: leave out --features, --restarts$",
        ),
        ([*BUILD, "--out", "x.safetensors", "--resolution", "999"], "--resolution must be"),
        ([*BUILD, "--out", "toy.safetensors/x.safetensors"], "toy.safetensors"),
        ([*BUILD, "--out", "x.safetensors", "--workdir", "text"], "--workdir must be in a folder .* is not a folder"),
        (["catalog", "build", "--out", "x.pt"], "--out must be the path of a .safetensors file, got 'x.pt'"),
        (["catalog", "build", "--out", "folder.safetensors"], "--out must be a file, got the folder"),
        ([*BUILD, "--out", "x.safetensors", "--layer", "c"], "--layer must be one of 'convs.0'"),
        ([*BUILD, "--out", "x.safetensors", "--contribution-images", "7"], "--contribution-images must be at most 6"),
        ([*BUILD[:4], "--out", "x.safetensors", "--seeds", "0-4294967295"], "--shard-images must give at most"),
        ([*BUILD[:4], "--out", "x.safetensors", "--seeds", "0-50000000"], "--workdir must be given for 50,000,001"),
        (["catalog", "show", "nowhere.safetensors"], "nowhere.safetensors does not exist: `stylefast catalog build"),
        (["catalog", "show", "toy.safetensors", "--outdir", "o", "--seeds", "0-999"], "at most 100 images"),
        (["catalog", "show", "text"], "text cannot be used"),
        (["catalog", "annotate", "toy.safetensors"], "annotate needs"),
        (["catalog", "annotate", "toy.safetensors", "--part", "eyes"], "--part must look like"),
        (["catalog", "annotate", "toy.safetensors", "--part", "eyes=1;2"], "--part must look like"),
        (["catalog", "annotate", "toy.safetensors", "--part", "=1"], "--part must look like"),
        (["catalog", "annotate", "toy.safetensors", "--part", "eyes=99"], r"cluster ids in \[0, 6\)"),
        (["catalog", "annotate", "toy.safetensors", "--part", "a=1", "--part", "a=2"], "'a' twice"),
        *(
            (["catalog", "annotate", "toy.safetensors", "--part", f"{name}=1"], "names of parts must be texts")
            for name in ("a/b", "a,b", "a=b", ".", "..", "a\tb", "x" * 101, "\x1b[2J")
        ),
        (["edit", "--parts", "eye"], "got 'eye'; did you mean 'eyes'"),
        (
            [*PAIRS[:2], "nowhere.safetensors", *PAIRS[3:], "bad.csv"],
            "nowhere.safetensors does not exist: `stylefast catalog build",
        ),
        (["edit", "--seeds", "0-99999999999"], r"--seeds must be in \[0, 2\*\*32\), got '0-99999999999'"),
        (["edit", "--references", "4294967296"], r"--references must be in \[0, 2\*\*32\)"),
        (["edit", "--epsilon", "0.1;2"], "--epsilon must be numbers"),
        (["edit", "--epsilon", "-1"], "--epsilon must be a finite number"),
        (["edit", "--rho", "2"], "--rho must be"),
        (["edit", "--seeds", "0,0"], "--seeds must be different, got '0,0'"),
        (["edit", "--seeds", "w.npy"], "w.npy"),
        (["edit", "--seeds", "0..3"], "--seeds must be seeds such as 0,1,4-6 or files, and 0..3 does not exist"),
        (["edit", "--seeds", "text.npy"], "text.npy cannot be used"),
        (["edit", "--writers", "0"], "--writers must be"),
        (["edit", "--shard", "3/2"], "--shard must look like 1/8"),
        (["edit", "--shard", "0/2"], "--shard must look like 1/8"),
        (["edit", "--shard", "1/2", "--engine", "auto"], "--engine must be named with --shard"),
        (["edit", "--shard", "half"], "--shard must look like 1/8"),
        (["edit", "--pairs", "bad.csv"], "leave out --parts"),
        (["edit", "--skip-bad"], "--skip-bad needs --pairs"),
        (["edit", "--outdir", ""], "no argument must be empty"),
        (["edit", "--outdir="], "no argument must be empty"),
        ([*BUILD[:4], "--out", "x.safetensors", "--seeds", "1-3,2"], "--seeds must be different, got '1-3,2'"),
        ([*PAIRS, "bad.csv"], "bad.csv, line 3: part must be one of 'eyes', 'nose', got 'ear'"),
        ([*PAIRS, "missing.csv"], "missing.csv"),
        ([*PAIRS, "bad.csv", "--epsilon", "1,2"], "one --epsilon"),
        (PAIRS[:-1], "without --pairs, edit needs .* missing: --seeds, --references, --parts"),
        ([*PAIRS[:-1], "--seeds", "1", "--parts", "eyes"], "missing: --references$"),
        (["edit", "--device", "abacus"], "--device must be 'cpu', 'cuda' or 'cuda:N', got 'abacus'"),
        (["edit", "--references", "x"], "--references must look like"),
        (["edit", "--batch-size", "0"], "--batch-size must be"),
        (["edit", "--network", "toy:sg3"], "toy.safetensors cannot be used"),
        (["edit", "--outdir", "text"], "--outdir must be in a folder .* is not a folder"),
    ],
)
def test_an_error_of_the_user_is_printed_as_one_line(catalog, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("no catalog")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "text.npy").write_text("no latents")
    (tmp_path / "bad.csv").write_text("target,reference,part\n1,2,eyes\n1,2,ear\n")
    if arguments[0] == "edit" and arguments[1] != "--catalog":
        required = ["--catalog", "toy.safetensors", "--seeds", "1", "--references", "2", "--parts", "eyes", *NETWORK]
        arguments = ["edit", *required, *arguments[1:]]  # if an option is repeated, its last value counts
    monkeypatch.setattr("sys.argv", ["stylefast", *arguments])
    before = catalog.read_bytes()
    with pytest.raises(SystemExit) as caught:
        cli.main()
    # Python prints the text of a SystemExit and exits with status 1.
    assert isinstance(caught.value.code, str) and re.search(message, caught.value.code)
    assert caught.value.code.startswith("stylefast: ") and "\n" not in caught.value.code
    assert "Traceback" not in capsys.readouterr().err
    assert catalog.read_bytes() == before
    assert not (tmp_path / "x.safetensors").exists() and not (tmp_path / "out").exists()


def test_an_unknown_command_fails(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["stylefast", "paint"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2 and "paint" in capsys.readouterr().err
