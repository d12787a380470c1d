# SPDX-License-Identifier: Apache-2.0
"""Tests of the verdicts of the stage `sanitizers` on logs of compute-sanitizer."""

from __future__ import annotations

import pytest
from gpu import sanitizers
from gpu.processes import Ended

CLEAN = {
    "memcheck": "========= COMPUTE-SANITIZER\na: called\n========= ERROR SUMMARY: 0 errors\n",
    "racecheck": "========= COMPUTE-SANITIZER\na: called\n"
    "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n",
}
INVALID = "========= COMPUTE-SANITIZER\n========= Invalid __global__ read of size 4 bytes\n=========     at f\n"
ENDED = "========= Error: process didn't terminate successfully\n========= Target application returned an error\n"
HAZARD = "========= Error: Race reported between Write access at f and Read access at g [8 hazards]\n"


@pytest.mark.parametrize(
    "name, status, log, expected",
    [
        ("memcheck: cuda", 0, CLEAN["memcheck"], "clean"),
        ("racecheck: cuda", 0, CLEAN["racecheck"], "clean"),
        ("memcheck: cuda", None, "========= COMPUTE-SANITIZER\na: called\n", "cut"),
        ("memcheck: cuda", 86, INVALID, "reports (1): Invalid __global__ read of size 4 bytes"),
        ("memcheck: cuda", None, INVALID, "reports (1): Invalid __global__ read of size 4 bytes"),
        ("racecheck: cuda", 0, CLEAN["racecheck"] + HAZARD, f"reports (1): {HAZARD[10:-1]}"),
        ("memcheck: cuda", 0, CLEAN["memcheck"].replace("a: called", ""), "nothing was called"),
        ("memcheck: cuda", 1, CLEAN["memcheck"], "ended with status 1"),
        ("memcheck: cuda", None, ENDED, "cut"),
        (sanitizers.PLANTED, 86, INVALID, "clean"),
        (sanitizers.PLANTED, 1, INVALID, "clean"),
        (sanitizers.PLANTED, 0, INVALID, "the planted fault was not reported"),
        (sanitizers.PLANTED, 0, CLEAN["memcheck"], "the planted fault was not reported"),
        (sanitizers.PLANTED, 86, CLEAN["memcheck"], "the planted fault was not reported"),
        (sanitizers.PLANTED, None, "", "the planted fault was not reported"),
    ],
)
def test_verdict_by_hand(name: str, status: int | None, log: str, expected: str):
    assert sanitizers.verdict(Ended(name, status, log)) == expected
