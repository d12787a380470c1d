# SPDX-License-Identifier: Apache-2.0
"""The page refuses requests of other web sites, which a browser of this machine could send."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

pytest.importorskip("gradio")

from stylefast.app.local_requests import REFUSAL  # noqa: E402
from stylefast.app.page import create_page, serve  # noqa: E402
from stylefast.app.workspace import Workspace  # noqa: E402

FILE = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.csv"\r\n\r\n1\r\n--x--\r\n'
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.fixture(scope="module")
def port(workspace: Workspace) -> Iterator[int]:
    """Port of the page."""
    page = create_page(workspace)
    yield urlsplit(serve(page, 0, wait=False)).port or 0
    page.close(verbose=False)


def ask(port: int, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, str]:
    """Return the status and the body of an answer. "PORT" in the headers is the port of the page."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {name: value.replace("PORT", str(port)) for name, value in headers.items()}
    connection.request(method, path, body, {"Host": f"127.0.0.1:{port}"} | headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:PORT", "LOCALHOST"])
def test_names_of_this_machine_are_answered(port: int, host: str):
    assert ask(port, "GET", "/config", {"Host": host})[0] == 200
    assert ask(port, "POST", "/gradio_api/upload", FORM | {"Host": host, "Origin": f"http://{host}"}, FILE)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:PORT", "localhost.evil.example", "127.0.0.1:@a", ""])
def test_other_hosts_are_refused(port: int, host: str):
    for path in ("/", "/config", "/gradio_api/heartbeat/a", "/gradio_api/queue/data?session_hash=a"):
        assert ask(port, "GET", path, {"Host": host}) == (403, REFUSAL)
    own = {"Host": host, "Origin": f"http://{host}", "Content-Type": "application/json"}
    assert ask(port, "POST", "/gradio_api/queue/join", own, b"{}") == (403, REFUSAL)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://[", ""])
def test_other_origins_are_refused(port: int, origin: str):
    assert ask(port, "POST", "/gradio_api/upload", FORM | {"Origin": origin}, FILE) == (403, REFUSAL)
    assert ask(port, "GET", "/config", {"Origin": origin}) == (403, REFUSAL)


def test_websockets_of_other_origins_are_refused(port: int):
    lines = ["GET /gradio_api/stream/a HTTP/1.1", f"Host: 127.0.0.1:{port}", "Origin: http://evil.example"]
    lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    lines += ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = client.makefile("rb").read().decode()  # until the server closes the connection
    assert answer.startswith("HTTP/1.1 403") and answer.endswith(REFUSAL)
