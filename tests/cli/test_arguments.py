# SPDX-License-Identifier: Apache-2.0
"""Options of the commands: option dataclasses, choices, and the notation of seeds."""

import inspect
from dataclasses import dataclass
from typing import Literal

import pytest
from typer.testing import CliRunner

from stylefast.catalog import BuildOptions, Clustering
from stylefast.cli import app as cli
from stylefast.cli import arguments
from stylefast.cli.edit import ImageOptions, QueryOptions
from stylefast.editing import JobOptions


@pytest.mark.parametrize(
    "text, expected",
    [("0,1,4-6", [0, 1, 4, 5, 6]), ("7", [7]), ("3-3", [3]), (" 2 , 0-1 ", [2, 0, 1]), ("8-10,1", [8, 9, 10, 1])],
)
def test_seeds_are_numbers_and_ranges(text, expected):
    assert list(arguments.seeds("--seeds", text)) == expected


INVALID = ["", "a", "1,", "1-", "-1", "1--2", "1.5", "1 2", "6-4", "0,6-4", "0-99999999999", "4294967296", "9" * 999]


@pytest.mark.parametrize("text", [*INVALID, "0,0-4294967295", "0-9000000,0-9000000"])
def test_invalid_seeds_are_refused(text):
    with pytest.raises(ValueError, match="--references must"):
        arguments.seeds("--references", text)


def test_a_range_of_seeds_takes_no_memory():
    assert arguments.seeds("--seeds", "0-4294967295") == range(1 << 32)


@pytest.mark.parametrize(
    "command, option, choices",
    [
        (["catalog", "build"], "--boxes", ["ffhq", "none"]),
        (["catalog", "build"], "--dtype", ["float32", "float16", "bfloat16"]),
        (["catalog", "build"], "--features", ["raw", "standardized", "squared"]),
        (["catalog", "annotate"], "--boxes", ["ffhq"]),
        (["edit"], "--query", ["sequential", "simultaneous", "softmax"]),
        (["edit"], "--format", ["png", "jpg", "webp"]),
        (["edit"], "--roi-mode", ["union", "target", "reference"]),
    ],
)
def test_choices_are_listed_by_help_and_checked(command, option, choices):
    result = CliRunner().invoke(cli.app, [*command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    (line,) = (line for line in result.output.splitlines() if option in line.split()[:2])
    assert f"<{' | '.join(choices)}>" in line
    result = CliRunner().invoke(cli.app, [*command, option, "abacus"])
    assert result.exit_code == 2 and option in result.stderr and "abacus" in result.stderr


@dataclass(frozen=True)
class Colours:
    """Option dataclass of a test.

    Args:
        n_colours: Number of colours, in a text
            of two lines.
        named: whether they have names.
        kind: Kind of the colours.
    """

    n_colours: int = 3
    named: bool = False
    kind: Literal["warm", "cold"] = "warm"


def test_options_of_a_group_are_passed_as_one_object():
    calls = []

    def command(name: str, colours: Colours = Colours(named=True)) -> None:  # noqa: B008
        calls.append((name, colours))

    grouped = arguments.option_groups(command)
    parameters = inspect.signature(grouped).parameters
    assert list(parameters) == ["name", "n_colours", "named", "kind"]
    assert [parameter.default for parameter in parameters.values()] == [inspect.Parameter.empty, 3, True, "warm"]
    helps = [parameter.annotation.__metadata__[0].help for parameter in list(parameters.values())[1:]]
    assert helps == ["Number of colours, in a text of two lines.", "Whether they have names.", "Kind of the colours."]
    grouped(name="x", n_colours=7, named=False, kind="cold")
    assert calls == [("x", Colours(7, False, "cold"))]


GROUPS = (
    BuildOptions,
    Clustering,
    ImageOptions,
    JobOptions,
    QueryOptions,
    arguments.NetworkOptions,
    arguments.SynthesisOptions,
)


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_of_a_group_is_documented(group):
    helps = arguments._helps(group)
    assert list(helps) == list(group.__dataclass_fields__)
    assert all(text[0].isupper() for text in helps.values())
    assert all(text.endswith(".") for text in helps.values())
