# SPDX-License-Identifier: Apache-2.0
"""Every instruction set of the compiled kernels agrees, not only the one that this processor would choose."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cells import skip_unless

SCRIPT = """
import sys
import torch
import test_edges, test_ops
from cells import cells
from stylefast.backends.native import instruction_set
from stylefast.ops.op import DTYPES

torch.set_num_threads(2)
assert instruction_set() == sys.argv[1]
for param in cells():
    if param.values[0].backend == "cpu":
        test_ops.test_agrees(*param.values)
for op in test_edges.ASSIGNING:
    for dtype in DTYPES:
        test_edges.test_exact_ties_go_to_the_lowest_index("cpu", op, dtype, "raw")
"""


@pytest.mark.parametrize("isa", [pytest.param(isa, marks=skip_unless("cpu")) for isa in ("portable", "avx2", "avx512")])
def test_every_sample_agrees_and_ties_go_to_the_lowest(isa: str):
    here = Path(__file__).parent
    environment = {**os.environ, "STYLEFAST_ISA": isa, "PYTHONPATH": os.pathsep.join(map(str, (here, here.parent)))}
    command = [sys.executable, "-c", SCRIPT, isa]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 or f"STYLEFAST_ISA is {isa}, which this processor lacks" in done.stderr, done.stderr
