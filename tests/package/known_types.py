# SPDX-License-Identifier: Apache-2.0
"""Fail if pyright's report on standard input gives a known type to too few public symbols.

The argument is the least fraction of the public symbols that must have a known type.
"""

import json
import sys

minimum = float(sys.argv[1])
fraction = json.load(sys.stdin)["typeCompleteness"]["completenessScore"]
print(f"{fraction:.1%} of the public symbols have a known type")
sys.exit(0 if fraction >= minimum else f"at least {minimum:.1%} are required: see pyright --verifytypes stylefast")
