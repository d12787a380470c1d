# SPDX-License-Identifier: Apache-2.0
"""`stylefast app` serves the page at the address that it prints, and Ctrl-C ends it cleanly while it computes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(find_spec("gradio") is None, reason="the page needs gradio")
SESSION = "session"
BUILD = {"parts-k": 3, "parts-resolution": 16, "parts-restarts": 1, "parts-images": 20_000}
BATCH = {"batch-source": "Grid of seeds", "batch-targets": "0-9999", "batch-references": "1,2"}
BATCH |= {"batch-query": "adaptive", "batch-epsilon": "1", "batch-rho": 0.1, "batch-strength": 1}
BATCH |= {"batch-chosen": ["eyes"], "batch-folder": "long", "batch-format": "jpg", "batch-size": 1}


class Client:
    """Requests to the page, as its frontend sends them in one session.

    Args:
        address: Address of the page.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        with urllib.request.urlopen(f"{address}/config", timeout=30) as answer:
            self._config = json.load(answer)
        self._ids = {c["id"]: c["props"].get("elem_id") for c in self._config["components"]}

    def start(self, values: dict[str, Any], output: str) -> None:
        """Trigger the event with an output whose inputs with an id are those of the values."""
        (event,) = (
            event
            for event in self._config["dependencies"]
            if {name for i in event["inputs"] if (name := self._ids[i])} == values.keys()
            and output in [self._ids[i] for i in event["outputs"]]
        )
        data = [values.get(self._ids[i]) for i in event["inputs"]]
        body = {"data": data, "fn_index": event["id"], "session_hash": SESSION}
        request = urllib.request.Request(
            f"{self._address}/gradio_api/queue/join", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=30).close()

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield what the page reports about the event."""
        url = f"{self._address}/gradio_api/queue/data?session_hash={SESSION}"
        with urllib.request.urlopen(url, timeout=60) as stream:
            for line in stream:
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])


@pytest.mark.parametrize(
    "values, output, begins",
    [(BUILD, "parts-build-status", "progress"), (BATCH, "batch-progress", "process_generating")],
    ids=["build", "batch"],
)
def test_the_page_is_served_until_an_interrupt_ends_a_task(
    page_process: subprocess.Popen[str], values: dict[str, Any], output: str, begins: str
):
    assert page_process.stdout is not None
    address = re.search(r"http://127\.0\.0\.1:\d+", line := page_process.stdout.readline())
    assert address, line
    with urllib.request.urlopen(address[0], timeout=30) as answer:
        assert b"stylefast" in answer.read()
    client = Client(address[0])
    client.start(values, output)
    assert any(message["msg"] == begins for message in client.messages())
    page_process.send_signal(signal.SIGINT)
    output, errors = page_process.communicate(timeout=60)
    assert (page_process.returncode, output, errors) == (0, "", "Loading toy:sg2\n")
