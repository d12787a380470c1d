# SPDX-License-Identifier: Apache-2.0
"""The code of README.md, CONTRIBUTING.md and docs runs, with toy networks in place of real ones."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from snippets import PAGES, ROOT, blocks, commands, names, replaced, use_toys, words, write_inputs, write_network
from typer.testing import CliRunner

from stylefast.cli import app as cli

# Languages of blocks that are not code, or that the build of the documentation runs.
OTHER = {"text", "{toctree}", "{eval-rst}", "{help}", "{literalinclude}", "{include}"}


def stylefast(line: list[str]) -> str:
    """Run a command of stylefast in this process; return what a terminal shows."""
    if line[0] == "app":  # it runs until an interrupt
        line = [*line, "--help"]
    write_inputs(line)
    result = CliRunner().invoke(cli.app, line)
    if isinstance(result.exception, ValueError):
        return f"stylefast: {result.exception}\n"  # as stylefast.cli.main prints it
    assert result.exit_code == 0, (line, result.output, result.exception)
    return result.stdout


def torchrun(line: list[str]) -> str:
    """Run the program that torchrun would start, once, in this process and on the CPU."""
    return stylefast(["cpu" if word == "cuda" else word for word in line[line.index("stylefast") + 1 :]])


def make(line: list[str]) -> None:
    """Check that make knows the targets."""
    process = subprocess.run(["make", "-n", *line], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def pytest_(line: list[str]) -> None:
    """Check that the files and folders of a pytest command exist."""
    assert all((ROOT / word).exists() for word in line if word.startswith("tests"))


def python(line: list[str]) -> str | None:
    if line == ["-m", "stylefast"]:
        return stylefast(["info"])
    return replaced("tests/docs/test_examples.py")(line)


def rm(line: list[str]) -> None:
    for path in Path().glob(line[0]):
        path.unlink()


def objdump(line: list[str]) -> None:
    assert line[-1].endswith("libstylefast_cpu.so") and line[-1].startswith("stylefast/backends/")


HANDLERS = {
    "stylefast": stylefast,
    "torchrun": torchrun,
    "make": make,
    "pytest": pytest_,
    "python": python,
    "rm": rm,
    "objdump": objdump,
    "pip": replaced("tests/package/test_build.py"),
    "benchmarks/gpu.sh": replaced("tests/benchmarks/test_gpu_stages.py"),
    "pre-commit": replaced("tests/package/test_project_files.py"),
}


def run_command(line: str) -> str | None:
    is_variable = re.compile("[A-Z_]+=").match
    program, *arguments = itertools.dropwhile(is_variable, words(line))
    handler = HANDLERS[program.removeprefix(".venv/bin/")]
    return handler(arguments)


@pytest.mark.filterwarnings("ignore::stylefast.kmeans.EmptyClusterWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    use_toys(monkeypatch)
    write_network(Path("ffhq.safetensors"))
    namespace = names()
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.text, f"{page.name}:\n{block.text}", "exec"), namespace)
        elif block.language in ("sh", "console"):
            for line, expected in commands(block.text):
                output = run_command(line) or ""
                if block.language == "console":
                    assert output == expected, line
                else:
                    assert not output.startswith("stylefast: "), (line, output)
        elif block.text.startswith("target,reference,part"):
            Path("pairs.csv").write_text(block.text)
        else:
            assert block.language in OTHER, block.language


@pytest.mark.parametrize(
    "text",
    [
        "stylefast edit --abacus",
        "stylefast catalog show absent.safetensors",
        "make abacus",
        "python absent.py",
        "abacus",
    ],
)
def test_a_wrong_command_fails(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, KeyError)):
        run_command(text)


def test_a_session_with_another_output_is_noticed():
    session = "$ stylefast info\nabacus\n"
    assert commands(session) == [("stylefast info", "abacus\n")]
    assert run_command("stylefast info") != "abacus\n"


def test_continued_lines_are_one_command():
    assert commands("# a comment\nmake \\\n    test  # why\n") == [("make test  # why", "")]
    assert words("make test  # why") == ["make", "test"] and words("objdump a.so | less") == ["objdump", "a.so"]


def test_every_page_is_read():
    assert len(PAGES) > 25 and shutil.which("make")
    assert {block.language for page in PAGES for block in blocks(page)} >= {"python", "sh", "console"}
