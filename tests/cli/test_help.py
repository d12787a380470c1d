# SPDX-License-Identifier: Apache-2.0
"""Help pages: panels of options, and an example that can be copied."""

from __future__ import annotations

import re
import shlex

import pytest
from typer.testing import CliRunner

from stylefast.cli import app as cli

COMMANDS = ("catalog build", "catalog show", "catalog annotate", "edit", "gallery", "faces", "samples", "app")
COMMANDS += ("convert", "demo", "bench", "info")


def help_page(command: str, width: int) -> list[str]:
    """Lines of the help page of a command that are not empty."""
    arguments = [*command.split(), "--help"]
    result = CliRunner().invoke(cli.app, arguments, env={"COLUMNS": str(width), "TERM": "dumb"})
    assert result.exit_code == 0
    return [line.strip() for line in result.output.splitlines() if line.strip()]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_an_example_on_one_line(command: str, width: int):
    lines = help_page(command, width)
    assert lines[-2] == "Example:" and lines[-1].startswith(f"stylefast {command}")
    known = set(re.findall(r"--[\w-]+", " ".join(lines[:-2])))
    assert {word for word in shlex.split(lines[-1]) if word.startswith("-")} <= known


@pytest.mark.parametrize(
    "command, panels",
    [
        ("edit", ["Options", "Images", "Query", "Generator", "Output", "Run"]),
        ("catalog build", ["Options", "Images", "Clustering", "Generator", "Run"]),
    ],
)
def test_help_shows_options_in_panels(command: str, panels: list[str]):
    assert re.findall(r"╭─ (\w+) ─", "\n".join(help_page(command, 100))) == panels
