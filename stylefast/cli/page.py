# SPDX-License-Identifier: Apache-2.0
"""`stylefast app`."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
import typer

from ..backends.native import instruction_set
from ..io.outputs import check_output_folder
from .arguments import SynthesisOptions, option_groups
from .terminal import remark, say

HOST = "127.0.0.1"
WAIT = 0.5  # seconds
PORTS = range(7860, 7960)  # the first one is the default port of Gradio


@option_groups
def page(
    catalog: Annotated[
        Path | None,
        typer.Option(
            help="Catalog of the generator, a .safetensors file. The default is a catalog in the cache, which is built "
            "as in the demo if there is none."
        ),
    ] = None,
    outdir: Annotated[
        Path, typer.Option(help="Folder in which every batch of edits has a folder. It is created if necessary.")
    ] = Path("batches"),
    port: Annotated[
        int | None,
        typer.Option(help="Port of the page. The default is 7860 or, if that is in use, the next free port."),
    ] = None,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Whether to open the page in a browser.")] = True,
    network: SynthesisOptions = SynthesisOptions(engine="auto"),
) -> None:
    """Name parts, try edits and make batches of edits in a web page, which only this machine can open.

    The page needs no internet. Ctrl-C ends it. With --engine auto, the page uses the engine of the latest batch in
    --outdir, so that this batch can be resumed. Without such a batch, or if its engine cannot run the network, the page
    uses the fastest engine.
    """
    check_output_folder("outdir", outdir)
    choose_port(port)  # raises before the work
    if find_spec("gradio") is None:
        raise ImportError('the page needs Gradio: pip install "stylefast[app]"')
    instruction_set()  # raises before the work if the environment asks for one that does not exist
    torch.backends.cudnn.allow_tf32 = network.tf32
    from ..app.page import create_page, serve
    from ..app.workspace import Workspace

    remark(f"Loading {network.network}")
    workspace = Workspace.open(
        network.network,
        catalog,
        truncation=network.truncation,
        device=network.device,
        precision=network.precision,
        engine=network.engine,
        outdir=outdir,
    )
    with private_folder():
        blocks = create_page(workspace)
        try:
            address = serve(blocks, choose_port(port), open_browser=open_, wait=False)
            say(f"The page is at {address} until you press Ctrl-C")
            while True:
                time.sleep(WAIT)  # a signal that another thread has received waits until this thread runs
        except KeyboardInterrupt:
            pass
        finally:
            workspace.close()  # threads that compute while the interpreter ends would abort the process
            time.sleep(WAIT)  # so that browsers show the last state of a batch
            blocks.close(verbose=False)


@contextmanager
def private_folder() -> Iterator[None]:
    """Give Gradio a folder of its own, because a process deletes files at its end that another one may still serve."""
    parent = os.environ.get("GRADIO_TEMP_DIR")
    if parent is not None:
        os.makedirs(parent, exist_ok=True)
    with TemporaryDirectory(prefix="stylefast-page-", dir=parent, ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield


def choose_port(port: int | None) -> int:
    """Return a port that is free now: the given one, or else the first one from 7860.

    Raises:
        ValueError: If the port is out of range or in use.
    """
    if port is not None and not 1 <= port < 1 << 16:
        raise ValueError(f"port must be in [1, 65535], got {port}")
    reason = ""
    for candidate in PORTS if port is None else [port]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            try:
                probe.bind((HOST, candidate))
                return candidate
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
    raise ValueError(f"port must be free, got {port or f'{PORTS[0]} to {PORTS[-1]}'}: {reason}")
