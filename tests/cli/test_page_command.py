# SPDX-License-Identifier: Apache-2.0
"""`stylefast app`: the ports that it takes, and what it refuses."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from commands import NETWORK
from typer.testing import CliRunner

from stylefast.cli import app as cli
from stylefast.cli import page

HOST = "127.0.0.1"


def refusal(*arguments: object) -> str:
    """Return the message of the error that ends the command."""
    result = CliRunner().invoke(cli.app, ["app", *NETWORK, "--no-open", *map(str, arguments)])
    assert isinstance(result.exception, (ValueError, OSError, ImportError)), result.output
    return str(result.exception)


def test_a_port_that_is_in_use_is_refused():
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        assert refusal("--port", port) == f"--port must be free, got {port}: address already in use"


def test_the_next_free_port_is_taken(monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as other, socket.socket() as next_:
        other.bind((HOST, 0))
        other.listen()
        next_.bind((HOST, 0))
        ports = [other.getsockname()[1], next_.getsockname()[1]]
        next_.close()
        monkeypatch.setattr(page, "PORTS", ports)
        assert page.choose_port(None) == ports[1]
        monkeypatch.setattr(page, "PORTS", ports[:1])
        with pytest.raises(ValueError, match=f"port must be free, got {ports[0]} to {ports[0]}"):
            page.choose_port(None)


def test_a_port_taken_while_the_network_loads_is_refused(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("gradio")
    from stylefast.app.workspace import Workspace

    load, workspaces = Workspace.open, []
    with socket.socket() as other:
        other.bind((HOST, 0))
        port = other.getsockname()[1]

        def take(*arguments: Any, **options: Any) -> Workspace:
            other.listen()
            workspaces.append(load(*arguments, **options))
            monkeypatch.setattr(workspaces[0], "close", lambda: workspaces.append("closed"))
            return workspaces[0]

        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # does not listen yet, so that the port is free
        monkeypatch.setattr(Workspace, "open", take)
        files = ["--catalog", catalog, "--outdir", tmp_path / "out", "--engine", "eager"]
        assert refusal(*files, "--port", port) == f"--port must be free, got {port}: address already in use"
    assert workspaces[1:] == ["closed"]


def test_a_port_out_of_range_is_refused():
    assert refusal("--port", 70000) == "--port must be in [1, 65535], got 70000"


def test_a_catalog_that_is_missing_names_the_command(tmp_path: Path):
    pytest.importorskip("gradio")
    assert "stylefast catalog build" in refusal("--catalog", tmp_path / "absent.safetensors")


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    assert 'pip install "stylefast[app]"' in refusal()
