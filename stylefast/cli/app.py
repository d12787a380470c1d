# SPDX-License-Identifier: Apache-2.0
"""The command line: `stylefast demo | catalog | edit | convert | bench | info`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..generators.convert import convert as convert_network
from . import catalog
from . import demo as demonstration
from .arguments import Outdir
from .edit import edit
from .report import report

app: typer.Typer = typer.Typer(no_args_is_help=True, add_completion=False, help="Local editing of StyleGAN images.")
app.add_typer(catalog.app, name="catalog")
app.command()(edit)


@app.command()
def demo(
    outdir: Outdir = Path("demo"),
    network: Annotated[str, typer.Option(help="The generator, as in `stylefast edit`.")] = "random-face",
) -> None:
    """Edit the eyes, nose and mouth of real faces: catalog, edits, figures, locality."""
    summary = demonstration.run(outdir, network=network)
    print("Mean CIELAB difference inside / outside the part:\n" + demonstration.table(summary))
    print(f"Figures, edited images, manifest and summary.json are in {outdir}/")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A .pkl, .pt or .pth file of another code base.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    label: Annotated[
        int | None, typer.Option("--class", help="The class to show, if the network is conditional.")
    ] = None,
) -> None:
    """Convert a network of another code base to a file for --network; no code in it is run."""
    for name, value in convert_network(source, target, label=label).items():
        print(f"{name}: {value}")


@app.command()
def bench(
    rounds: Annotated[int, typer.Option(help="Timed calls per candidate, interleaved.")] = 15,
    only: Annotated[str, typer.Option(help="Regular expression; only workloads whose id it matches are timed.")] = "",
    record: Annotated[bool, typer.Option(help="Whether to append the figures to benchmarks/results/.")] = False,
) -> None:
    """Compare the CPU kernels with alternatives and with the limits of this machine (in a checkout)."""
    script = Path(__file__).parents[2] / "benchmarks" / "peers.py"
    if not script.is_file():
        raise FileNotFoundError("the benchmarks are in the source repository: run this in a checkout, pip install -e .")
    options = ["--rounds", str(rounds), "--only", only, *(["--record"] if record else [])]
    raise typer.Exit(subprocess.run([sys.executable, str(script), *options]).returncode)  # threads bind at its start


@app.command()
def info() -> None:
    """Print versions, the op x backend grid, and why a backend cannot run."""
    print(report())


def main() -> None:
    """Runs the command line; errors in files and values are printed as one line, without a traceback."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch's: a layer of 100 MB is 50 page faults, not 25,000
    try:
        app()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"stylefast: {error}")
