# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels agree with the reference on the instruction sets that the battery does not test here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cells import skip_unless

from stylefast.backends.native import instruction_set

OTHERS = [isa for isa in ("portable", "avx2", "avx512") if isa != instruction_set()]

SCRIPT = """
import sys
import torch
import test_battery, test_edge_cases
from cells import cells
from stylefast.backends.native import instruction_set
from stylefast.core.dtypes import DTYPES

torch.set_num_threads(2)
assert instruction_set() == sys.argv[1]
for param in cells():
    if param.values[0].backend == "cpu":
        test_battery.test_agrees_with_the_reference(*param.values)
for op in test_edge_cases.ASSIGNING:
    for dtype in DTYPES:
        test_edge_cases.test_exact_ties_go_to_the_lowest_index("cpu", op, dtype, "raw")
"""


@pytest.mark.parametrize("isa", [pytest.param(isa, marks=skip_unless("cpu")) for isa in OTHERS])
def test_samples_agree_and_ties_go_to_the_lowest_index(isa: str):
    tests = Path(__file__).parents[1]
    paths = (tests / "ops", tests / "support", tests.parent)
    environment = {**os.environ, "STYLEFAST_ISA": isa, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-c", SCRIPT, isa]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    errors = process.stderr
    assert process.returncode == 0 or f"STYLEFAST_ISA is {isa}, which this processor lacks" in errors, errors
