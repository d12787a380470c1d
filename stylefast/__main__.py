# SPDX-License-Identifier: Apache-2.0
"""Command line, `python -m stylefast`, also under torchrun: `torchrun --nproc-per-node 8 -m stylefast edit ...`.

Without arguments it prints the versions in use, the op table with a mark in each cell that can run, and the reasons why
other cells cannot.
"""

import sys

if __name__ == "__main__":
    from stylefast.cli import main

    if len(sys.argv) == 1:
        sys.argv.append("info")
    main()
