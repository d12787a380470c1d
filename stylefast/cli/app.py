# SPDX-License-Identifier: Apache-2.0
"""The commands of `stylefast`: app, edit, faces, gallery, demo, convert, bench, info and the group catalog."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from .. import __version__
from ..core.text import describe, printable
from ..core.waiting import CHOSEN
from ..generators.convert import convert as convert_network
from ..io.outputs import check_output_file, check_output_folder
from . import catalog
from . import demo as demonstration
from .arguments import example
from .edit import edit
from .faces import faces
from .gallery import gallery
from .page import page
from .report import report
from .terminal import drop_output, print_whole_text, say

ALLOCATION = "can't allocate memory"  # in the RuntimeError of torch on the CPU

app: typer.Typer = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Local editing of StyleGAN images.",
    epilog="`stylefast COMMAND --help` describes the options of a command and gives an example.",
)
app.add_typer(catalog.app, name="catalog")


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"stylefast {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Local editing of StyleGAN images."""


app.command(epilog=example("stylefast edit --catalog my.safetensors --seeds 1 --references 2 --parts eyes"))(edit)
app.command(epilog=example("stylefast gallery out"))(gallery)
app.command("faces", epilog=example("stylefast faces --seeds 0-63 --out faces.jpg"))(faces)
app.command("samples", epilog=example("stylefast samples --network cats.safetensors --seeds 0-63"))(faces)


app.command("app", epilog=example("stylefast app --catalog my.safetensors"))(page)


@app.command(epilog=example("stylefast demo --outdir demo"))
def demo(
    outdir: Annotated[
        Path, typer.Option(help="Folder for the catalog, figures and edits. It is created if necessary.")
    ] = Path("demo"),
    network: Annotated[str, typer.Option(help="Generator of the images, as in `stylefast edit`.")] = "random-face",
) -> None:
    """Edit the eyes, nose and mouth of generated faces: build a catalog, make edits, draw figures, measure locality."""
    check_output_folder("outdir", outdir)
    summary = demonstration.run(outdir, network=network)
    say("Mean CIELAB difference inside / outside the part:\n" + demonstration.table(summary))
    say("sequential_1 has the budget 1 and the threshold 0.1. sequential, in the figures, adapts to the part.")
    say(f"Figures, edited images, manifest and summary.json are in {outdir}/")


@app.command(epilog=example("stylefast convert ffhq.pkl ffhq.safetensors"))
def convert(
    source: Annotated[Path, typer.Argument(help="Network of another code base, a .pkl, .pt or .pth file.")],
    target: Annotated[Path, typer.Argument(help="File to write the network to, a .safetensors file.")],
    label: Annotated[
        int | None, typer.Option("--class", help="Class of the images, if the network is conditional.")
    ] = None,
) -> None:
    """Convert a network of another code base to a file for the option --network. No code in the source is run."""
    check_output_file("target", target, ".safetensors")
    for name, value in convert_network(source, target, label=label).items():
        say(f"{name}: {value}")


@app.command(epilog=example("stylefast bench --rounds 5 --only blend"))
def bench(
    rounds: Annotated[
        int, typer.Option(min=1, help="Timed calls per implementation. Implementations take turns.")
    ] = 15,
    only: Annotated[str, typer.Option(help="Regular expression. Only workloads whose id matches it are timed.")] = "",
    record: Annotated[bool, typer.Option(help="Whether to append the results to benchmarks/results/.")] = False,
) -> None:
    """Compare the CPU kernels with alternatives and with the limits of this machine. This needs a source checkout."""
    script = Path(__file__).parents[2] / "benchmarks" / "peers.py"
    if not script.is_file():
        raise FileNotFoundError(
            "the benchmarks are in the source repository: run `pip install --no-build-isolation -e .` in a checkout"
        )
    options = ["--rounds", str(rounds), "--only", only, *(["--record"] if record else [])]
    # The script runs in a new process, because threads are bound to processors when a process starts.
    environment = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    raise typer.Exit(subprocess.run([sys.executable, str(script), *options], env=environment).returncode)


@app.command(epilog=example("stylefast info"))
def info() -> None:
    """Print versions, the table of ops and backends, and the reasons why backends cannot run.

    A cell of the table has an x if the backend can run the op, a - if it cannot, and nothing if it has no such kernel.
    """
    say(report())


def main() -> None:
    """Run the command line. Errors in files and values are printed as one line, without a traceback."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages in torch: 50 instead of 25,000 faults per 100 MB
    print_whole_text()
    if any(re.fullmatch(r"(--[\w-]+=)?", argument) for argument in sys.argv[1:]):
        sys.exit("stylefast: no argument must be empty, as it is if a variable of the shell is not set")
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
        sys.exit(1)
    except (ValueError, OSError, ImportError, MemoryError, torch.OutOfMemoryError) as error:
        sys.exit(printable(f"stylefast: {describe(error)}"))
    except RuntimeError as error:
        if ALLOCATION not in str(error):
            raise
        sys.exit(f"stylefast: there is not enough memory: {str(error).partition(ALLOCATION)[2].lstrip(' :')}")
