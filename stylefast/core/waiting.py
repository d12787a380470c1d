# SPDX-License-Identifier: Apache-2.0
"""How OpenMP threads of the command line wait.

By default, idle threads of GNU OpenMP spin for milliseconds. Two commands on the same processors then take each other's
time. The import of this module makes the threads of a command sleep instead. OpenMP reads the environment when torch is
imported, so the package imports this module first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import PurePath

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def is_command(argv: Sequence[str], original: Sequence[str]) -> bool:
    """Return whether this process runs `stylefast` or `python -m stylefast`.

    Args:
        argv: `sys.argv`. Its first item is "-m" while Python imports the package for `python -m`.
        original: `sys.orig_argv`.
    """
    if argv[:1] == ["-m"]:
        return "-mstylefast" in original or ("-m", "stylefast") in zip(original, original[1:], strict=False)
    return bool(argv) and PurePath(argv[0]).stem == "stylefast"


CHOSEN: dict[str, str] = {}  # variables that this module sets; benchmarks of a command must not inherit them
if is_command(getattr(sys, "argv", []), sys.orig_argv) and not any(name in os.environ for name in VARIABLES):
    CHOSEN["OMP_WAIT_POLICY"] = "passive"
os.environ.update(CHOSEN)
