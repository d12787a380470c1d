# SPDX-License-Identifier: Apache-2.0
"""OpenVINO waits forever in a fork of a process that has used it, so that forks raise an error instead."""

import os

import pytest
from forked import printed

SCRIPT = """
import multiprocessing
from stylefast.generators import load

def report(call):
    try:
        print(call(), flush=True)
    except (RuntimeError, ValueError) as error:
        print(error, flush=True)

generator = load("toy:sg2", engine="openvino")
w = generator.latents([1])
styles = generator.styles(w)
for call in (lambda: generator.synthesize(styles, w), lambda: load("toy:sg2", engine="openvino"),
             lambda: load("toy:sg2", engine="auto").engine.name):
    child = multiprocessing.get_context("fork").Process(target=report, args=(call,))
    child.start()
    child.join(30)
    if child.is_alive():
        child.kill()
        print("hangs", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks")
def test_forks_that_openvino_cannot_run_in_are_refused():
    pytest.importorskip("openvino", reason="OpenVINO is an extra")
    error = "OpenVINO cannot run in a fork of a process that has used it; start processes with the method spawn instead"
    refused = f"engine must be able to run toy:sg2, got openvino: {error}"
    assert printed(SCRIPT) == [error, refused, "eager"]
