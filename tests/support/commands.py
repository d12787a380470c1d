# SPDX-License-Identifier: Apache-2.0
"""Commands run in this process, and a strict parser of the JSON that they write."""

import json

from typer.testing import CliRunner

from stylefast.cli import app as cli

NETWORK = ["--network", "toy:sg2"]
BUILD = ["catalog", "build", *NETWORK, "--seeds", "0-5", "--clusters", "6", "--restarts", "2", "--batch-size", "3"]


def run(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not valid JSON")

    return json.loads(text, parse_constant=refuse)
