# SPDX-License-Identifier: Apache-2.0
"""`python -m stylefast`: the versions in use, the op table with a mark where a cell can run, and why others cannot.

With arguments it is the command line: `torchrun --nproc-per-node 8 -m stylefast edit ...`.
"""

import sys
from importlib import import_module

from .cli.report import report

if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(report())
    else:
        import_module("stylefast.cli").main()
