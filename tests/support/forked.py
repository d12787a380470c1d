# SPDX-License-Identifier: Apache-2.0
"""Functions run in separate processes, alone or as ranks of a gloo group.

The processes are forked from a server that has torch loaded.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["torch", "stylefast.cli", "pytest", "hypothesis"])
SECONDS = 300  # time limit for the answer of a process


def start(function: Callable[..., Any], *arguments: Any) -> ForkServerProcess:
    """Start a process that runs a function on one thread."""
    process = FORK.Process(target=_alone, args=(function, arguments), daemon=True)
    process.start()
    return process


def printed(script: str, **variables: str) -> list[str]:
    """Run a script, with environment variables, in a process that is forked from the server.

    Returns:
        The lines that the script and its children have printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "output"
        process = FORK.Process(target=_script, args=(script, variables, path))
        process.start()
        process.join(SECONDS)
        is_late = process.is_alive()
        process.kill()
        process.join()
        assert process.exitcode == 0, "the script took too long" if is_late else "the script failed"
        return path.read_text().splitlines()


def redirect(descriptor: int, path: Path) -> None:
    """Let a descriptor of this process, such as 1 for standard output, write into a new file."""
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)


def in_ranks(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return the results of `function(rank, *arguments)` in `size` ranks of `torch.distributed.group.WORLD`."""
    with tempfile.TemporaryDirectory() as folder:
        pipes = [FORK.Pipe(duplex=False) for _ in range(size)]
        all_arguments = [
            (function, arguments, rank, size, f"{folder}/store", out) for rank, (_, out) in enumerate(pipes)
        ]
        processes = [FORK.Process(target=_rank, args=rank_arguments, daemon=True) for rank_arguments in all_arguments]
        for process in processes:
            process.start()
        try:
            return [_answer(answers) for answers, _ in pipes]
        finally:
            for process in processes:
                process.kill()
                process.join()


def _answer(answers: Connection) -> Any:
    assert answers.poll(SECONDS), "a rank did not answer in time"
    succeeded, value = pickle.loads(answers.recv_bytes())
    assert succeeded, value
    return value


def _script(script: str, variables: dict[str, str], path: Path) -> None:
    os.environ.update(variables)
    redirect(sys.stdout.fileno(), path)
    exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})


def _alone(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    function(*arguments)


def _rank(
    function: Callable[..., Any], arguments: tuple[Any, ...], rank: int, size: int, store: str, out: Connection
) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
        # `out.send` would share the memory of tensors, which ends with this process.
        out.send_bytes(pickle.dumps((True, function(rank, *arguments))))
    except BaseException:  # reported to the test
        out.send_bytes(pickle.dumps((False, traceback.format_exc())))
    dist.destroy_process_group()
